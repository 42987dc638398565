"""The published counts against the totals that the papers and the official lists give."""

from pathlib import Path

import pytest
import yaml

import realnet.datasets
from realnet.datasets.categories import KNOWN_CATEGORIES

TABLE = yaml.safe_load(
    (Path(realnet.datasets.__file__).parent / "published_counts.yaml").read_text(encoding="utf-8")
)

# Training images, normal and anomalous test images, defect types.
TOTALS = {
    "mvtec_ad": {
        "bottle": (209, 20, 63, 3), "cable": (224, 58, 92, 8), "capsule": (219, 23, 109, 5),
        "carpet": (280, 28, 89, 5), "grid": (264, 21, 57, 5), "hazelnut": (391, 40, 70, 4),
        "leather": (245, 32, 92, 5), "metal_nut": (220, 22, 93, 4), "pill": (267, 26, 141, 7),
        "screw": (320, 41, 119, 5), "tile": (230, 33, 84, 5), "toothbrush": (60, 12, 30, 1),
        "transistor": (213, 60, 40, 4), "wood": (247, 19, 60, 5), "zipper": (240, 32, 119, 7),
    },
    "mpdd": {
        "bracket_black": (289, 32, 47, 2), "bracket_brown": (185, 26, 51, 2),
        "bracket_white": (110, 30, 30, 2), "connector": (128, 30, 14, 1),
        "metal_plate": (54, 26, 71, 3), "tubes": (122, 32, 69, 1),
    },
    "btad": {"01": (400, 21, 49, 1), "02": (399, 30, 200, 1), "03": (1000, 400, 41, 1)},
    "visa": {
        "candle": (900, 100, 100, 1), "capsules": (542, 60, 100, 1), "cashew": (450, 50, 100, 1),
        "chewinggum": (453, 50, 100, 1), "fryum": (450, 50, 100, 1),
        "macaroni1": (900, 100, 100, 1), "macaroni2": (900, 100, 100, 1),
        "pcb1": (904, 100, 100, 1), "pcb2": (901, 100, 100, 1), "pcb3": (905, 101, 100, 1),
        "pcb4": (904, 101, 100, 1), "pipe_fryum": (450, 50, 100, 1),
    },
}  # fmt: skip
SUMS = {  # over all categories
    "mvtec_ad": (3629, 467, 1258, 73),
    "mpdd": (888, 176, 282, 11),
    "btad": (1799, 451, 290, 3),
    "visa": (8659, 962, 1200, 12),
}


def totals(category):
    defects = {kind: n for kind, n in category["test"].items() if kind != "good"}
    return (
        category["train"]["good"],
        category["test"]["good"],
        sum(defects.values()),
        len(defects),
    )


def test_the_datasets_have_their_categories_in_order():
    assert set(TABLE) == {*SUMS, "magnetic_tile"}
    for dataset, categories in TABLE.items():
        assert tuple(categories) == KNOWN_CATEGORIES[dataset]


@pytest.mark.parametrize("dataset", SUMS)
def test_counts_sum_to_the_published_totals(dataset):
    found = {name: totals(category) for name, category in TABLE[dataset].items()}
    assert found == TOTALS[dataset]
    assert tuple(map(sum, zip(*found.values(), strict=True))) == SUMS[dataset]


def test_every_entry_has_one_form():
    for categories in TABLE.values():
        for category in categories.values():
            assert list(category) == ["train", "test"]
            assert list(category["train"]) == ["good"]
            kinds = list(category["test"])
            assert kinds[0] == "good" and kinds[1:] == sorted(kinds[1:]) and len(kinds) > 1
            assert all(type(n) is int and n > 0 for n in category["test"].values())
