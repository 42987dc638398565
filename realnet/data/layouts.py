"""Folder layouts of anomaly-detection data sets, as data: a new one is an entry, not a branch."""

from dataclasses import dataclass
from pathlib import Path

from realnet.data.categories import KNOWN_CATEGORIES
from realnet.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Where the images and masks of one category lie, relative to the category's folder."""

    train: str  # holds the folder(s) of normal training images
    test: str  # holds a folder per kind: the normal one and one per defect
    good: tuple[str, ...]  # names that the folder of normal images may have
    masks: tuple[str, ...]  # candidate paths of a mask; fields {defect} and {stem}
    images: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")  # lower case

    def describe(self) -> str:
        """One line for error messages."""
        good = "|".join(self.good)
        return (
            f"{self.train}/{good}/*, {self.test}/{good}/*, {self.test}/<defect>/* and"
            f" {' or '.join(self.masks[:2]).format(defect='<defect>', stem='<image>')}"
        )


# MVTec-AD names a mask 000_mask.png. MPDD follows it; BTAD calls its folders
# ok/ko and names masks like the images, with .png or .bmp; the prepared VisA is like BTAD.
FOLDERS = Layout(
    train="train",
    test="test",
    good=("good", "ok"),
    masks=(
        "ground_truth/{defect}/{stem}_mask.png",
        "ground_truth/{defect}/{stem}.png",
        "ground_truth/{defect}/{stem}_mask.bmp",
        "ground_truth/{defect}/{stem}.bmp",
    ),
)

# Data sets that are not in `FOLDERS` layout.
LAYOUTS: dict[str, Layout] = {}


def layout_of(dataset: str) -> Layout:
    """The layout of a data set by name; a set of one's own is expected in ``FOLDERS`` layout."""
    return LAYOUTS.get(dataset, FOLDERS)


def list_categories(root: str | Path, layout: Layout = FOLDERS) -> list[str]:
    """Sorted names of the folders in ``root`` that hold training data; empty if there are none."""
    root = Path(root)
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if (p / layout.train).is_dir())


def find_category(root: str | Path, dataset: str, category: str) -> Path:
    """The folder of a category. UserError: no such folder, or one of another layout."""
    root, layout = Path(root), layout_of(dataset)
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; put data set {dataset} there, one folder each for"
            f" {_names(KNOWN_CATEGORIES.get(dataset, ('<category>',)))}"
        )
    folder = root / category
    if not folder.is_dir():
        known = list_categories(root, layout) or KNOWN_CATEGORIES.get(dataset, ())
        raise UserError(
            f"{folder}: no category {category!r} in data set {dataset}; known: {_names(known)}"
        )
    for part in (layout.train, layout.test):
        if not (folder / part).is_dir():
            known = list_categories(root, layout)
            raise UserError(
                f"{folder}: no folder {part}/, found {_names(_visible(folder))}; expected"
                f" {layout.describe()}; categories there: {_names(known)}"
            )
    return folder


def good_folder(parent: Path, layout: Layout) -> Path:
    """The folder of normal images in ``parent``; UserError when there is none or more than one."""
    found = [parent / name for name in layout.good if (parent / name).is_dir()]
    if len(found) != 1:
        there = _names(_visible(parent))
        raise UserError(
            f"{parent}: expected one folder of normal images, {' or '.join(layout.good)};"
            f" found {there}"
        )
    return found[0]


def image_files(folder: Path, layout: Layout) -> list[Path]:
    """Sorted images of one folder (other files are passed over); UserError when there are none."""
    files = sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in layout.images and not p.name.startswith(".")
    )
    if not files:
        raise UserError(f"{folder}: no images; expected files ending in {', '.join(layout.images)}")
    return files


def defect_folders(parent: Path, layout: Layout) -> list[Path]:
    """Sorted folders of ``parent`` that hold anomalous images."""
    return sorted(
        p
        for p in parent.iterdir()
        if p.is_dir() and p.name not in layout.good and not p.name.startswith(".")
    )


def find_mask(category: Path, defect: str, stem: str, layout: Layout) -> Path | None:
    """The mask of an anomalous image, or None."""
    for pattern in layout.masks:
        path = category / pattern.format(defect=defect, stem=stem)
        if path.is_file():
            return path
    return None


def _visible(folder: Path) -> list[str]:
    names = (f"{p.name}/" if p.is_dir() else p.name for p in folder.iterdir())
    return sorted(name for name in names if not name.startswith("."))


def _names(names, most: int = 20) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more
