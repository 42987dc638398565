"""Folders of maps and masks in the layout of the MVTec evaluation, matched by path and stem.

    maps/<defect>/<image>.tiff        masks/<defect>/<image>_mask.png, or <image>.png

``good`` holds normal images, which need no mask. Other extensions: see :mod:`.files`.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from realnet.core.errors import UserError
from realnet.evaluation.maps.files import MAPS, MASKS

GOOD = "good"
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Pair:
    """An image: its map, and its mask where it has one."""

    name: str  # <defect>/<image>, or <image> in a flat folder
    defect: str  # the defect type, "" in a flat folder
    map: Path
    mask: Path | None


def pairs(
    maps: Path, masks: Path | None, labelled: bool = False, suffix: str = "", subset: bool = False
) -> list[Pair]:
    """The images of a folder of maps, sorted by name, with their masks.

    ``labelled``: labels are given separately, so an image without defect type and mask may be
    normal. ``suffix``: only maps whose names end with it, e.g. ``_margin.npy``; it is not part of
    the image's name. ``subset``: ignore masks that have no map. UserError: no map, two maps or
    masks of one image, an anomalous image without a mask, a mask without a map.
    """
    maps = maps / "test" if _only_folder(maps) == "test" else maps
    found = _maps(maps, suffix)
    if masks is None:
        return [Pair(name, _defect(name), path, None) for name, path in found.items()]
    masks = masks / "ground_truth" if (masks / "ground_truth").is_dir() else masks
    truth = _masks(masks)
    result, bare = [], []
    for name, path in found.items():
        defect, mask = _defect(name), truth.pop(name, None)
        if mask is None and defect != GOOD and not (labelled and not defect):
            bare.append(name)
        result.append(Pair(name, defect, path, mask))
    if bare:
        hint = f"expected {masks / bare[0]}_mask.png (or {Path(bare[0]).name}.png)"
        flat = "; normal images go into a folder good, or give --labels"
        advice = "" if _defect(bare[0]) else flat
        raise UserError(f"{_names(bare, maps)}: no mask; {hint}{advice}")
    if truth and not subset:
        raise UserError(
            f"{_names(list(truth), masks)}: a mask without a map in {maps};"
            " measure all images of the test set, or add --subset"
        )
    return result


def _maps(folder: Path, suffix: str) -> dict[str, Path]:
    files = _files(folder)
    ends = [suffix] if suffix else list(MAPS)
    found: dict[str, Path] = {}
    for path in files:
        end = next((e for e in ends if path.name.lower().endswith(e.lower())), None)
        if end is None or len(path.name) == len(end):
            continue
        name = path.relative_to(folder).as_posix()[: -len(end)]
        if name in found:
            raise UserError(
                f"{path} and {found[name].name}: two maps of one image; choose one with --suffix"
            )
        if path.suffix.lower() not in MAPS:
            raise UserError(f"{path}: unknown type of file; expected {', '.join(MAPS)}")
        found[name] = path
    if found:
        return found
    types = Counter(path.suffix or path.name for path in files).most_common(SHOWN)
    has = ", ".join(f"{count} {suffix}" for suffix, count in types) or "nothing"
    raise UserError(f"{folder}: no anomaly maps ({', '.join(ends)}) in it or below, found {has}")


def _masks(folder: Path) -> dict[str, Path]:
    """Image name -> mask. Where <image>_mask and <image> both exist, <image> is the photograph."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of masks")
    plain: dict[str, Path] = {}
    marked: dict[str, Path] = {}
    for path in _files(folder):
        if path.suffix.lower() not in MASKS:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        chosen = marked if name.endswith("_mask") else plain
        name = name.removesuffix("_mask")
        if name in chosen:
            raise UserError(f"{path} and {chosen[name].name}: two masks of one image; keep one")
        chosen[name] = path
    if not plain and not marked:
        raise UserError(f"{folder}: no masks ({', '.join(MASKS)}) in it or below")
    return dict(sorted((plain | marked).items()))


def _files(folder: Path) -> list[Path]:
    """All files in and below the folder, sorted, except hidden ones."""
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [folder / p for p in sorted(inside) if not any(x.startswith(".") for x in p.parts)]


def _only_folder(folder: Path) -> str | None:
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    return names[0] if len(names) == 1 and (folder / names[0]).is_dir() else None


def _defect(name: str) -> str:
    return name.rpartition("/")[0]


def _names(names: list[str], folder: Path) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{folder / names[0]}{more}"
