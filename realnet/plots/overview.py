"""Heat maps of typical defective images: the figure at the top of a report."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from realnet.core.errors import UserError
from realnet.evaluation.stored import pixel_labelled
from realnet.metrics import image_separation
from realnet.plots import style
from realnet.plots.qualitative import heat_scale
from realnet.plots.style import FAINT
from realnet.tables.published import title
from realnet.tables.runs import Results

CAPTION = (
    "Typical defective test images of every category, with ground truth and the heat map of the"
    " reference variant, first seed, last checkpoint: those at 1/3 and 2/3 (with more than four"
    " categories: at 1/2) of a ranking by how well the defect is separated. One heat scale"
    " per category, from the median margin to the 99.8th percentile."
)
ARRAYS = ("margins", "masks", "labels", "image_scores", "paths", "defects")
PICTURE = 256  # pixels, longest side of an input
PER_BAND = 8  # columns of a band
GAP, CATEGORY_GAP, TITLE = 0.03, 0.12, 0.24  # inches


@dataclass(frozen=True)
class Strip:
    """One column of the overview."""

    dataset: str
    category: str
    defect: str
    image: np.ndarray | None  # uint8 [h, w, 3]; None if the file does not exist
    mask: np.ndarray | None  # bool [S, S]; None: the dataset has no masks
    margin: np.ndarray  # float32 [S, S]
    scale: Any  # of the category


def overview(results: Results) -> tuple[Figure | None, list[str]]:
    """Input, ground truth and heat map of typical defective test images, category by category.

    Reference variant, first seed; from ``scores.npz`` beside the metrics files and the images that
    it lists. Per category, of the defective images ordered by
    :func:`realnet.metrics.image_separation`, those at 1/3 and 2/3 (one at 1/2 with more
    than four categories): neither the best nor the worst; the second has another defect type if
    there are several. Without masks they are ordered by image score. Images without pixel ground
    truth beside others that have one are not shown. One heat scale per category.

    Returns the figure (None if no category has scores) and the paths that were not found.
    """
    strips: list[list[Strip]] = []
    absent: list[str] = []
    several = sum(map(len, results.categories.values())) > 4
    for run, path in results.files.items():
        first = (results.matrix.seeds[0], results.matrix.variants[0])
        if (run.seed, run.variant) != first or run not in results.runs:
            continue
        scores = path.with_name("scores.npz")
        if not scores.is_file():
            absent.append(str(scores))
            continue
        chosen = _strips(scores, run.dataset, run.category, (0.5,) if several else (1 / 3, 2 / 3))
        absent += [missing for _, missing in chosen if missing]
        if chosen:
            strips.append([strip for strip, _ in chosen])
    return (_draw(strips) if strips else None), absent


def _strips(
    path: Path, dataset: str, category: str, places: tuple[float, ...]
) -> list[tuple[Strip, str]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {key: file[key] for key in ARRAYS}
            has_masks = bool(file["has_masks"]) if "has_masks" in file else True
            labelled = pixel_labelled(file)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a scores.npz of the stage evaluate ({error})") from None
    if has_masks:
        # NaN: no defect in the mask.
        order = image_separation(data["margins"], data["masks"], labelled)
    else:
        order = np.where(data["labels"] > 0, data["image_scores"], np.nan)
    ranking = [i for i in np.argsort(order, kind="stable").tolist() if order[i] >= 0]
    seen: Counter[str] = Counter()
    result = []
    scale = heat_scale(data["margins"])
    for place in places[: len(ranking)]:
        target = place * (len(ranking) - 1)
        # Nearest to the place in the ranking, among the defect types shown least so far.
        defects = data["defects"]
        chosen = min(
            range(len(ranking)),
            key=lambda rank: (seen[str(defects[ranking[rank]])], abs(rank - target), rank),
        )
        index = ranking.pop(chosen)
        defect, file = str(defects[index]), str(data["paths"][index])
        seen[defect] += 1
        image = _picture(Path(file))
        mask = data["masks"][index] if has_masks else None
        margin = data["margins"][index]
        strip = Strip(dataset, category, defect, image, mask, margin, scale)
        result.append((strip, "" if image is not None else file))
    return result


def _picture(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    from realnet.datasets.images import read_image

    image = Image.fromarray(read_image(path))
    image.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    return np.asarray(image)


@style.styled
def _draw(categories: list[list[Strip]]) -> Figure:
    """Bands of categories, each of three rows; each dataset starts a new band under its name."""
    per_band = max(1, PER_BAND // max(len(strips) for strips in categories))
    datasets = list(dict.fromkeys(strips[0].dataset for strips in categories))
    bands = []
    for dataset in datasets:
        own = [strips for strips in categories if strips[0].dataset == dataset]
        bands += style.pages(own, per_band)
    titles = {
        number: title(band[0][0].dataset)
        for number, band in enumerate(bands)
        if len(datasets) > 1
        and (not number or bands[number - 1][0][0].dataset != band[0][0].dataset)
    }
    side, foot = 0.22, 0.3
    spaces = max(
        sum(len(strips) for strips in band) * GAP + len(band) * (CATEGORY_GAP - GAP)
        for band in bands
    )
    tile = (style.WIDTH - side - 0.05 - spaces) / max(sum(map(len, band)) for band in bands)
    tile = min(tile, 1.3)
    names = {
        strips[0].category: style.fitted(
            strips[0].category, 0.95 * len(strips) * (tile + GAP), _size(strips)
        )
        for strips in categories
    }
    head = 0.24 + 0.13 * max(name.count("\n") for name in names.values())
    band_height = head + 3 * tile + 2 * GAP + foot
    canvas = style.Canvas(len(bands) * band_height + len(titles) * TITLE)
    bottom = 0.0
    for number, band in enumerate(bands):
        if number in titles:
            canvas.text(side, bottom + 0.06, titles[number], fontsize=style.TITLE,
                        fontweight="bold")  # fmt: skip
            bottom += TITLE
        top = bottom + head
        bottom += band_height
        for row, name in enumerate(("input", "ground truth", "heat map")):
            canvas.text(*(side * 0.5, top + row * (tile + GAP) + tile / 2, name), rotation=90,
                        ha="center", va="center", fontsize=style.SMALL, color=FAINT)  # fmt: skip
        left = side
        for strips in band:
            canvas.text(*(left, top - 0.05, names[strips[0].category]), va="bottom",
                        fontweight="bold", fontsize=_size(strips), linespacing=1.0)  # fmt: skip
            for strip in strips:
                for row in range(3):
                    _tile(canvas, left, top + row * (tile + GAP), tile, row, strip)
                defect = style.wrapped(strip.defect.replace("_", " "), tile + 0.04)
                canvas.text(left + tile / 2, top + 3 * tile + 2 * GAP + 0.03, defect, ha="center",
                            fontsize=style.SMALL, color=FAINT, linespacing=0.95)  # fmt: skip
                left += tile + GAP
            left += CATEGORY_GAP - GAP
    return canvas.figure


def _size(strips: list[Strip]) -> float:
    return style.TEXT if len(strips) > 1 else style.SMALL


def _tile(canvas: style.Canvas, left: float, top: float, tile: float, row: int, strip: Strip):
    place = (left, top, tile, tile)
    if row == 2:
        canvas.picture(*place, strip.margin, cmap=style.HEAT, norm=strip.scale)
    elif row == 1:
        canvas.picture(
            *place, strip.mask, "no mask", cmap="gray", vmin=0, vmax=1, interpolation="nearest"
        )
    else:
        canvas.picture(*place, strip.image, "no image")
