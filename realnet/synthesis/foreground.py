"""Where the product is: anomalies are synthesised on it, not on the background.

The rules are data (``foreground.yaml``): channel, threshold method, side, closing, opening.
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

_CHANNELS = {"red": 0, "green": 1, "blue": 2}
_METHODS = {"otsu": cv2.THRESH_OTSU, "triangle": cv2.THRESH_TRIANGLE}
WHOLE = {"method": "none"}


@cache
def _table() -> dict:
    return yaml.safe_load(Path(__file__).with_name("foreground.yaml").read_text(encoding="utf-8"))


def rule_for(mode: str, dataset: str, category: str) -> dict:
    """The rule of ``synthesis.foreground`` for a category.

    ``rules``: the table's entry, ``auto`` where there is none (an own data set); ``none``: the
    whole image, as the official code has it for textures.
    """
    if mode == "none":
        return WHOLE
    if mode == "rules":
        return _table().get(dataset, {}).get(category, {"method": "auto"})
    return {"method": "auto"}


def foreground(image: np.ndarray, rule: dict) -> np.ndarray:
    """Boolean foreground ``[H, W]`` of an RGB uint8 image ``[H, W, 3]``."""
    if rule["method"] == "none":
        return np.ones(image.shape[:2], bool)
    if rule["method"] == "auto":
        return _automatic(image)
    channel = rule.get("channel", "grey")
    plane = (
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if channel == "grey"
        else np.ascontiguousarray(image[..., _CHANNELS[channel]])
    )
    _, bright = cv2.threshold(plane, 0, 255, cv2.THRESH_BINARY | _METHODS[rule["method"]])
    mask = bright if rule["side"] == "bright" else 255 - bright
    # Kernel sizes are pixels at 256; smaller images get proportionally smaller kernels.
    for name, operation in (("close", cv2.MORPH_CLOSE), ("open", cv2.MORPH_OPEN)):
        side = round(rule.get(name, 0) * image.shape[0] / 256)
        if side > 1:
            mask = cv2.morphologyEx(mask, operation, np.ones((side, side), np.uint8))
    return mask > 0


def _automatic(image: np.ndarray) -> np.ndarray:
    """For data without a rule (ours): Otsu, and the side that the image border is *not* on.

    Where the border is not clearly on one side (textures, products that fill the frame) the whole
    image is foreground.
    """
    plane = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, bright = cv2.threshold(plane, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    bright = bright > 0
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]]).mean()
    if 0.1 < border < 0.9:
        return np.ones_like(bright)
    mask = ~bright if border >= 0.9 else bright
    side = max(3, round(6 * image.shape[0] / 256))
    kernel = np.ones((side, side), np.uint8)
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    return closed > 0 if closed.mean() > 0.02 else np.ones_like(bright)


def foregrounds(images: torch.Tensor, rule: dict) -> torch.Tensor:
    """Boolean ``[N, S, S]`` for uint8 images ``[N, 3, S, S]``; computed once per training image."""
    pictures = images.permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.stack([foreground(np.ascontiguousarray(p), rule) for p in pictures]))
