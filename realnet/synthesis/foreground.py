"""Foreground masks: anomalies are synthesised on the product, not on the background.

The rules are data (``foreground.yaml``): channel, threshold method, side, closing, opening. The
automatic rule, for data without one, is ours (``automatic_foreground.py``).
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from realnet.synthesis.automatic_foreground import find_product

_CHANNELS = {"red": 0, "green": 1, "blue": 2}
_METHODS = {"otsu": cv2.THRESH_OTSU, "triangle": cv2.THRESH_TRIANGLE}
_NAMES = {"otsu": "Otsu", "triangle": "Triangle"}
WHOLE = {"method": "none"}
AUTO = {"method": "auto"}


@cache
def _table() -> dict:
    return yaml.safe_load(Path(__file__).with_name("foreground.yaml").read_text(encoding="utf-8"))


def rule_for(mode: str, dataset: str, category: str) -> dict:
    """The rule of ``synthesis.foreground`` for a category.

    ``rules``: the table's entry, ``auto`` where there is none (your own data); ``none``: the
    whole image, as in the official code for textures.
    """
    if mode == "none":
        return WHOLE
    if mode == "rules":
        return _table().get(dataset, {}).get(category, AUTO)
    return AUTO


def describe(rule: dict) -> str:
    """A rule in words, e.g. ``Otsu, dark side, G channel, close 6``; kernels in pixels of 256."""
    if rule["method"] == "none":
        return "whole image"
    if rule["method"] == "auto":
        return "automatic: unlike the background at the border"
    parts = [_NAMES[rule["method"]], f"{rule['side']} side"]
    if rule.get("channel", "grey") != "grey":
        parts.append(f"{rule['channel'][0].upper()} channel")
    parts += [f"{name} {rule[name]}" for name in ("close", "open") if rule.get(name)]
    return ", ".join(parts)


def foreground(image: np.ndarray, rule: dict) -> np.ndarray:
    """Boolean foreground ``[H, W]`` of an RGB uint8 image ``[H, W, 3]``.

    Source: the official data loader; at 256 x 256 pixels the masks are equal.
    """
    if rule["method"] == "none":
        return np.ones(image.shape[:2], bool)
    if rule["method"] == "auto":
        product = find_product(image)
        return np.ones(image.shape[:2], bool) if product is None else product
    channel = rule.get("channel", "grey")
    plane = (
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if channel == "grey"
        else np.ascontiguousarray(image[..., _CHANNELS[channel]])
    )
    _, bright = cv2.threshold(plane, 0, 255, cv2.THRESH_BINARY | _METHODS[rule["method"]])
    mask = bright if rule["side"] == "bright" else 255 - bright
    for name in ("close", "open"):
        side = round(rule.get(name, 0) * image.shape[0] / 256)
        if side > 1:
            mask = morph(mask, side, name)
    return mask > 0


def morph(mask: np.ndarray, side: int, name: str) -> np.ndarray:
    """Closing (``close``) or opening (``open``) of a uint8 mask ``[H, W]`` with a square.

    As scikit-image does it, which the official code uses: where the side is even, the two steps
    use opposite anchors, so that the mask stays in place (OpenCV's own functions would move it by
    one pixel), and the image is padded beyond its border.
    """
    square, anchor, pad = np.ones((side, side), np.uint8), (side - 1) // 2, (side - 1) * (~side & 1)
    wide = cv2.copyMakeBorder(mask, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    steps = (cv2.dilate, cv2.erode) if name == "close" else (cv2.erode, cv2.dilate)
    for step, at in zip(steps, (anchor, side - 1 - anchor), strict=True):
        wide = step(wide, square, anchor=(at, at))
    return wide[pad : pad + mask.shape[0], pad : pad + mask.shape[1]]


def foregrounds(images: torch.Tensor, rule: dict) -> torch.Tensor:
    """Boolean ``[N, S, S]`` for uint8 images ``[N, 3, S, S]``; computed once per training image.

    The automatic rule decides for all images together whether there is a product on a
    background: unless two of three images show one, the whole image is foreground in each.
    """
    pictures = [np.ascontiguousarray(p) for p in images.permute(0, 2, 3, 1).numpy()]
    if rule["method"] != "auto":
        return torch.from_numpy(np.stack([foreground(p, rule) for p in pictures]))
    products = [find_product(p) for p in pictures]
    whole = np.ones(pictures[0].shape[:2], bool)
    if 3 * sum(product is None for product in products) > len(products):
        products = [None] * len(products)
    return torch.from_numpy(np.stack([whole if p is None else p for p in products]))
