"""One category's images as a table: what later stages read instead of walking folders."""

from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from realnet.data.images import read_image, read_mask
from realnet.data.layouts import (
    Layout,
    defect_folders,
    find_category,
    find_mask,
    good_folder,
    image_files,
    layout_of,
)
from realnet.errors import UserError
from realnet.io import read_csv, sha256, write_csv, write_json


@dataclass(frozen=True)
class Item:
    """One image of a category."""

    path: Path  # as reached from the working folder: relative where the data root is
    split: str  # "train" or "test"
    label: int  # 0 normal, 1 anomalous
    defect: str  # "good" or the kind of defect
    mask_path: Path | None  # None for normal images
    width: int  # pixels, after EXIF rotation
    height: int
    sha256: str
    mask_sha256: str  # "" without a mask


FIELDS = tuple(field.name for field in fields(Item))


def prepare(dataset: str, category: str, root: str | Path, out: str | Path) -> dict[str, Any]:
    """Check every file of a category, then write ``manifest.csv`` and ``summary.json`` to ``out``.

    Returns the summary. UserError, before anything is written: another layout, no such category,
    no training or no test images of either kind, an image that does not decode, a mask that is
    missing, empty or of another size than its image.
    """
    folder = find_category(root, dataset, category)
    items = scan(folder, layout_of(dataset))
    rows = [
        asdict(item)
        | {
            "path": item.path.as_posix(),
            "mask_path": item.mask_path.as_posix() if item.mask_path else "",
        }
        for item in items
    ]
    summary = summarise(items, dataset, category)
    write_csv(Path(out) / "manifest.csv", rows, FIELDS)
    write_json(Path(out) / "summary.json", summary)
    return summary


def scan(folder: Path, layout: Layout) -> list[Item]:
    """Read every image and mask of a category's folder; items sorted by path."""
    train, test = folder / layout.train, folder / layout.test
    items = [_item(path, "train", "good", None) for path in _normals(train, layout)]
    items += [_item(path, "test", "good", None) for path in _normals(test, layout)]
    defects = defect_folders(test, layout)
    if not defects:
        raise UserError(f"{test}: no folder of defects, so nothing to detect; expected test/<kind>")
    for kind in defects:
        for path in image_files(kind, layout):
            mask = find_mask(folder, kind.name, path.stem, layout)
            if mask is None:
                wanted = layout.masks[0].format(defect=kind.name, stem=path.stem)
                raise UserError(f"{path}: no mask for this image; expected {folder / wanted}")
            items.append(_item(path, "test", kind.name, mask))
    return sorted(items, key=lambda item: item.path.as_posix())


def summarise(items: list[Item], dataset: str, category: str) -> dict[str, Any]:
    """Counts per split and kind, sizes, and how many test images are training images too."""
    train = {item.sha256 for item in items if item.split == "train"}
    counts: dict[str, dict[str, int]] = {}
    for split in ("train", "test"):
        kinds = Counter(item.defect for item in items if item.split == split)
        counts[split] = dict(sorted(kinds.items()))
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


def read_manifest(path: str | Path) -> list[Item]:
    """The items of a ``manifest.csv``. UserError: no file, other columns, an unreadable row."""
    rows = read_csv(path)
    if not rows:
        raise UserError(f"{path}: no rows; write it again with `realnet data prepare`")
    missing = [name for name in FIELDS if name not in rows[0]]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; found {', '.join(rows[0])}")
    items = []
    for line, row in enumerate(rows, start=2):
        try:
            items.append(
                Item(
                    path=Path(row["path"]),
                    split=row["split"],
                    label=int(row["label"]),
                    defect=row["defect"],
                    mask_path=Path(row["mask_path"]) if row["mask_path"] else None,
                    width=int(row["width"]),
                    height=int(row["height"]),
                    sha256=row["sha256"],
                    mask_sha256=row["mask_sha256"],
                )
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, line {line}: {error}") from None
    return items


def _normals(parent: Path, layout: Layout) -> list[Path]:
    return image_files(good_folder(parent, layout), layout)


def _item(path: Path, split: str, defect: str, mask: Path | None) -> Item:
    height, width = read_image(path).shape[:2]
    if mask is not None:
        pixels = read_mask(mask)
        if pixels.shape != (height, width):
            found = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise UserError(f"{mask}: mask is {found} pixels, its image {path} {width}x{height}")
        if not pixels.any():
            raise UserError(f"{mask}: empty mask, but {path} is in a folder of defects")
    return Item(
        path=path,
        split=split,
        label=int(defect != "good"),
        defect=defect,
        mask_path=mask,
        width=width,
        height=height,
        sha256=sha256(path),
        mask_sha256=sha256(mask) if mask else "",
    )
