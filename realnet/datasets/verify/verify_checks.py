"""What `realnet data verify` checks between files: duplicates, counts, the manifest, strays."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from realnet.core.errors import UserError
from realnet.datasets.items import Item, read_manifest
from realnet.datasets.layouts import IMAGE_SUFFIXES, Listing
from realnet.datasets.manifest import count
from realnet.datasets.published_counts import differences, published
from realnet.datasets.verify.verify_files import Problem, Seen, problem


def duplicates(seen: Sequence[Seen]) -> list[Problem]:
    """Images of equal bytes or equal pixels: in both splits, or twice in one.

    One problem per later image (for the two splits: per test image), naming the first one that is
    like it. Equal bytes go before equal pixels. Images that do not decode are passed over.
    """
    found = []
    for group in _groups(seen):
        by_split = {
            split: [s for s in group if s.entry.split == split] for split in ("train", "test")
        }
        for image in by_split["test"] if by_split["train"] else ():
            found.append(_alike(image, by_split["train"], "leak"))
        for images in by_split.values():
            for index, image in enumerate(images[1:], start=1):
                found.append(_alike(image, images[:index], "duplicate"))
    return found


def _groups(seen: Sequence[Seen]) -> Iterable[list[Seen]]:
    by_pixels = defaultdict(list)
    for image in seen:
        if image.pixels:
            by_pixels[image.pixels].append(image)
    return (group for group in by_pixels.values() if len(group) > 1)


def _alike(image: Seen, others: Sequence[Seen], what: str) -> Problem:
    """The problem that ``image`` has the pixels of ``others``, and maybe the bytes of one."""
    twins = [other for other in others if other.sha256 == image.sha256]
    first = (twins or others)[0].entry
    same = "bytes" if twins else "pixels"
    message = f"the same {same} as {first.path}"
    if first.defect != image.entry.defect:
        message += f", which counts as {first.defect} and this one as {image.entry.defect}"
    return problem(f"{what}-{same}", image.entry.path, message)


def compare_published(
    dataset: str, category: str, listing: Listing, folder: Path, allow_partial: bool
) -> list[Problem]:
    """Counts that are not the published ones: errors, or warnings where they are allowed."""
    expected = published(dataset, category)
    if expected is None:
        return []
    severity = "warning" if allow_partial else "error"
    return [
        problem("count", folder, f"{line} published", severity)
        for line in differences(count(listing.entries), expected)
    ]


# --- the manifest --------------------------------------------------------------------------------


def compare_manifest(path: Path, seen: Sequence[Seen], root: Path) -> list[Problem]:
    """The category's files against its ``manifest.csv``; ``root`` is the dataset's folder.

    Paths are compared below the dataset's folder, so that the data may lie under another root
    than when the manifest was written.
    """
    try:
        items = read_manifest(path)
    except UserError as error:
        return [problem("manifest-unreadable", path, str(error).removeprefix(f"{path}: "))]
    except OSError as error:
        return [problem("manifest-unreadable", path, f"not readable ({error})")]
    found = []
    listed: dict[str, Item] = {}
    for item in items:
        key = _key(item.path, root)
        if key in listed:
            found.append(problem("manifest-unreadable", path, f"lists {item.path} twice"))
        listed[key] = item
    for image in seen:
        row = listed.pop(_key(image.entry.path, root), None)
        if row is None and image.use == "excluded":
            continue
        if row is None:
            message = f"{path} does not list it"
            found.append(problem("manifest-unlisted", image.entry.path, message))
        else:
            found += _compare(image, row, root)
    for key in listed:
        there = (root / key).is_file()
        kind = "manifest-differs" if there else "manifest-missing"
        message = "is there, but in no role now" if there else "no such file"
        found.append(problem(kind, root / key, f"{message}; {path} lists it"))
    return found


def _compare(image: Seen, item: Item, root: Path) -> list[Problem]:
    """One image against its row."""
    entry, found = image.entry, []
    for path, now, then in (
        (entry.path, image.sha256, item.sha256),
        (entry.mask_path, image.mask_sha256, item.mask_sha256),
    ):
        if path is not None and now and then and now != then:
            message = f"SHA-256 {now[:12]}…, in the manifest {then[:12]}…"
            found.append(problem("manifest-hash", path, message))
    if image.width and (image.width, image.height) != (item.width, item.height):
        message = f"{image.width}x{image.height}, in the manifest {item.width}x{item.height}"
        found.append(problem("manifest-size", entry.path, message))
    then = "in all metrics" if item.pixel_labelled else "in image metrics only"
    use = then if entry.mask_path and not image.mask_read else image.use
    roles = [
        f"{x.split}/{x.defect}, {_key(x.mask_path, root) if x.mask_path else 'no mask'}, {used}"
        for x, used in ((entry, use), (item, then))
    ]
    if roles[0] != roles[1]:
        message = ", in the manifest ".join(roles)
        found.append(problem("manifest-differs", entry.path, message))
    return found


def _key(path: Path, root: Path) -> str:
    """The path below the dataset's folder, which is ``root`` or the last part named like it."""
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    parts = path.parts
    if root.name in parts:
        parts = parts[len(parts) - parts[::-1].index(root.name) :]
    return Path(*parts).as_posix()


# --- files that no one reads, and other notes ----------------------------------------------------


def other_files(listing: Listing, folder: Path) -> list[Problem]:
    """Images without role (a warning per folder), and the number of other files.

    Looked for below the category's folder; where there is none, beside the listed files. Hidden
    files are passed over in silence.
    """
    used = {entry.path for entry in listing.entries} | set(listing.unused_masks)
    used |= {entry.mask_path for entry in listing.entries if entry.mask_path}
    images: dict[Path, list[str]] = defaultdict(list)
    suffixes: Counter = Counter()
    for path in _files(folder) if folder.is_dir() else _beside(used):
        if path in used:
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES:
            images[path.parent].append(path.name)
        else:
            suffixes[path.suffix.lower() or path.name] += 1
    found = [
        problem("unused-images", parent, f"{_images(len(names))}, the first {min(names)}")
        for parent, names in images.items()
    ]
    if suffixes:
        counted = ", ".join(f"{n} {suffix}" for suffix, n in sorted(suffixes.items()))
        found.append(problem("passed-over", folder, counted))
    return found


def _files(folder: Path) -> Iterable[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent) / name for name in names if not name.startswith("."))


def _beside(used: Iterable[Path]) -> Iterable[Path]:
    for parent in sorted({path.parent for path in used}):
        if parent.is_dir():
            yield from (p for p in parent.iterdir() if p.is_file() and not p.name.startswith("."))


def about_images(seen: list[Seen], folder: Path) -> list[Problem]:
    """Odd but legal things about a category's images, one note each."""
    sizes = Counter(f"{s.width}x{s.height}" for s in seen if s.pixels)
    found = []
    if len(sizes) > 1:
        counted = ", ".join(f"{size} ({number})" for size, number in sizes.most_common(4))
        more = f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
        found.append(problem("sizes", folder, f"{len(sizes)} sizes: {counted}{more}"))
    for kind, holds in {
        "sixteen-bit": lambda s: s.mode.startswith("I;16"),
        "palette": lambda s: s.mode in ("P", "PA"),
        "alpha": lambda s: s.mode in ("LA", "La", "PA", "RGBA", "RGBa"),
        "turned": lambda s: s.turned,
    }.items():
        those = [s.entry.path for s in seen if s.pixels and holds(s)]
        if those:
            found.append(problem(kind, folder, f"{_images(len(those))}, the first {those[0]}"))
    return found


def _images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"
