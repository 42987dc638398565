"""Test images with heat maps: best, median and worst, and one of each defect type."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from realnet.datasets.images import read_image
from realnet.evaluation.stored import pixel_labelled
from realnet.metrics import image_separation
from realnet.plots import style
from realnet.plots.chain import reference
from realnet.plots.made import Drawn, Entry, Skipped, arrays, paged, part_of
from realnet.plots.qualitative import SIDE, WORDS, Tile, heat_map_panels, heat_scale
from realnet.tables.published import title
from realnet.tables.runs import Results

MOST_TYPES, PICTURE = 7, 256  # defect types of a category; pixels of an image
ARRAYS = ("margins", "masks", "labels", "image_scores", "paths", "defects")


def chosen(order: np.ndarray, defects: Sequence[str]) -> list[tuple[str, int]]:
    """(caption, image): best, median and worst by ``order`` (NaN: not defective), then the median
    of each defect type, if there are several; no image twice."""
    ranking = [i for i in np.argsort(-order, kind="stable").tolist() if np.isfinite(order[i])]
    if not ranking:
        return []
    places = {"best": 0, "median": (len(ranking) - 1) // 2, "worst": len(ranking) - 1}
    taken: dict[int, str] = {}
    for words, place in places.items():
        taken.setdefault(ranking[place], words)
    found = [(f"{words}: {defects[index]}", index) for index, words in taken.items()]
    names = sorted({str(defects[i]) for i in ranking})
    for defect in names[:MOST_TYPES] if len(names) > 1 else ():
        mine = [i for i in ranking if str(defects[i]) == defect]
        middle = (len(mine) - 1) // 2
        free = sorted(
            (k for k in range(len(mine)) if mine[k] not in taken), key=lambda k: abs(k - middle)
        )
        if free:
            taken[mine[free[0]]] = defect
            found.append((defect, mine[free[0]]))
    return found


def make(found: Results, results: Path, dataset: str) -> Iterator[Entry]:
    """Pages, from ``scores.npz`` of the reference variant's first seed and the test images."""
    name, heading = f"panels_{dataset}", f"Test images and heat maps, {title(dataset)}"
    variant, categories, masked = found.matrix.variants[0], {}, True
    some_bare = False  # whether images beside others have no pixel ground truth
    for category, folder in reference(found, dataset).items():
        data = arrays(folder / "scores.npz")
        if data is None or not len(data["labels"]):
            continue
        masked = bool(data["has_masks"]) if "has_masks" in data else True
        defective, labelled = data["labels"] > 0, pixel_labelled(data)
        if masked:
            # A defect that vanished at this resolution has no separation: it ranks last.
            separation = image_separation(data["margins"], data["masks"], labelled)
            order = np.where(labelled, np.nan_to_num(separation, nan=-1.0), np.nan)
        else:
            order = data["image_scores"].astype(float)
        order = np.where(defective, order, np.nan)
        shown = chosen(order, data["defects"].tolist())
        if masked:
            bare = np.flatnonzero(defective & ~labelled)
            shown += [
                (f"no mask: {data['defects'][index]}", index)
                for index in bare[np.argsort(-data["image_scores"][bare], kind="stable")][
                    :1
                ].tolist()
            ]
            some_bare |= len(bare) > 0
        scale = heat_scale(data["margins"])
        tiles = [
            Tile(
                _picture(Path(str(data["paths"][index]))),
                data["masks"][index].copy() if masked and labelled[index] else None,
                data["margins"][index].copy(),
                words,
                scale,
            )
            for words, index in shown
        ]
        if tiles:
            categories[category] = tiles
    if not categories:
        yield Skipped(
            name, heading, f"no scores.npz with defective images of variant {variant}", dataset
        )
        return
    most = max(len(tiles) for tiles in categories.values())
    block = WORDS + 2 * min((style.WIDTH - SIDE) / most, 0.98) + 0.06
    parts = style.pages(tuple(categories), max(1, int(style.PAGE / block)))
    by = "their contribution to the pixel AUROC" if masked else "image score"
    outline = ", with the outline of the ground truth" if masked else " (the dataset has no masks)"
    last = ", then the defective image without mask that has the highest image score"
    for page, names in enumerate(parts):
        caption = (
            f"Defective test images of {title(dataset)} and heat maps of variant {variant}, first"
            f" seed{outline}. Best, median and worst of each category by {by}, then the median of"
            f" each defect type{last if some_bare else ''}; no image twice, none chosen by hand."
            " One heat scale per category, from the median margin to the 99.8th percentile."
        )
        yield Drawn(
            *(paged(name, page), heading + part_of(page, len(parts)), caption),
            heat_map_panels({c: categories[c] for c in names}), dataset, style.PICTURES,
        )  # fmt: skip


def _picture(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    image = Image.fromarray(read_image(path))
    image.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    return np.asarray(image)
