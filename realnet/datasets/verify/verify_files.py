"""Checks of `realnet data verify` on a single file, which is read once, hashed and decoded."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from realnet.config.sections import MaskRule
from realnet.core.errors import UserError
from realnet.datasets.images import mask_threshold, mask_values, open_image, rgb_of
from realnet.datasets.items import Entry

# Kind -> how bad it is, and its heading. The order is that of the report.
KINDS: dict[str, tuple[str, str]] = {
    "layout": ("error", "folders that fit no layout"),
    "count": ("error", "other image counts than the published ones"),
    "missing": ("error", "listed, but not there"),
    "unreadable": ("error", "images that do not decode"),
    "damaged": ("error", "files that decode, but are damaged"),
    "mask-missing": ("error", "anomalous images without a mask"),
    "mask-unreadable": ("error", "masks that do not decode"),
    "mask-size": ("error", "masks of another size than their image"),
    "mask-empty": ("error", "masks that mark nothing"),
    "mask-unused": ("error", "masks that belong to no anomalous image"),
    "leak-bytes": ("error", "test images that are training images too, byte for byte"),
    "leak-pixels": ("error", "test images with the same pixels as a training image"),
    "manifest-unreadable": ("error", "manifests that cannot be read"),
    "manifest-missing": ("error", "in the manifest, but not there"),
    "manifest-unlisted": ("error", "not in the manifest"),
    "manifest-hash": ("error", "other bytes than the manifest says"),
    "manifest-size": ("error", "another size in pixels than the manifest says"),
    "manifest-differs": ("error", "split, defect type, mask or use differs from the manifest"),
    "mask-values": ("warning", "masks of more than two values"),
    "mask-jpeg": ("warning", "masks stored as JPEG"),
    "mask-full": ("warning", "masks that mark the whole image"),
    "duplicate-bytes": ("warning", "the same image twice in one split, byte for byte"),
    "duplicate-pixels": ("warning", "the same pixels twice in one split"),
    "unused-images": ("warning", "images that the layout does not take"),
    "no-masks": ("note", "no masks: image metrics only"),
    "sizes": ("note", "several image sizes"),
    "sixteen-bit": ("note", "16-bit images: the upper eight bits count"),
    "palette": ("note", "images with a palette"),
    "alpha": ("note", "images with an alpha channel, opaque"),
    "turned": ("note", "images that are turned as their EXIF data say"),
    "excluded": ("note", "excluded by a rule of prepare"),
    "image-only": ("note", "in image metrics only by a rule of prepare"),
    "passed-over": ("note", "other files, passed over"),
}

_IDS = 32  # mask values below this are small ids of regions or defect types, as in VisA


@dataclass(frozen=True)
class Problem:
    """One thing found; ``path`` is the file it is about, or a category's folder."""

    kind: str  # a key of KINDS
    path: Path
    message: str
    severity: str  # "error", "warning" or "note"


def problem(kind: str, path: Path, message: str, severity: str | None = None) -> Problem:
    """A problem of the severity that its kind has, unless another one is given."""
    return Problem(kind, path, message, severity or KINDS[kind][0])


@dataclass(frozen=True)
class Seen:
    """What was found in one image and its mask."""

    entry: Entry
    bytes: int = 0  # of image and mask
    sha256: str = ""  # "" if the file could not be read at all
    pixels: str = ""  # digest of size and RGB values; "" if the image does not decode
    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    turned: bool = False
    mask_read: bool = False
    mask_sha256: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def use(self) -> str:
        """What the image is measured for, by the rule for empty masks."""
        kinds = {found.kind for found in self.problems}
        if "excluded" in kinds:
            return "excluded"
        return "in image metrics only" if "image-only" in kinds else "in all metrics"


def see(entry: Entry, has_masks: bool, rule: MaskRule) -> Seen:
    """Read, hash and decode an image and its mask. Nothing is raised: see ``Seen.problems``."""
    problems: list[Problem] = []
    facts: dict = {"bytes": 0}
    data = _read(entry.path, problems, "missing", "unreadable")
    if data is not None:
        facts |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        image = _decode(entry.path, data, problems, "unreadable")
        if image is not None:
            facts |= _image_facts(image, entry.path, problems)
    if entry.mask_path is not None:
        raw = _read(entry.mask_path, problems, "mask-missing", "mask-unreadable")
        if raw is not None:
            facts["bytes"] += len(raw)
            facts["mask_sha256"] = hashlib.sha256(raw).hexdigest()
            mask = _decode(entry.mask_path, raw, problems, "mask-unreadable")
            if mask is not None:
                size = (facts["width"], facts["height"]) if "width" in facts else None
                problems += _judge_mask(mask, entry.mask_path, entry.path, size, rule)
                facts["mask_read"] = True
    elif entry.label and has_masks:
        message = f"no mask for this image of defect type {entry.defect}"
        problems.append(problem("mask-missing", entry.path, message))
    return Seen(entry, **facts, problems=tuple(problems))


def see_unused_mask(path: Path) -> Problem:
    """A mask without anomalous image: a warning if it is empty, else an error."""
    problems: list[Problem] = []
    data = _read(path, problems, "missing", "mask-unreadable")
    mask = None if data is None else _decode(path, data, problems, "mask-unreadable")
    if mask is not None and not (mask_values(mask) > mask_threshold(mask)).any():
        return problem("mask-unused", path, "has no anomalous image; it marks nothing", "warning")
    unreadable = f"; and it is {problems[0].message}" if problems else ""
    message = f"its anomalous image is not there, or named differently{unreadable}"
    return problem("mask-unused", path, message)


def _read(path: Path, problems: list[Problem], missing: str, unreadable: str) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        problems.append(problem(missing, path, "no such file"))
    except OSError as error:
        problems.append(problem(unreadable, path, f"cannot be read: {error.strerror}"))
    return None


def _decode(path: Path, data: bytes, problems: list[Problem], kind: str) -> Image.Image | None:
    try:
        image = open_image(path, data)
    except UserError as error:
        problems.append(problem(kind, path, _without(path, error)))
        return None
    if image.format == "PNG":
        # Decoding stops after the last row: a wrong checksum or truncation after it is not noticed.
        try:
            Image.open(BytesIO(data)).verify()
        except (OSError, SyntaxError, ValueError) as error:
            message = f"a checksum is wrong or the end is missing ({error}); copy it again"
            problems.append(problem("damaged", path, message))
    return image


def _without(path: Path, error: UserError) -> str:
    return str(error).removeprefix(f"{path}: ")


def _image_facts(image: Image.Image, path: Path, problems: list[Problem]) -> dict:
    width, height = image.size
    facts = {"format": image.format or "", "mode": image.mode, "turned": image.info["turned"]}
    facts |= {"width": width, "height": height}
    try:
        rgb = rgb_of(image, path)
    except UserError as error:
        problems.append(problem("unreadable", path, _without(path, error)))
        return facts
    digest = hashlib.sha256(repr(rgb.shape).encode())
    digest.update(rgb.data)
    return facts | {"pixels": digest.hexdigest()}


def _judge_mask(
    mask: Image.Image, path: Path, image: Path, size: tuple[int, int] | None, rule: MaskRule
) -> list[Problem]:
    values = mask_values(mask)
    threshold = mask_threshold(mask, rule.threshold)
    found = []
    if size is not None and mask.size != size:
        message = f"{_x(mask.size)} pixels, its image {image} {_x(size)}"
        found.append(problem("mask-size", path, message))
    marked = values > threshold
    if not marked.any() and rule.empty != "error":
        kind = "excluded" if rule.empty == "exclude" else "image-only"
        found.append(problem(kind, image, f"its mask {path.name} marks nothing"))
    elif not marked.any():
        message = f"marks nothing, but {image} counts as anomalous"
        found.append(problem("mask-empty", path, message))
    elif marked.all():
        found.append(problem("mask-full", path, "marks every pixel; is it inverted?"))
    distinct = _distinct(values)
    if mask.format == "JPEG":
        message = f"values above {threshold} count; {len(distinct)} values found"
        found.append(problem("mask-jpeg", path, message))
    elif len(distinct) > 2 and distinct[-1] >= _IDS:
        below = (marked & (values < distinct[-1])).sum() / marked.sum()
        message = (
            f"{_listed(distinct)}: each above {threshold} counts as anomalous;"
            f" {below:.1%} of the marked pixels are below {distinct[-1]}"
        )
        found.append(problem("mask-values", path, message))
    return found


def _distinct(values: np.ndarray) -> list[int]:
    """Sorted values; by counting, which is far quicker than sorting, where they are bytes."""
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    return np.unique(values).tolist()


def _listed(values: list) -> str:
    shown = values if len(values) <= 5 else [*values[:3], "…", values[-1]]
    return f"{len(values)} values ({', '.join(str(value) for value in shown)})"


def _x(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
