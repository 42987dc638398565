"""Folder layouts of anomaly-detection datasets, as data (``layouts.yaml``).

Nothing is decoded here; a listing costs one walk of a category's folders.
"""

import csv
import glob
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

from realnet.config.sections import EmptyMask, MaskRule, OwnLayout, Prepare
from realnet.core.errors import UserError, first_names
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.datasets.items import Entry

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
DEFECTIVE = "defective"  # defect type where a layout has no names
# Role -> column of one's own split table (`table` in prepare.layouts).
TABLE_COLUMNS = {"image": "path", "mask": "mask", "split": "split", "label": "defect"}
Own = Mapping[str, OwnLayout]


@dataclass(frozen=True)
class Split:
    """A table that lists every image, for datasets whose folders do not determine the split."""

    # Below the dataset's folder. With {category} each table is a category: several splits of the
    # same images.
    file: str
    # Role (image, mask, split, label; category, if the table has several) -> name of the column.
    columns: Mapping[str, str]
    good: str  # value of the label column for normal images
    defect: str | None = None  # defect type of all others; None: the value of the label column
    shipped: bool = False  # the table is part of this project: ``file`` is below this folder

    def tables(self, root: Path) -> dict[str, Path]:
        """Category -> table; the only key is "" where the file's name has no category."""
        folder = Path(__file__).parent if self.shipped else root
        if "{category}" in self.file:
            return {
                fields["category"]: folder / path
                for path, fields in _matches(folder, self.file)
                if (folder / path).is_file()
            }
        return {"": folder / self.file} if (folder / self.file).is_file() else {}


@dataclass(frozen=True)
class Layout:
    """Alternatives of glob patterns per role, or a split table."""

    name: str
    title: str
    dataset: str | None = None  # the only dataset that may have it
    empty_mask: EmptyMask = "error"  # see MaskRule
    train: Sequence[str] = ()
    test_good: Sequence[str] = ()
    test_defective: Sequence[str] = ()
    mask: Sequence[str] = ()
    split: Split | None = None

    def mask_of(self, entry: Entry, category: str) -> str:
        """Where the mask of an image should be, for messages."""
        if self.split:
            return f"a path in column {self.split.columns['mask']} of {self.split.file}"
        names = {"{category}": category, "{defect}": entry.defect, "{stem}": entry.path.stem}
        text = self.mask[0]
        for field, value in names.items():
            text = text.replace(field, value)
        return text


@dataclass(frozen=True)
class Excluded:
    """An image that is left out, and why."""

    entry: Entry
    reason: str


@dataclass(frozen=True)
class Listing:
    """The images and masks of a category."""

    layout: Layout
    entries: tuple[Entry, ...]  # sorted by path
    has_masks: bool  # whether each anomalous image should have one
    unused_masks: tuple[Path, ...]  # mask files that belong to no image
    excluded: tuple[Excluded, ...] = ()  # not in ``entries``
    table: Path | None = None  # the split table, if there is one


@cache
def _layouts() -> tuple[Layout, ...]:
    table = yaml.safe_load(Path(__file__).with_name("layouts.yaml").read_text(encoding="utf-8"))
    return tuple(
        Layout(
            name, **(fields | ({"split": Split(**fields["split"])} if "split" in fields else {}))
        )
        for name, fields in table.items()
    )


def layouts_of(dataset: str, own: Own | None = None) -> tuple[Layout, ...]:
    """The layouts that a dataset may have: its own if it has one, else those of the table."""
    if own and dataset in own:
        found = own[dataset]
        title = f"prepare.layouts.{dataset}"
        if found.table is not None:
            return (Layout(dataset, title, split=Split(found.table, TABLE_COLUMNS, good="good")),)
        return (
            Layout(
                dataset,
                title,
                train=_one(found.train),
                test_good=_one(found.test_good),
                test_defective=_one(found.test_defective),
                mask=_one(found.mask),
            ),
        )
    return tuple(layout for layout in _layouts() if layout.dataset in (None, dataset))


def _one(pattern: str | None) -> list[str]:
    return [] if pattern is None else [pattern]


def list_categories(root: str | Path, dataset: str, own: Own | None = None) -> list[str]:
    """Sorted names of the categories below ``root`` that have training images; may be empty."""
    root = Path(root)
    found: set[str] = set()
    for layout in layouts_of(dataset, own):
        if layout.split:
            found |= _table_categories(root, dataset, layout.split)
            continue
        for pattern in layout.train:
            if "{category}" not in pattern:
                found |= {dataset} if _match(root, pattern) else set()
            else:
                found |= {fields["category"] for _, fields in _match(root, pattern)}
    return sorted(found)


def list_category(
    root: str | Path, dataset: str, category: str, settings: Prepare | None = None
) -> Listing:
    """List one category of ``root`` (``data/raw/<dataset>``), without excluded images.

    UserError: no such folder or category, another layout, no images of a role, one image in two
    roles, two masks for one image, an excluded image that does not exist.
    """
    root, own = Path(root), settings.layouts if settings else None
    if not root.is_dir():
        content = f"one folder each for {_names(KNOWN_CATEGORIES.get(dataset, ('<category>',)))}"
        if any(la.split and la.dataset == dataset for la in layouts_of(dataset, own)):
            content = f"as published (`realnet data fetch {dataset}`)"
        raise UserError(
            f"{root}: no such folder; put dataset {dataset} there (or a link to it), {content}"
        )
    for layout in layouts_of(dataset, own):
        listing = (
            _from_table(root, dataset, category, layout, layout.split)
            if layout.split
            else _from_folders(root, dataset, category, layout)
        )
        if listing is not None:
            excluded = settings.exclude.get(dataset, {}) if settings else {}
            return _without(listing, root, dataset, excluded)
    raise UserError(_unknown(root, dataset, category, own))


def _without(listing: Listing, root: Path, dataset: str, reasons: Mapping[str, str]) -> Listing:
    """The listing without the images that ``reasons`` names below ``root``."""
    wanted = {root / path: reason for path, reason in reasons.items()}
    for path in wanted:
        if not path.is_file() and all(entry.path != path for entry in listing.entries):
            raise UserError(
                f"prepare.exclude.{dataset}: {path}: no such image; expected a path below {root}"
            )
    return replace(
        listing,
        entries=tuple(entry for entry in listing.entries if entry.path not in wanted),
        excluded=tuple(
            Excluded(entry, wanted[entry.path]) for entry in listing.entries if entry.path in wanted
        ),
    )


def mask_rule(dataset: str, listing: Listing, settings: Prepare) -> MaskRule:
    """What masks mean: the rule of `prepare.masks`, else that of the layout."""
    return settings.masks.get(dataset) or MaskRule(empty=listing.layout.empty_mask)


# --- folders -------------------------------------------------------------------------------------


def _from_folders(root: Path, dataset: str, category: str, layout: Layout) -> Listing | None:
    roles = {}
    for role in ("train", "test_good", "test_defective"):
        patterns = getattr(layout, role)
        roles[role] = _first_match(root, patterns, category)
    if not roles["train"]:
        return None
    if "{category}" not in layout.train[0] and category != dataset:
        return None
    good = {path for path, _ in roles["test_good"]}
    # `test/<defect>/*` matches the folder of normal images too.
    roles["test_defective"] = [pair for pair in roles["test_defective"] if pair[0] not in good]
    for role, wanted in (("test_good", "normal"), ("test_defective", "anomalous")):
        if not roles[role]:
            tried = " or ".join(_fill(p, category) for p in getattr(layout, role))
            raise UserError(
                f"{root / category}: no {wanted} test images, so nothing can be measured; expected"
                f" {tried} below {root}, found {_found(root, category)}"
            )
    masks, has_masks, unused = _masks(root, dataset, category, layout, roles["test_defective"])
    entries = [Entry(root / path, "train", 0, "good", None) for path, _ in roles["train"]]
    entries += [Entry(root / path, "test", 0, "good", None) for path, _ in roles["test_good"]]
    entries += [
        Entry(root / path, "test", 1, fields.get("defect", DEFECTIVE), masks.get(path))
        for path, fields in roles["test_defective"]
    ]
    return Listing(layout, _sorted(entries, layout), has_masks, unused)


def _masks(
    root: Path, dataset: str, category: str, layout: Layout, defective: list
) -> tuple[dict[str, Path], bool, tuple[Path, ...]]:
    """Image -> mask; whether there should be masks; mask files that belong to no image."""
    if not layout.mask:
        return {}, False, ()
    by_pattern, lying = [], set()
    for pattern in layout.mask:
        found: dict[tuple, str] = {}
        for path, fields in _match(root, pattern, category):
            lying.add(path)
            key = (fields.get("defect"), fields["stem"])
            if key in found:
                raise UserError(
                    f"{root / path}: a second mask beside {root / found[key]}; keep one of them"
                )
            found[key] = path
        by_pattern.append((pattern, found))
    masks = {}
    for path, fields in defective:
        for pattern, found in by_pattern:
            defect = fields.get("defect", DEFECTIVE) if "{defect}" in pattern else None
            mask = found.get((defect, Path(path).stem))
            if mask is not None:
                masks[path] = root / mask
                break
    unused = sorted(root / path for path in lying - {_relative(m, root) for m in masks.values()})
    # Own datasets in a usual layout may have no masks: then there is no folder of masks.
    optional = dataset not in KNOWN_CATEGORIES and layout in _layouts() and not lying
    return masks, not optional, tuple(unused)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _first_match(root: Path, patterns: Sequence[str], category: str) -> list:
    """Matches of the only alternative with any. UserError: two alternatives have matches."""
    matched = [
        (pattern, found) for pattern in patterns if (found := _match(root, pattern, category))
    ]
    if len(matched) > 1:
        first, second = (_fill(pattern, category) for pattern, _ in matched[:2])
        raise UserError(f"{root}: both {first} and {second} have images; keep or name one of them")
    return matched[0][1] if matched else []


def _match(
    root: Path, pattern: str, category: str | None = None
) -> list[tuple[str, dict[str, str]]]:
    """Image files below ``root`` that match, sorted: path as in the pattern, values of fields."""
    return [
        (path, fields)
        for path, fields in _matches(root, pattern, category)
        if path.lower().endswith(IMAGE_SUFFIXES) and (root / path).is_file()
    ]


def _matches(
    root: Path, pattern: str, category: str | None = None
) -> list[tuple[str, dict[str, str]]]:
    """As :func:`_match`, of files and folders of any kind."""
    if category is not None:
        pattern = pattern.replace("{category}", _literal(category))
    wild = re.sub(r"{\w+}", "*", pattern)
    try:
        shape = re.compile(_regex(pattern))
    except re.error as error:
        raise UserError(f"{root}: {pattern!r} is no pattern of files ({error})") from None
    return sorted(
        (path, fits.groupdict())
        for path in glob.iglob(wild, root_dir=root, recursive=True)
        if (fits := shape.fullmatch(path))
    )


def _literal(name: str) -> str:
    return glob.escape(name)


def _regex(pattern: str) -> str:
    """A glob with fields as a regular expression; a field is one part of a path or less."""
    parts = re.split(r"(\*\*/|\*|\?|{\w+}|\[.*?\])", pattern)
    translated = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    out = []
    for part in parts:
        if part in translated:
            out.append(translated[part])
        elif re.fullmatch(r"{\w+}", part):
            out.append(f"(?P<{part[1:-1]}>[^/]+)")
        elif re.fullmatch(r"\[.+\]", part):
            inside = part[1:-1].replace("\\", r"\\").replace("[", r"\[")
            out.append(f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]")
        else:
            out.append(re.escape(part))
    return "".join(out)


# --- split tables --------------------------------------------------------------------------------


def _table_categories(root: Path, dataset: str, split: Split) -> set[str]:
    if not root.is_dir():
        return set()
    tables = split.tables(root)
    if "category" in split.columns:
        return {row["category"] for path in tables.values() for row in _rows(path, split)}
    return {category or dataset for category in tables}


def _from_table(
    root: Path, dataset: str, category: str, layout: Layout, split: Split
) -> Listing | None:
    tables = split.tables(root)
    path = tables.get(category, tables.get(""))
    if path is None:
        return None
    if "category" in split.columns:
        rows = [row for row in _rows(path, split) if row["category"] == category]
    else:
        rows = _rows(path, split) if category in tables or category == dataset else []
    if not rows:
        return None
    entries = []
    for row in rows:
        label = int(row["label"] != split.good)
        mask = root / row["mask"] if label and row["mask"] else None
        defect = (split.defect or row["label"]) if label else "good"
        entries.append(Entry(root / row["image"], row["split"], label, defect, mask))
    parts = {(entry.split, entry.label) for entry in entries}
    if ("train", 1) in parts:
        first = next(e for e in entries if e.split == "train" and e.label)
        raise UserError(f"{path}: {first.path} is {first.defect} and in train; only normal images")
    for wanted in (("train", 0), ("test", 0), ("test", 1)):
        if wanted not in parts:
            kind = "anomalous" if wanted[1] else "normal"
            raise UserError(f"{path}: {category} has no {kind} {wanted[0]} images")
    used = {entry.mask_path for entry in entries}
    has_masks = used != {None}
    folders = {mask.parent for mask in used if mask} - {entry.path.parent for entry in entries}
    unused = sorted(
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path not in used and path.suffix.lower() in IMAGE_SUFFIXES
    )
    return Listing(layout, _sorted(entries, layout), has_masks, tuple(unused), table=path)


def _rows(path: Path, split: Split) -> list[dict[str, str]]:
    """Rows of a split table by role. UserError: a malformed one."""
    return _read_table(path, path.stat().st_mtime_ns, tuple(split.columns.items()), split.shipped)


@cache
def _read_table(
    path: Path, _: int, columns: tuple[tuple[str, str], ...], shipped: bool
) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as source:
        reader = csv.DictReader(source)
        missing = [name for _, name in columns if name not in (reader.fieldnames or ())]
        if missing:
            there = _names(reader.fieldnames or ())
            raise UserError(
                f"{path}: no column {missing[0]}; found {there}, expected"
                f" {', '.join(name for _, name in columns)}"
            )
        rows = [{role: (row[name] or "").strip() for role, name in columns} for row in reader]
    for line, row in enumerate(rows, start=2):
        if row["split"] not in ("train", "test"):
            raise UserError(f"{path}, line {line}: split {row['split']!r} is not train or test")
        inside = all(
            not Path(row[role]).is_absolute() and ".." not in Path(row[role]).parts
            for role in ("image", "mask")
        )
        if not row["image"] or not inside:
            where = "the dataset's folder" if shipped else path.parent
            raise UserError(f"{path}, line {line}: image and mask must be paths below {where}")
        if not row["label"]:
            raise UserError(f"{path}, line {line}: no defect type (good for a normal image)")
    return rows


# --- messages ------------------------------------------------------------------------------------


def _sorted(entries: list[Entry], layout: Layout) -> tuple[Entry, ...]:
    ordered = sorted(entries, key=lambda entry: entry.path.as_posix())
    for first, second in itertools.pairwise(ordered):
        if first.path == second.path:
            raise UserError(
                f"{first.path}: listed twice, as {first.split}/{first.defect} and as"
                f" {second.split}/{second.defect}; see {layout.title}"
            )
    return tuple(ordered)


def _unknown(root: Path, dataset: str, category: str, own: Own | None) -> str:
    """Error message: no such category, or no layout matches its folder."""
    known = list_categories(root, dataset, own)
    published = KNOWN_CATEGORIES.get(dataset, ())
    folder = root / category
    if not folder.is_dir() and not (own and dataset in own):
        nested = sorted(p.parent for p in root.glob(f"*/{_literal(category)}") if p.is_dir())
        hint = f"; it is in {nested[0]}: move its contents up, or link them" if nested else ""
        names = _names(known or published)
        return f"{folder}: no category {category!r} in dataset {dataset}; known: {names}{hint}"
    expected = " or ".join(
        f"{layout.split.file} with its rows" if layout.split else _fill(layout.train[0], category)
        for layout in layouts_of(dataset, own)
    )
    return (
        f"{folder}: no training images of {category} found; expected {expected} below {root},"
        f" found {_found(root, category)}; categories there: {_names(known)}"
    )


def _fill(pattern: str, category: str) -> str:
    return pattern.replace("{category}", category).replace("{defect}", "<defect>")


def _found(root: Path, category: str) -> str:
    """Two levels of existing folders, for messages."""
    folder = root / category if (root / category).is_dir() else root
    names = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            inside = [f"{path.name}/{p.name}/" for p in sorted(path.iterdir()) if p.is_dir()]
            names += [name for name in inside if "/." not in name] or [f"{path.name}/"]
        elif not path.name.startswith("."):
            names.append(path.name)
    return _names(names)


def _names(names, most: int = 20) -> str:
    return first_names(list(names), most) or "nothing"
