"""Defective images with empty masks: in every image metric, in no pixel metric."""

import csv
import shutil

import numpy as np
import pytest
from builders import evaluate, make_backbone, params_for, prepare, select_features, train_realnet
from sklearn.metrics import roc_auc_score

from realnet.config.params import load
from realnet.config.sections import MaskRule, OwnLayout, Prepare
from realnet.core.io import read_csv, read_json, write_png
from realnet.datasets.demo.demo_dataset import make_demo
from realnet.datasets.items import read_manifest
from realnet.datasets.layouts import list_category
from realnet.evaluation.assemble import COUNTS, DETAILS, IMAGE_METRICS, PIXEL_METRICS
from realnet.evaluation.maps import Request, measure
from realnet.metrics import BOOTSTRAPPED

RUN = ("mine", "nut", 0)
EMPTIED = 2
LAYOUTS = {"folders": {}, "table": {"mine": OwnLayout(table="{category}.csv")}}


def stage(name):
    return params_for(name, "texture", training={"steps": 20, "select_every": 10})


def write_table(root):
    """Write a split table with the images and masks of the category nut."""
    rows = [
        {
            "path": entry.path.relative_to(root).as_posix(),
            "split": entry.split,
            "defect": entry.defect,
            "mask": entry.mask_path.relative_to(root).as_posix() if entry.mask_path else "",
        }
        for entry in list_category(root, "mine", "nut").entries
    ]
    with (root / "nut.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two masks mark nothing. Evaluations: <layout>-<rule>, and `bare`: all masks mark nothing."""
    root = tmp_path_factory.mktemp("image_only")
    make_demo(load(overrides={"preset": "smoke"}).data.demo, root / "demo")
    shutil.copytree(root / "demo/hex_nut", root / "raw/nut")
    masks = sorted((root / "raw/nut/ground_truth").rglob("*.png"))
    blank(masks[:1] + masks[-1:])
    write_table(root / "raw")
    shutil.copytree(root / "raw", root / "bare")
    blank(sorted((root / "bare/nut/ground_truth").rglob("*.png")))
    cases = [(f"{x}-{rule}", x, rule) for x in LAYOUTS for rule in ("image_only", "exclude")]
    for name, layout, rule in [*cases, ("bare", "folders", "image_only")]:
        settings = Prepare(
            allow_partial=False, layouts=LAYOUTS[layout], masks={"mine": MaskRule(empty=rule)}
        )
        raw = root / ("bare" if name == "bare" else "raw")
        prepare("mine", "nut", raw, root / name / "data", settings)
    manifest = root / "folders-image_only/data/manifest.csv"
    make_backbone(stage("backbone"), root / "backbone")
    select_features(stage("afs"), manifest, root / "backbone", None, *RUN, root / "afs")
    inputs = manifest, root / "backbone", root / "afs", None
    train_realnet(stage("realnet"), *inputs, *RUN, root / "realnet")
    for name in [*(case[0] for case in cases), "bare"]:
        manifest = root / name / "data/manifest.csv"
        model = root / "realnet"
        evaluate(stage("evaluate"), manifest, model, *RUN, "base", root / name / "results")
    return root


def blank(masks):
    for path in masks:
        write_png(path, np.zeros((128, 128), np.uint8))


@pytest.fixture(params=LAYOUTS)
def both(request, made):
    """Folders of the evaluations with all images, and without those that have no ground truth."""
    return tuple(made / f"{request.param}-{rule}/results" for rule in ("image_only", "exclude"))


def test_pixel_metrics_are_those_without_the_images(both):
    kept, excluded = (read_json(folder / "metrics.json") for folder in both)
    for name in (*PIXEL_METRICS, *COUNTS, *DETAILS):
        assert kept[name] == excluded[name] and kept[name] is not None, name
    for name in BOOTSTRAPPED:
        if name in PIXEL_METRICS:
            assert kept["intervals"][name] == excluded["intervals"][name]
    for name in ("official_last", "official_best"):
        assert kept["protocols"][name] == excluded["protocols"][name] is not None, name
    curves = [np.load(folder / "curves.npz") for folder in both]
    for name in ("roc", "pr", "pro"):
        np.testing.assert_array_equal(*(each[f"{name}_y"] for each in curves))
    assert read_csv(both[0] / "regions.csv") == read_csv(both[1] / "regions.csv")


def test_image_metrics_are_those_of_all_images(both):
    kept, excluded = (read_json(folder / "metrics.json") for folder in both)
    rows, fewer = (read_csv(folder / "images.csv") for folder in both)
    labels = [int(row["label"]) for row in rows]
    auroc = roc_auc_score(labels, [float(row["score"]) for row in rows])
    assert kept["image_auroc"] == pytest.approx(auroc, abs=1e-9)
    assert len(rows) == len(fewer) + EMPTIED
    assert kept["counts"]["test_anomalous"] == excluded["counts"]["test_anomalous"] + EMPTIED
    assert kept["counts"]["image_only"] == EMPTIED and excluded["counts"]["image_only"] == 0
    lost = [counted["counts"]["anomalous_without_pixels"] for counted in (kept, excluded)]
    assert lost[0] == lost[1]
    by_protocol = kept["protocols"]["strict_last"]
    assert {name: by_protocol[name] for name in IMAGE_METRICS} == {
        name: kept[name] for name in IMAGE_METRICS
    }


def test_the_files_name_the_images(both):
    kept, excluded = both
    rows = read_csv(kept / "images.csv")
    emptied = [row["path"] for row in rows if row["pixel_labelled"] == "0"]
    items = read_manifest(kept.parent / "data/manifest.csv")
    assert emptied == [str(item.path) for item in items if not item.pixel_labelled]
    summary = read_json(kept.parent / "data/summary.json")
    assert sorted(one["path"] for one in summary["image_only"]) == sorted(emptied)
    with np.load(kept / "scores.npz") as stored:
        assert stored["paths"][~stored["pixel_labelled"]].tolist() == emptied
    # Files of datasets without such images are as they were.
    assert "pixel_labelled" not in read_csv(excluded / "images.csv")[0]
    with np.load(excluded / "scores.npz") as stored:
        assert "pixel_labelled" not in stored


def test_stored_maps_are_measured_alike(both, tmp_path):
    """`scores.npz` of either kind, and stacks with the images' labels in `images.csv`."""
    for folder in both:
        written = read_json(folder / "metrics.json")
        found = measure(Request(folder / "scores.npz"))
        for name in (*IMAGE_METRICS, *PIXEL_METRICS, *COUNTS):
            assert found[name] == written[name], name
    kept = np.load(both[0] / "scores.npz")
    np.save(tmp_path / "maps.npy", kept["margins"])
    masks = kept["masks"].copy()
    masks[~kept["pixel_labelled"]] = True  # ignored
    np.save(tmp_path / "masks.npy", masks)
    options = {"compat": True, "logits": True}
    given = (tmp_path / "maps.npy", tmp_path / "masks.npy", both[0] / "images.csv")
    found = measure(Request(*given, **options))
    expected = measure(Request(both[1] / "scores.npz", **options))
    official = [name for name in found if name.endswith("_official")]
    assert len(official) == 3
    for name in (*PIXEL_METRICS, *COUNTS, "by_size", "pro_at", *official):
        assert found[name] == expected[name], name
    for name in ("pro", "pixel_auroc"):
        assert found["intervals"][name] == pytest.approx(expected["intervals"][name], abs=1e-3)
    assert found["images"] == expected["images"] + EMPTIED
    (note,) = [text for text in found["notes"] if "image metrics only" in text]
    assert note.startswith(f"{EMPTIED} images without pixel ground truth") and "maps.npy[" in note
    assert not any("without a pixel in the mask" in text for text in found["notes"])


def test_a_category_without_any_ground_truth_has_image_metrics_alone(made):
    bare = read_json(made / "bare/results/metrics.json")
    kept = read_json(made / "folders-image_only/results/metrics.json")
    assert bare["has_masks"] is False
    assert all(bare[name] is None for name in (*PIXEL_METRICS, *COUNTS))
    assert [bare[name] for name in IMAGE_METRICS] == [kept[name] for name in IMAGE_METRICS]
    assert bare["counts"]["image_only"] == bare["counts"]["test_anomalous"]
    found = measure(Request(made / "bare/results/scores.npz"))
    assert found["image_auroc"] == bare["image_auroc"] and found["pro"] is None
