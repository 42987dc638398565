"""The foreground rules, each applied to one training image of its category."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from realnet.config.params import stage_params
from realnet.config.sections import Prepare
from realnet.config.stage_params import DataParams
from realnet.core.errors import UserError
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.datasets.images import load_images
from realnet.datasets.items import Entry, read_manifest
from realnet.datasets.layouts import list_categories, list_category
from realnet.plots.style import FAINT, INK, bare, save_figure
from realnet.synthesis.foreground import describe, foregrounds, rule_for

TITLES = {
    **{"mvtec_ad": "MVTec-AD", "mpdd": "MPDD", "btad": "BTAD", "visa": "VisA"},
    **{"magnetic_tile": "Magnetic tiles", "demo": "Demo"},
}
SIZE = 256  # pixels: the resolution for which the rules define their kernels
VOTERS = 24  # images from which the automatic rule is estimated
OUTLINE = "#d6006c"
PAPER = 244  # grey level towards which the background is faded

# Inches.
ACROSS, TILE, INNER, GAP = 6, 0.98, 0.04, 0.16
TEXT, HEAD, BLOCK, TOP, EDGE = 0.52, 0.3, 0.1, 0.74, 0.12


@dataclass(frozen=True)
class Example:
    """The rule of one category, applied to an image."""

    dataset: str
    category: str
    image: np.ndarray  # uint8 [256, 256, 3], the first training image by name
    mask: np.ndarray  # bool [256, 256], its foreground
    rule: dict


def run(names: Sequence[str], root: Path, manifests: Path, out: Path, params: str) -> None:
    """`realnet data foregrounds`: find the images, draw, save.

    Raises:
        UserError: no such dataset or category, no data, or an image that cannot be read.
    """
    settings = stage_params(params, DataParams).prepare
    targets = list(_targets(names, root, manifests, settings))
    if not targets:
        raise UserError(
            f"no dataset in {root} and no manifest in {manifests}; put a dataset there, or"
            " render the demo dataset with `realnet data demo`"
        )
    figure = draw([example(*target, root, manifests, settings) for target in targets])
    save_figure(out, figure, dpi=130)
    print(f"{len(targets)} categories: {out}")


def example(dataset: str, category: str, root: Path, manifests: Path, settings: Prepare) -> Example:
    """The rule of a category on its first training image.

    The images are those of the manifest if it exists, else of the folders. The automatic rule is
    estimated from up to ``VOTERS`` images, evenly spaced.
    """
    entries = [
        e for e in _entries(dataset, category, root, manifests, settings) if e.split == "train"
    ]
    rule = rule_for("rules", dataset, category)
    step = max(1, len(entries) // VOTERS) if rule["method"] == "auto" else len(entries)
    images = load_images(entries[::step][:VOTERS], SIZE)
    mask = foregrounds(images, rule)[0].numpy()
    return Example(dataset, category, images[0].permute(1, 2, 0).numpy(), mask, rule)


def _entries(
    dataset: str, category: str, root: Path, manifests: Path, settings: Prepare
) -> Sequence[Entry]:
    manifest = manifests / dataset / category / "manifest.csv"
    if manifest.is_file():
        return read_manifest(manifest)
    return list_category(root / dataset, dataset, category, settings).entries


def _targets(
    names: Sequence[str], root: Path, manifests: Path, settings: Prepare
) -> Iterator[tuple[str, str]]:
    """(dataset, category) of each ``DATASET[/CATEGORY]``; without names, of everything found."""
    if not names:
        there = {
            p.name for folder in (root, manifests) if folder.is_dir() for p in folder.iterdir()
        }
        known = [name for name in (*TITLES, *sorted(there - set(TITLES))) if name in there]
        for dataset in known:
            yield from ((dataset, c) for c in _categories(dataset, root, manifests, settings))
        return
    for name in names:
        dataset, _, category = name.strip("/").partition("/")
        found = [category] if category else _categories(dataset, root, manifests, settings)
        if not found:
            raise UserError(
                f"{root / dataset}: no category of dataset {dataset} with training images, and"
                f" no manifest in {manifests / dataset}; put the dataset there, or a link to it"
            )
        yield from ((dataset, c) for c in found)


def _categories(dataset: str, root: Path, manifests: Path, settings: Prepare) -> list[str]:
    """Categories with a manifest or with training images, in the published order."""
    found = {p.parent.name for p in (manifests / dataset).glob("*/manifest.csv")}
    found |= set(list_categories(root / dataset, dataset, settings.layouts))
    published = KNOWN_CATEGORIES.get(dataset, ())
    return [*(c for c in published if c in found), *sorted(found - set(published))]


# --- drawing -------------------------------------------------------------------------------------


def draw(examples: Sequence[Example]) -> Figure:
    """A block per dataset; per category the image, its foreground, and the rule in words.

    Returns a figure outside pyplot's state; save it with :func:`realnet.plots.style.save_figure`.
    """
    blocks = [(name, list(group)) for name, group in groupby(examples, lambda e: e.dataset)]
    rows = sum(-(-len(group) // ACROSS) for _, group in blocks)
    pair = 2 * TILE + INNER
    width = 2 * EDGE + ACROSS * pair + (ACROSS - 1) * GAP
    height = TOP + len(blocks) * HEAD + (len(blocks) - 1) * BLOCK + rows * (TILE + TEXT)
    figure = Figure(figsize=(width, height), facecolor="white")

    def text(left: float, top: float, content: str, **style) -> None:
        figure.text(left / width, 1 - top / height, content, **{"va": "top", "color": INK, **style})

    text(
        EDGE,
        0.1,
        "Foreground masks: where anomalies are synthesised",
        fontsize=14,
        fontweight="bold",
    )
    text(
        *(EDGE, 0.42),
        f"The first training image of each category at {SIZE} x {SIZE} pixels, and its foreground"
        " mask (outlined; %: its share of the image). Closing and opening in pixels.",
        fontsize=8.5,
        color=FAINT,
    )
    top = TOP
    for number, (dataset, group) in enumerate(blocks):
        top += BLOCK * (number > 0)
        text(EDGE, top, TITLES.get(dataset, dataset), fontsize=11, fontweight="bold")
        top += HEAD
        for start in range(0, len(group), ACROSS):
            for column, shown in enumerate(group[start : start + ACROSS]):
                left = EDGE + column * (pair + GAP)
                for side, picture in enumerate((shown.image, keep(shown.image, shown.mask))):
                    x, y = left + side * (TILE + INNER), 1 - (top + TILE) / height
                    axes = figure.add_axes((x / width, y, TILE / width, TILE / height))
                    axes.imshow(picture, extent=(0, SIZE, SIZE, 0))
                    bare(axes)
                _outline(axes, shown.mask)
                _caption(text, left, top + TILE + 0.05, pair, shown)
            top += TILE + TEXT
    return figure


def keep(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``image`` with its background faded to pale grey, uint8 ``[H, W, 3]``."""
    grey = image.mean(axis=2, keepdims=True)
    pale = np.broadcast_to(0.22 * grey + 0.78 * PAPER, image.shape)
    return np.where(mask[..., None], image, np.rint(pale)).astype(np.uint8)


def _outline(axes, mask: np.ndarray) -> None:
    """Draw the outline of a mask, closed along the edges of the image."""
    at = np.arange(-0.5, SIZE + 1)
    lines = axes.contour(at, at, np.pad(mask, 1), levels=[0.5], colors=OUTLINE, linewidths=0.8)
    lines.set_clip_on(False)
    axes.set(xlim=(0, SIZE), ylim=(SIZE, 0))


def _caption(text, left: float, top: float, width: float, shown: Example) -> None:
    """Write name and share of the image, then the rule in words, its kernels on a separate line."""
    text(left, top, shown.category, fontsize=8, fontweight="bold")
    share = f"{100 * shown.mask.mean():.0f} %"
    text(left + width, top, share, fontsize=7, color=FAINT, ha="right")
    parts = describe(shown.rule).split(", ")
    kernels = [part for part in parts if part.startswith(("close", "open"))]
    words = ", ".join(part for part in parts if part not in kernels)
    lines = [words.replace(": ", ":\n"), ", ".join(kernels)]
    if shown.rule["method"] == "auto" and shown.mask.all():
        lines = ["automatic: no background found,\nwhole image"]
    text(left, top + 0.145, "\n".join(filter(None, lines)), fontsize=7, linespacing=1.25)
