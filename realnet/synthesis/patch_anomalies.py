"""Anomalies with their own masks: CutPaste and NSA, patches of normal images at other positions.

Both process one image at a time on the CPU with NumPy and OpenCV. An item depends only on its
generator. Sizes are fractions of the image's side or area, or pixels of 256.
"""

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional as TF

from realnet.config.sections import CutPaste, Nsa

TRIES = 8  # attempts to place a patch before it is omitted
RIM = 1  # pixels at the image's border that Poisson cloning needs around it
LEAST = 5  # pixels per side, since OpenCV cannot clone a thinner patch; also of a mask
CLONES = {"source": cv2.NORMAL_CLONE, "mixed": cv2.MIXED_CLONE}

Anomaly = tuple[np.ndarray, np.ndarray]  # A uint8 [S, S, 3], M bool [S, S]


def cutpaste(
    image: np.ndarray, foreground: np.ndarray, params: CutPaste, rng: np.random.Generator
) -> Anomaly | None:
    """A rectangle of the image, colours jittered, pasted elsewhere in it; or, thin and rotated, a
    scar. M is the part pasted on the foreground; None if no place for it was found.

    image uint8 ``[S, S, 3]``, foreground bool ``[S, S]``. The centre of the patch lies on the
    foreground, and pixels outside it are unchanged.
    Source: CutPaste, Li et al. 2021, sec. 2.2; the foreground is ours.
    """
    size, places = image.shape[0], np.argwhere(foreground)
    if not len(places):
        return None
    if rng.random() < params.scars:
        width, height = (
            rng.uniform(low, high) * size / 256
            for low, high in (params.scar_width, params.scar_length)
        )
        degrees = rng.uniform(-params.scar_rotation, params.scar_rotation)
    else:
        smallest, largest = params.area
        area, aspect = rng.uniform(smallest, largest) * size**2, _aspect(params.aspect, rng)
        width, height, degrees = np.sqrt(area * aspect), np.sqrt(area / aspect), 0.0
    width, height = (int(np.clip(round(side), 1, size - 1)) for side in (width, height))
    top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
    patch = _jittered(image[top : top + height, left : left + width], params.jitter, rng)
    patch, footprint = _turned(patch, degrees)
    for _ in range(TRIES):
        centre = places[rng.integers(len(places))]
        moved = np.abs(centre - (top + height / 2, left + width / 2))
        if moved[0] < height / 2 and moved[1] < width / 2:
            continue  # "elsewhere" is not where it was cut
        mask, source = _placed(footprint, centre, size)
        mask &= foreground
        result = image.copy()
        result[mask] = patch[source[mask, 0], source[mask, 1]]
        if mask.any() and (result != image).any():
            return result, mask
    return None


def _aspect(bounds: list[float], rng: np.random.Generator) -> float:
    """Width over height; wide and tall patches are equally frequent where both are possible."""
    low, high = bounds
    if low < 1 < high:
        return rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
    return rng.uniform(low, high)


def _jittered(patch: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue changed by up to ``amount``, uint8 ``[h, w, 3]``."""
    factors = 1 + amount * rng.uniform(-1, 1, 3)
    turn = amount * rng.uniform(-1, 1)
    picture = torch.from_numpy(np.ascontiguousarray(patch)).permute(2, 0, 1)
    picture = TF.adjust_brightness(picture, factors[0])
    picture = TF.adjust_contrast(picture, factors[1])
    picture = TF.adjust_saturation(picture, factors[2])
    return TF.adjust_hue(picture, turn).permute(1, 2, 0).contiguous().numpy()


def _turned(patch: np.ndarray, degrees: float) -> Anomaly:
    """The patch rotated about its centre, in its bounding box, and its pixels there as a mask."""
    height, width = patch.shape[:2]
    if not degrees:
        return patch, np.ones((height, width), bool)
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    cosine, sine = np.abs(turn[0, :2])
    box = int(np.ceil(width * cosine + height * sine)), int(np.ceil(width * sine + height * cosine))
    turn[:, 2] += (np.array(box) - (width, height)) / 2
    whole = np.full((height, width), 255, np.uint8)
    footprint = cv2.warpAffine(whole, turn, box, flags=cv2.INTER_LINEAR) >= 128
    turned = cv2.warpAffine(patch, turn, box, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return turned, footprint


def _placed(footprint: np.ndarray, centre: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The footprint around ``centre`` in an image, bool ``[S, S]``, cut off at the border; and the
    row and column of the patch at each pixel, int ``[S, S, 2]`` (meaningless outside)."""
    mask, source = np.zeros((size, size), bool), np.zeros((size, size, 2), int)
    start = centre - np.array(footprint.shape) // 2
    rows, columns = (np.arange(n) + s for n, s in zip(footprint.shape, start, strict=True))
    inside = [(at >= 0) & (at < size) for at in (rows, columns)]
    here, there = np.ix_(rows[inside[0]], columns[inside[1]]), np.ix_(*inside)
    mask[here] = footprint[there]
    source[here] = np.moveaxis(np.indices(footprint.shape), 0, -1)[there]
    return mask, source


# --- NSA -----------------------------------------------------------------------------------------


def nsa(
    image: np.ndarray,
    foreground: np.ndarray,
    other: np.ndarray,
    other_foreground: np.ndarray,
    params: Nsa,
    rng: np.random.Generator,
) -> Anomaly | None:
    """Patches of another normal image, resized, blended into this one by Poisson image editing.

    M is where the mean difference of the channels exceeds ``threshold`` grey levels, after a
    median filter against single pixels; so it is never larger than the patches. None if fewer than
    ``LEAST`` pixels exceed it.

    Images uint8 ``[S, S, 3]``, foregrounds bool ``[S, S]``. A patch consists of product by at least
    ``object_share``, at its origin and at its target, and changes only the foreground.
    Source: Natural Synthetic Anomalies, Schlüter et al. 2022, and the authors' code.
    """
    result, touched = image, np.zeros(foreground.shape, bool)
    places = np.argwhere(foreground)
    if not len(places):
        return None
    for _ in range(rng.integers(1, params.patches + 1)):
        for _ in range(TRIES):
            drawn = _patch(other, other_foreground, foreground, places, params, rng)
            if drawn is not None:
                patch, mask = drawn
                result = clone(result, patch, mask, params.gradients)
                touched |= mask
                break
    difference = np.abs(result.astype(np.int16) - image).mean(axis=2)
    mask = ((difference > params.threshold) & touched).astype(np.uint8)
    mask = cv2.medianBlur(mask, 5 if len(image) >= 192 else 3).astype(bool) & touched
    return (result, mask) if mask.sum() >= LEAST else None


def _patch(
    other: np.ndarray,
    other_foreground: np.ndarray,
    foreground: np.ndarray,
    places: np.ndarray,
    params: Nsa,
    rng: np.random.Generator,
) -> Anomaly | None:
    """A canvas ``[S, S, 3]`` with the patch in its place, and its mask; None: rejected."""
    size = other.shape[0]
    sides = params.smallest + rng.gamma(params.gamma_shape, params.gamma_scale, 2)
    height, width = np.rint(np.minimum(sides, params.largest) * size).astype(int).clip(1, size)
    least, most = params.resize
    factor = float(np.clip(rng.normal(1, 0.5), least, most))
    top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
    centre = places[rng.integers(len(places))]
    if other_foreground[top : top + height, left : left + width].mean() < params.object_share:
        return None
    room = size - 2 * RIM
    shape = np.rint(np.array([height, width]) * factor).astype(int).clip(1, room)
    start = (centre - shape // 2).clip(RIM, size - RIM - shape)
    where = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
    mask = np.zeros(foreground.shape, bool)
    mask[where] = foreground[where]
    if mask[where].mean() < params.object_share or min(cv2.boundingRect(_bytes(mask))[2:]) < LEAST:
        return None
    canvas = np.zeros_like(other)
    patch = np.ascontiguousarray(other[top : top + height, left : left + width])
    canvas[where] = cv2.resize(patch, (int(shape[1]), int(shape[0])))
    return canvas, mask


def clone(image: np.ndarray, patch: np.ndarray, mask: np.ndarray, gradients: str) -> np.ndarray:
    """``patch`` blended into ``image`` inside ``mask`` by Poisson's equation; outside is the image.

    Images uint8 ``[S, S, 3]``, of which ``patch`` is used only inside the mask; mask bool
    ``[S, S]``, at least one pixel from the border. gradients: ``source``, or ``mixed``: the
    stronger of both gradients.
    Source: Pérez et al. 2003, as `cv2.seamlessClone`.
    """
    x, y, width, height = cv2.boundingRect(_bytes(mask))
    centre = (x + width // 2, y + height // 2)
    blended = cv2.seamlessClone(patch, image, _bytes(mask), centre, CLONES[gradients])
    # OpenCV solves for the whole box around the mask.
    return np.where(mask[..., None], blended, image)


def _bytes(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255
