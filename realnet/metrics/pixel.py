"""Metrics of pixels and regions, all from one pass over ranks."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from realnet.core.errors import UserError
from realnet.metrics.arrays import (
    array,
    binary,
    is_limit,
    maps,
    on_device,
    same_shape,
    undefined,
)
from realnet.metrics.ranks import (
    THREADS,
    Ranks,
    Thresholds,
    in_threads,
    rank,
    rank_on_device,
    rank_top,
    total,
)
from realnet.metrics.regions import Regions, label_regions
from realnet.metrics.sums import log_shares, mean, overlap_areas

LIMITS = (0.3, 0.01, 0.05, 0.1, 1.0)
SIZES = (0.001, 0.01, 0.1)  # of regions, as fractions of the image
AUPIMO_BOUNDS = (1e-5, 1e-4)  # false positive rates


@dataclass(frozen=True)
class Localisation:
    """All metrics of one set of score maps; fractions, NaN where the data do not define them."""

    limits: tuple[float, ...]
    regions: Regions
    ranks: Ranks  # of the defect pixels, region by region, among all normal pixels
    ranks_in_normal: Ranks  # the same among those of normal images alone, as far as AUPIMO needs

    @property
    def defect_pixels(self) -> int:
        return self.ranks.defects

    @property
    def normal_pixels(self) -> int:
        return self.ranks.normals

    @property
    def defined(self) -> bool:
        return bool(self.ranks.defects and self.ranks.normals)

    @cached_property
    def auroc(self) -> float:
        """P(defect pixel > normal pixel) + P(equal) / 2, over all pixels of all images."""
        return self.ranks.auroc() if self.defined else math.nan

    @cached_property
    def ap(self) -> float:
        """Average precision of the pixels, without interpolation."""
        return self.ranks.ap() if self.defined else math.nan

    @cached_property
    def f1_max(self) -> float:
        """F1 of the pixels at its best threshold, which is chosen on these very masks."""
        return self.ranks.f1_max() if self.defined else math.nan

    @cached_property
    def per_region(self) -> np.ndarray:
        """Each region's own AU-PRO, float64 [R, limits]: the mean over regions is ``pro``."""
        if not self.defined:
            return np.full((self.regions.count, len(self.limits)), math.nan)
        return overlap_areas(self.ranks, self.regions, self.limits)

    @cached_property
    def pro(self) -> dict[float, float]:
        """Limit -> area under the curve of the mean overlap per region against the false positive
        rate, up to the limit, divided by the limit."""
        return {lim: mean(v) for lim, v in zip(self.limits, self.per_region.T, strict=True)}

    @cached_property
    def lost(self) -> np.ndarray:
        """int64 [R]: twice the pairs (its pixel, normal pixel) that each region loses."""
        return self.regions.per_region(self.ranks.wrong[self.ranks.thresholds.inverse])

    @cached_property
    def separation(self) -> np.ndarray:
        """The AUROC of each image's defect pixels against all normal pixels, float64 [N].

        NaN for images without defect. The pixel AUROC is their mean, weighted by defect pixels.
        """
        images, pixels = self.regions.images, self.regions.defect_pixels
        lost = np.zeros(len(pixels), np.int64)
        np.add.at(lost, images, self.lost)
        result = np.full(len(pixels), math.nan)
        there = pixels > 0
        if self.normal_pixels:
            result[there] = 1 - lost[there] / (2 * pixels[there] * self.normal_pixels)
        return result

    @cached_property
    def aupimo(self) -> np.ndarray:
        """AUPIMO of each image, float64 [N]; NaN for images without defect.

        Source: Bertoldo et al. 2024. The mean, over false positive rates from 1e-5 to 1e-4 on a
        logarithmic scale, of the share of the image's defect pixels that is found. The false
        positive rate is that of *normal images* alone. Where the published code samples thresholds,
        the area under the piecewise linear curve is computed here.
        """
        pixels = self.regions.defect_pixels
        result = np.full(len(pixels), math.nan)
        if self.ranks_in_normal.normals and self.defect_pixels:
            shares = log_shares(self.ranks_in_normal, *AUPIMO_BOUNDS)
            sums = self.regions.per_region(shares[self.ranks.thresholds.inverse])
            summed = np.bincount(self.regions.images, weights=sums, minlength=len(pixels))
            result[pixels > 0] = summed[pixels > 0] / pixels[pixels > 0]
        return result

    def by_defect(self, kinds: Sequence[str]) -> dict[str, dict[str, float | int]]:
        """Of each kind of defect, its pixels and regions against *all* normal pixels.

        ``kinds``: of each of the N images. Kinds without a defect pixel are left out.
        Keys: ``pro`` (first limit), ``pixel_auroc``, ``regions``, ``defect_pixels``.
        """
        if len(kinds) != self.regions.shape[0]:
            raise UserError(
                f"kinds of defects: {len(kinds)} given for {self.regions.shape[0]} images"
            )
        of_region = np.asarray(kinds, dtype=object)[self.regions.images]
        return {
            kind: self._part(of_region == kind)
            for kind in dict.fromkeys(sorted(of_region.tolist()))
        }

    def by_size(self, edges: Sequence[float] = SIZES) -> dict[str, dict[str, float | int]]:
        """Of regions by their area; ``edges``: ascending fractions of the image's area.

        Keys as for :meth:`by_defect`; sizes without a region are there, with NaN.
        """
        share = self.regions.areas / (self.regions.shape[1] * self.regions.shape[2])
        index = np.searchsorted(np.asarray(edges), share, side="right")
        percent = [f"{100 * edge:g}" for edge in edges]
        names = [f"< {percent[0]} %"]
        names += [f"{a}–{b} %" for a, b in itertools.pairwise(percent)]
        names += [f"≥ {percent[-1]} %"]
        return {name: self._part(index == k) for k, name in enumerate(names)}

    def _part(self, chosen: np.ndarray) -> dict[str, float | int]:
        """Metrics of the regions ``chosen``, bool [R]."""
        pixels = int(self.regions.areas[chosen].sum())
        defined = self.defined and pixels > 0
        lost = sum(int(value) for value in self.lost[chosen]) if defined else 0
        return {
            "pro": mean(self.per_region[chosen, 0]) if defined else math.nan,
            "pixel_auroc": 1 - lost / (2 * pixels * self.normal_pixels) if defined else math.nan,
            "regions": int(chosen.sum()),
            "defect_pixels": pixels,
        }


def localise(
    margins: Any,
    masks: Any,
    limits: Sequence[float] = LIMITS,
    labels: Any = None,
    on: str | None = None,
) -> Localisation:
    """All metrics of pixels and regions in one pass.

    ``margins`` [N, H, W], any real dtype (infinities are scores, NaN is an error); ``masks``
    [N, H, W], > 0 is anomalous; NumPy or torch, on any device. ``limits``: of PRO, in (0, 1], the
    headline first. ``labels`` [N], > 0 anomalous: which images are normal, for AUPIMO; default:
    those without a defect pixel. ``on``: "numpy" or "torch", default torch for tensors on a GPU;
    both give the same bits, since what is computed there are integers.

    O(N log N) time. Memory beyond the input: a copy of the normal scores, and one byte per pixel.
    """
    result = _localise(margins, masks, limits, labels, on)
    if not result.defined:
        warn_undefined(result)
    return result


def _localise(
    margins: Any, masks: Any, limits: Sequence[float], labels: Any = None, on: str | None = None
) -> Localisation:
    for limit in limits:
        is_limit(limit)
    regions = label_regions(masks)
    if on == "torch" or (on is None and on_device(margins)):
        same_shape(margins, regions.shape)
        ranks = _rank_torch(margins, regions, _normal(regions, labels))
    else:
        margins = maps(margins)
        same_shape(margins, regions.shape)
        margins = np.ascontiguousarray(margins)
        ranks = _rank_numpy(margins, binary(masks), regions, _normal(regions, labels))
    return Localisation(tuple(limits), regions, *ranks)


def warn_undefined(found: Localisation) -> None:
    missing = "normal" if found.defect_pixels else "anomalous"
    undefined("pixel_auroc, pixel_ap, pixel_f1_max and pro", f"{missing} pixels")


def _normal(regions: Regions, labels: Any) -> np.ndarray:
    """bool [N]: the normal images."""
    normal = regions.defect_pixels == 0
    if labels is None:
        return normal
    labels = array(labels)
    if labels.shape != normal.shape:
        raise UserError(f"labels: expected {len(normal)}, one per image, found {labels.shape}")
    return normal & ~(labels > 0)


def _rank_numpy(
    margins: np.ndarray, masks: np.ndarray, regions: Regions, normal: np.ndarray
) -> tuple[Ranks, Ranks]:
    """Among all normal pixels, and among those of the ``normal`` images."""
    thresholds = Thresholds.of(margins.reshape(-1)[regions.pixels])
    images = np.flatnonzero(normal)
    run = len(images) and images[-1] - images[0] + 1 == len(images)  # then nothing is copied
    chosen = slice(images[0], images[-1] + 1) if run else images

    def count(piece: slice | None) -> Ranks:
        if piece is None:
            return rank_top(thresholds, margins[chosen].reshape(-1), AUPIMO_BOUNDS[1])
        return rank(thresholds, margins[piece][~masks[piece]])

    edges = np.linspace(0, len(margins), min(THREADS, len(margins)) + 1).astype(int).tolist()
    pieces = [slice(start, end) for start, end in itertools.pairwise(edges)]
    *parts, top = in_threads(count, [*pieces, None])
    return total(thresholds, parts), top


def _rank_torch(margins: Any, regions: Regions, normal: np.ndarray) -> tuple[Ranks, Ranks]:
    """As :func:`_rank_numpy`, counted where the tensor is."""
    import torch

    margins = torch.as_tensor(margins)
    if margins.dtype in (torch.float16, torch.bfloat16):
        margins = margins.float()
    pixels = torch.from_numpy(regions.pixels).to(margins.device)
    flat = margins.reshape(-1)
    thresholds = Thresholds.of(flat[pixels].cpu().numpy())
    kept = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
    kept[pixels] = False
    kept = kept.view(margins.shape)
    parts = []
    for wanted in (False, True):
        index = torch.from_numpy(np.flatnonzero(normal == wanted)).to(margins.device)
        parts.append(rank_on_device(thresholds, margins[index][kept[index]]))
    return parts[0] + parts[1], parts[1]


# --- plain results -------------------------------------------------------------------------------


def pixel_metrics(
    margins: Any, masks: Any, pro_limit: float = 0.3, limits: Sequence[float] = ()
) -> dict[str, Any]:
    """Localisation metrics over all pixels of all images, pooled; arguments as :func:`localise`.

    Returns fractions, NaN with a warning where undefined: ``pixel_auroc``; ``pixel_ap``;
    ``pixel_f1_max``; ``pro`` up to ``pro_limit``; with ``limits`` also ``pro_at``, which has PRO
    at each of them by the limit's shortest text; and the counts ``regions``, ``defect_pixels``,
    ``normal_pixels``.
    """
    found = localise(margins, masks, (pro_limit, *(lim for lim in limits if lim != pro_limit)))
    return summary(found) | ({"pro_at": pro_at(found)} if limits else {})


def summary(found: Localisation) -> dict[str, float | int]:
    """What :func:`pixel_metrics` returns, without ``pro_at``."""
    return {
        "pixel_auroc": found.auroc,
        "pixel_ap": found.ap,
        "pixel_f1_max": found.f1_max,
        "pro": found.pro[found.limits[0]],
        "regions": found.regions.count,
        "defect_pixels": found.defect_pixels,
        "normal_pixels": found.normal_pixels,
    }


def pro_at(found: Localisation) -> dict[str, float]:
    return {f"{limit:g}": found.pro[limit] for limit in sorted(found.limits)}


def image_separation(margins: Any, masks: Any) -> np.ndarray:
    """How well each image's defect stands out: its own share of the pixel AUROC, float64 [N].

    See :attr:`Localisation.separation`; NaN, without a warning, where there is none.
    """
    return _localise(margins, masks, (1.0,)).separation
