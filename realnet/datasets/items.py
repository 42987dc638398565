"""The images of a category as rows of ``manifest.csv``, which later stages read.

Building and writing is in ``manifest.py``: a change there reruns only the stage data.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from realnet.core.errors import UserError
from realnet.core.io import read_csv


@dataclass(frozen=True)
class Entry:
    """One image, listed and not yet read."""

    path: Path  # relative to the working folder if the data root is
    split: str  # "train" or "test"
    label: int  # 0 normal, 1 anomalous
    defect: str  # "good" or the defect type
    mask_path: Path | None  # None for normal images, and where no mask was found


@dataclass(frozen=True)
class Item(Entry):
    """One image, checked: a row of ``manifest.csv``.

    An anomalous item has no mask only where its whole category has none (own data).
    """

    width: int  # pixels, after EXIF rotation
    height: int
    sha256: str
    mask_sha256: str  # "" without a mask
    # Pixels of the mask above this value are anomalous; None: the default of the file's format.
    mask_threshold: int | None = None
    # Whether the image has a pixel ground truth. False: a defective image whose mask marks nothing;
    # it counts in image metrics only.
    pixel_labelled: bool = True


# Columns that a manifest has only where an item has another value, with that of all others.
OPTIONAL = {"mask_threshold": None, "pixel_labelled": True}
FIELDS = tuple(field.name for field in fields(Item) if field.name not in OPTIONAL)
AGAIN = "write it again with `realnet data prepare`"


def read_manifest(path: str | Path) -> list[Item]:
    """The items of a ``manifest.csv``. UserError: no file, other columns, an unreadable row."""
    rows = read_csv(path)
    if not rows:
        raise UserError(f"{path}: no rows; {AGAIN}")
    missing = [name for name in FIELDS if name not in rows[0]]
    if missing:
        has = ", ".join(map(str, rows[0]))
        raise UserError(f"{path}: no column {', '.join(missing)}; found {has}")
    items = []
    for line, row in enumerate(rows, start=2):
        try:
            items.append(_item(row))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, line {line}: {error}; {AGAIN}") from None
    return items


def _item(row: dict[str, str]) -> Item:
    """ValueError: wrong number of columns, or an invalid value."""
    if None in row or None in row.values():
        raise ValueError(f"{'more' if None in row else 'fewer'} cells than columns")
    allowed = {"split": ("train", "test"), "label": ("0", "1"), "pixel_labelled": ("0", "1")}
    for name, values in allowed.items():
        if name in row and row[name] not in values:
            raise ValueError(f"{name} {row[name]!r} is not {' or '.join(values)}")
    if not row["path"] or "\0" in row["path"] + row["mask_path"]:
        raise ValueError("no path of an image")
    width, height = int(row["width"]), int(row["height"])
    if min(width, height) < 1:
        raise ValueError(f"{width} x {height} pixels is no size of an image")
    return Item(
        path=Path(row["path"]),
        split=row["split"],
        label=int(row["label"]),
        defect=row["defect"],
        mask_path=Path(row["mask_path"]) if row["mask_path"] else None,
        width=width,
        height=height,
        sha256=row["sha256"],
        mask_sha256=row["mask_sha256"],
        mask_threshold=int(row["mask_threshold"]) if row.get("mask_threshold") else None,
        pixel_labelled=row.get("pixel_labelled", "1") == "1",
    )
