"""From a category's folders to its manifest: every file checked, listed and hashed."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from realnet.config.sections import Prepare
from realnet.core.errors import UserError
from realnet.core.io import sha256, write_csv, write_json
from realnet.datasets.images import read_image, read_mask
from realnet.datasets.items import FIELDS, Entry, Item
from realnet.datasets.layouts import Listing, list_category
from realnet.datasets.published_counts import differences, published


def prepare(
    dataset: str, category: str, root: str | Path, out: str | Path, settings: Prepare
) -> dict[str, Any]:
    """Check every file of a category, then write ``manifest.csv`` and ``summary.json`` to ``out``.

    Images are listed, not copied. Returns the summary. UserError, before anything is written:
    another layout, no such category, no training or no test images of either kind, an image that
    does not decode, a mask that is missing, empty or of another size than its image, other image
    counts than the published ones (unless ``settings.allow_partial``).
    """
    listing = list_category(root, dataset, category, settings.layouts)
    counts = count(listing.entries)
    expected = published(dataset, category)
    different = differences(counts, expected) if expected else []
    if different and not settings.allow_partial:
        raise UserError(
            f"{root}, {category}: image counts differ from the published ones:"
            f" {'; '.join(different)}. Complete the data set, or set prepare.allow_partial: true"
        )
    items = [read_item(entry, listing, category) for entry in listing.entries]
    rows = [
        asdict(item)
        | {
            "path": item.path.as_posix(),
            "mask_path": item.mask_path.as_posix() if item.mask_path else "",
        }
        for item in items
    ]
    summary = summarise(items, dataset, category) | {
        "layout": listing.layout.name,
        "masks": listing.has_masks,
        "differs_from_published": different if expected else None,
    }
    written = Path(out) / "manifest.csv"
    write_csv(written, rows, FIELDS)
    summary |= {"outputs": {written.name: sha256(written)}}
    write_json(Path(out) / "summary.json", summary)
    for line in different:
        print(f"realnet data prepare: {dataset}/{category}: {line} (allowed)", file=sys.stderr)
    return summary


def count(entries: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Split -> kind -> number of images, kinds sorted by name."""
    counts: dict[str, dict[str, int]] = {}
    for split in ("train", "test"):
        kinds = Counter(entry.defect for entry in entries if entry.split == split)
        counts[split] = dict(sorted(kinds.items()))
    return counts


def summarise(items: list[Item], dataset: str, category: str) -> dict[str, Any]:
    """Counts per split and kind, sizes, and how many test images are training images too."""
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


def read_item(entry: Entry, listing: Listing, category: str) -> Item:
    """Decode an image and its mask. UserError: unreadable, no mask, an empty or unequal one."""
    path, mask = entry.path, entry.mask_path
    height, width = read_image(path).shape[:2]
    if entry.label and listing.has_masks and mask is None:
        raise UserError(
            f"{path}: no mask for this image of kind {entry.defect}; expected"
            f" {listing.layout.mask_of(entry, category)}, or remove the image"
        )
    if mask is not None:
        pixels = read_mask(mask)
        if pixels.shape != (height, width):
            found = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise UserError(f"{mask}: mask is {found} pixels, its image {path} {width}x{height}")
        if not pixels.any():
            raise UserError(f"{mask}: empty mask, but {path} counts as anomalous")
    return Item(
        **{field.name: getattr(entry, field.name) for field in fields(Entry)},
        width=width,
        height=height,
        sha256=sha256(path),
        mask_sha256=sha256(mask) if mask else "",
    )
