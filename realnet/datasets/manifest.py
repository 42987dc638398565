"""Building and writing a category's ``manifest.csv`` and ``summary.json``.

Reading is in :mod:`realnet.datasets.items`: a change here reruns only the stage data.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from realnet.config.sections import MaskRule, Prepare
from realnet.core.errors import UserError, first_names
from realnet.core.io import sha256, write_csv, write_json
from realnet.datasets.images import read_image, read_mask
from realnet.datasets.items import FIELDS, OPTIONAL, Entry, Item
from realnet.datasets.layouts import Excluded, Listing, list_category, mask_rule
from realnet.datasets.published_counts import differences, published

EMPTY = "its mask marks nothing"
# Key of a summary -> what its images are, in messages.
TREATMENTS = {"excluded": "excluded", "image_only": "in image metrics only"}
SHOWN = 5  # images that a message names


@dataclass(frozen=True)
class Manifest:
    """A checked category.

    summary: counts, sizes and layout, as in ``summary.json``.
    differs: one line per image count that is not the published one; None for own datasets.
    """

    items: tuple[Item, ...]
    summary: dict[str, Any]
    differs: list[str] | None


def build(root: str | Path, dataset: str, category: str, settings: Prepare) -> Manifest:
    """Check every image and mask of a category of ``root``, the dataset's folder.

    UserError: an unknown layout or category, no training images, no test images of either label,
    an image that cannot be decoded, a mask that is missing, empty or of another size than its
    image, other image counts than the published ones (unless ``settings.allow_partial``).
    """
    listing = list_category(root, dataset, category, settings)
    expected = published(dataset, category)
    all_entries = [*listing.entries, *(one.entry for one in listing.excluded)]
    differs = differences(count(all_entries), expected) if expected else None
    if differs and not settings.allow_partial:
        raise UserError(
            f"{root}, {category}: image counts differ from the published ones:"
            f" {'; '.join(differs)}. Complete the dataset, or set prepare.allow_partial: true"
        )
    rule = mask_rule(dataset, listing, settings)
    items, excluded = [], list(listing.excluded)
    for entry in listing.entries:
        found = read_item(entry, listing, category, rule)
        if isinstance(found, Item):
            items.append(found)
        else:
            excluded.append(found)
    summary = summarise(items, dataset, category) | {
        "layout": listing.layout.name,
        "masks": listing.has_masks,
        "mask_threshold": rule.threshold,
        "differs_from_published": differs,
        "excluded": [{"path": one.entry.path.as_posix(), "reason": one.reason} for one in excluded],
        "image_only": [
            {"path": item.path.as_posix(), "reason": EMPTY}
            for item in items
            if not item.pixel_labelled
        ],
    }
    return Manifest(tuple(items), summary, differs)


def write(folder: str | Path, manifest: Manifest) -> None:
    """Write ``manifest.csv``, then ``summary.json`` with its digest."""
    rows = [
        asdict(item)
        | {
            "path": item.path.as_posix(),
            "mask_path": item.mask_path.as_posix() if item.mask_path else "",
            "pixel_labelled": int(item.pixel_labelled),
        }
        for item in manifest.items
    ]
    needed = [
        name
        for name, default in OPTIONAL.items()
        if any(getattr(item, name) != default for item in manifest.items)
    ]
    columns = (*FIELDS, *needed)
    rows = [{name: row[name] for name in columns} for row in rows]
    written = Path(folder) / "manifest.csv"
    write_csv(written, rows, columns)
    outputs = {written.name: sha256(written)}
    write_json(Path(folder) / "summary.json", manifest.summary | {"outputs": outputs})


def left_out(summary: Mapping[str, Any]) -> list[str]:
    """One line per treatment and reason, from a summary: how many images, and the first.

    Images that were excluded, and those that are in image metrics only.
    """
    treated: dict[tuple[str, str], list[str]] = {}
    for key, treatment in TREATMENTS.items():
        for one in summary.get(key, ()):
            treated.setdefault((treatment, one["reason"]), []).append(one["path"])
    return [
        f"{len(paths)} image{'s' * (len(paths) > 1)} {treatment} ({reason}):"
        f" {first_names([Path(path).name for path in paths], SHOWN)}"
        for (treatment, reason), paths in treated.items()
    ]


def count(entries: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Split -> defect type (or ``good``) -> number of images, types sorted by name."""
    counts: dict[str, dict[str, int]] = {}
    for split in ("train", "test"):
        types = Counter(entry.defect for entry in entries if entry.split == split)
        counts[split] = dict(sorted(types.items()))
    return counts


def summarise(items: Sequence[Item], dataset: str, category: str) -> dict[str, Any]:
    """Counts per split and defect type, sizes, and how many test images are also in training."""
    train = {item.sha256 for item in items if item.split == "train"}
    counts = count(items)
    return {
        "dataset": dataset,
        "category": category,
        "train": sum(counts["train"].values()),
        "test_good": counts["test"].get("good", 0),
        "test_defective": sum(item.label for item in items),
        "counts": counts,
        "sizes": sorted({f"{item.width}x{item.height}" for item in items}),
        "test_images_also_in_train": sum(
            item.split == "test" and item.sha256 in train for item in items
        ),
    }


def read_item(entry: Entry, listing: Listing, category: str, rule: MaskRule) -> Item | Excluded:
    """Decode an image and its mask.

    An image whose mask marks nothing is excluded, or has no pixel ground truth, if the rule says
    so. UserError: unreadable; a missing, empty or misfitting mask.
    """
    path, mask = entry.path, entry.mask_path
    is_empty = False
    height, width = read_image(path).shape[:2]
    if entry.label and listing.has_masks and mask is None:
        raise UserError(
            f"{path}: no mask for this image of defect type {entry.defect}; expected"
            f" {listing.layout.mask_of(entry, category)}, or remove the image"
        )
    if mask is not None:
        pixels = read_mask(mask, threshold=rule.threshold)
        if pixels.shape != (height, width):
            found = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise UserError(f"{mask}: mask is {found} pixels, its image {path} {width}x{height}")
        is_empty = not pixels.any()
        if is_empty and rule.empty == "exclude":
            return Excluded(entry, EMPTY)
        if is_empty and rule.empty == "error":
            raise UserError(
                f"{mask}: empty mask, but {path} counts as anomalous; mend it, or leave such images"
                " out, or out of pixel metrics: prepare.masks, DATASET: {empty: exclude} or"
                " {empty: image_only}"
            )
    return Item(
        **{field.name: getattr(entry, field.name) for field in fields(Entry)},
        width=width,
        height=height,
        sha256=sha256(path),
        mask_sha256=sha256(mask) if mask else "",
        mask_threshold=rule.threshold if mask else None,
        pixel_labelled=not is_empty,
    )
