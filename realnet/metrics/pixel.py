"""Pixel- and region-level metrics, all from one pass over ranks."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from realnet.metrics.arrays import (
    MetricInputError,
    array,
    defect_and_normal,
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
SIZES = (0.001, 0.01, 0.1)  # bin edges of region areas, as fractions of the image
AUPIMO_BOUNDS = (1e-5, 1e-4)  # false positive rates


@dataclass(frozen=True)
class Localisation:
    """All localisation metrics of one set of anomaly maps: fractions, NaN where undefined."""

    limits: tuple[float, ...]
    regions: Regions
    ranks: Ranks  # of the defect pixels, region by region, among all normal pixels
    ranks_in_normal: Ranks  # among pixels of normal images only, as far as AUPIMO needs

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
        """Pixel AUROC: P(defect pixel > normal pixel) + P(equal) / 2, pooled over all images."""
        return self.ranks.auroc() if self.defined else math.nan

    @cached_property
    def ap(self) -> float:
        """Average precision of the pixels, without interpolation."""
        return self.ranks.ap() if self.defined else math.nan

    @cached_property
    def f1_max(self) -> float:
        """Largest F1 of the pixels over all thresholds, chosen on the same masks."""
        return self.ranks.f1_max() if self.defined else math.nan

    @cached_property
    def per_region(self) -> np.ndarray:
        """AU-PRO of each region, float64 [R, limits]: their mean is ``pro``."""
        if not self.defined:
            return np.full((self.regions.count, len(self.limits)), math.nan)
        return overlap_areas(self.ranks, self.regions, self.limits)

    @cached_property
    def pro(self) -> dict[float, float]:
        """AU-PRO by limit: area under the curve of the mean overlap per region over the false
        positive rate, up to the limit, divided by the limit."""
        return {lim: mean(v) for lim, v in zip(self.limits, self.per_region.T, strict=True)}

    @cached_property
    def lost(self) -> np.ndarray:
        """int64 [R]: twice the pairs (pixel of the region, normal pixel) ranked wrongly."""
        return self.regions.per_region(self.ranks.wrong[self.ranks.thresholds.inverse])

    @cached_property
    def separation(self) -> np.ndarray:
        """AUROC of each image's defect pixels against all normal pixels, float64 [N].

        NaN for images without defect pixels. The pixel AUROC is the mean, weighted by defect
        pixels.
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
        """AUPIMO of each image, float64 [N]; NaN for images without defect pixels.

        The mean recall of the image's defect pixels over false positive rates from 1e-5 to 1e-4 on
        a logarithmic scale. The false positive rate is that of *normal images* only. The published
        code samples thresholds; here the area under the piecewise linear curve is exact.
        Source: Bertoldo et al. 2024.
        """
        pixels = self.regions.defect_pixels
        result = np.full(len(pixels), math.nan)
        if self.ranks_in_normal.normals and self.defect_pixels:
            shares = log_shares(self.ranks_in_normal, *AUPIMO_BOUNDS)
            sums = self.regions.per_region(shares[self.ranks.thresholds.inverse])
            summed = np.bincount(self.regions.images, weights=sums, minlength=len(pixels))
            result[pixels > 0] = summed[pixels > 0] / pixels[pixels > 0]
        return result

    def by_defect(self, defects: Sequence[str]) -> dict[str, dict[str, float | int]]:
        """Metrics of each defect type: its pixels and regions against *all* normal pixels.

        ``defects``: the defect type of each of the N images. Types without defect pixels are
        omitted. Keys: ``pro`` (first limit), ``pixel_auroc``, ``regions``, ``defect_pixels``.
        """
        if len(defects) != self.regions.shape[0]:
            raise MetricInputError(
                f"defect types: {len(defects)} given for {self.regions.shape[0]} images"
            )
        of_region = np.asarray(defects, dtype=object)[self.regions.images]
        return {
            defect: self._part(of_region == defect)
            for defect in dict.fromkeys(sorted(of_region.tolist()))
        }

    def by_size(self, edges: Sequence[float] = SIZES) -> dict[str, dict[str, float | int]]:
        """Metrics of the regions by area; ``edges``: ascending fractions of the image's area.

        Keys as for :meth:`by_defect`; bins without a region have NaN.
        """
        share = self.regions.areas / (self.regions.shape[1] * self.regions.shape[2])
        index = np.searchsorted(np.asarray(edges), share, side="right")
        percent = [f"{100 * edge:g}" for edge in edges]
        names = [f"< {percent[0]} %"]
        names += [f"{a}–{b} %" for a, b in itertools.pairwise(percent)]
        names += [f"≥ {percent[-1]} %"]
        return {name: self._part(index == k) for k, name in enumerate(names)}

    def _part(self, chosen: np.ndarray) -> dict[str, float | int]:
        """Metrics of some regions; ``chosen``: bool [R]."""
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
    pixel_labelled: Any = None,
) -> Localisation:
    """All pixel- and region-level metrics in one pass.

    O(N log N) time for N pixels. Memory beyond the input: a copy of the normal scores, and a few
    bytes per pixel.

    Parameters
    ----------
    margins : array-like of shape (N, H, W)
        Anomaly maps of any real dtype, NumPy or torch on any device. Infinities are scores.
    masks : array-like of shape (N, H, W)
        Anomalous where > 0.
    limits : sequence of float in (0, 1]
        False positive rates up to which PRO is integrated, the headline first.
    labels : array-like of shape (N,), optional
        Anomalous where > 0: which images are normal, for AUPIMO. Default: those without defect
        pixels.
    on : {"numpy", "torch"}, optional
        Default: torch for tensors on a GPU. Both count integers, so the results have the same bits.
    pixel_labelled : array-like of shape (N,), optional
        Which images have a pixel ground truth. The pixels of the others are in no metric; they
        keep their index. Default: all.

    Returns
    -------
    Localisation
        NaN, with an :class:`UndefinedMetricWarning`, where one class of pixels is missing.

    Raises
    ------
    ValueError
        For shapes that do not match, NaN, a limit outside (0, 1].

    References
    ----------
    AU-PRO: Bergmann et al. 2021. AUPIMO: Bertoldo et al. 2024. The rank form: ours.

    Examples
    --------
    >>> found = localise([[[0.9, 0.2], [0.1, 0.3]]], [[[1, 0], [0, 0]]])
    >>> found.auroc, found.pro[0.3]
    (1.0, 1.0)
    """
    result = _localise(margins, masks, limits, labels, on, pixel_labelled)
    if not result.defined:
        warn_undefined(result)
    return result


def _localise(
    margins: Any,
    masks: Any,
    limits: Sequence[float],
    labels: Any = None,
    on: str | None = None,
    pixel_labelled: Any = None,
) -> Localisation:
    for limit in limits:
        is_limit(limit)
    defect, normal = defect_and_normal(masks, pixel_labelled)
    regions = label_regions(defect)
    images = _normal_images(normal, labels)
    if on == "torch" or (on is None and on_device(margins)):
        same_shape(margins, regions.shape)
        ranks = _rank_torch(margins, regions, normal, images)
    else:
        margins = maps(margins)
        same_shape(margins, regions.shape)
        margins = np.ascontiguousarray(margins)
        ranks = _rank_numpy(margins, regions, normal, images)
    return Localisation(tuple(limits), regions, *ranks)


def warn_undefined(found: Localisation) -> None:
    missing = "normal" if found.defect_pixels else "anomalous"
    undefined("pixel_auroc, pixel_ap, pixel_f1_max and pro", f"{missing} pixels")


def _normal_images(normal: np.ndarray, labels: Any) -> np.ndarray:
    """bool [N]: which images are normal; ``normal`` bool [N, H, W]: which pixels are."""
    images = np.asarray(normal.all(axis=(1, 2)))
    if labels is None:
        return images
    labels = array(labels)
    if labels.shape != images.shape:
        raise MetricInputError(
            f"labels: expected {len(images)}, one per image, found {labels.shape}"
        )
    return images & ~(labels > 0)


def _rank_numpy(
    margins: np.ndarray, regions: Regions, normal: np.ndarray, images: np.ndarray
) -> tuple[Ranks, Ranks]:
    """Among all ``normal`` pixels, and among those of the normal ``images``."""
    thresholds = Thresholds.of(margins.reshape(-1)[regions.pixels])
    places = np.flatnonzero(images)
    run = len(places) and places[-1] - places[0] + 1 == len(places)  # then a view
    chosen = slice(places[0], places[-1] + 1) if run else places

    def count(piece: slice | None) -> Ranks:
        if piece is None:
            return rank_top(thresholds, margins[chosen].reshape(-1), AUPIMO_BOUNDS[1])
        return rank(thresholds, margins[piece][normal[piece]])

    edges = np.linspace(0, len(margins), min(THREADS, len(margins)) + 1).astype(int).tolist()
    pieces = [slice(start, end) for start, end in itertools.pairwise(edges)]
    *parts, top = in_threads(count, [*pieces, None])
    return total(thresholds, parts), top


def _rank_torch(
    margins: Any, regions: Regions, normal: np.ndarray, images: np.ndarray
) -> tuple[Ranks, Ranks]:
    """As :func:`_rank_numpy`, counted on the device of the tensor."""
    import torch

    margins = torch.as_tensor(margins)
    if margins.dtype in (torch.float16, torch.bfloat16):
        margins = margins.float()
    pixels = torch.from_numpy(regions.pixels).to(margins.device)
    flat = margins.reshape(-1)
    thresholds = Thresholds.of(flat[pixels].cpu().numpy())
    kept = torch.from_numpy(normal).to(margins.device)
    parts = []
    for wanted in (False, True):
        index = torch.from_numpy(np.flatnonzero(images == wanted)).to(margins.device)
        parts.append(rank_on_device(thresholds, margins[index][kept[index]]))
    return parts[0] + parts[1], parts[1]


# --- results as dictionaries ---------------------------------------------------------------------


def pixel_metrics(
    margins: Any, masks: Any, pro_limit: float = 0.3, limits: Sequence[float] = ()
) -> dict[str, Any]:
    """Localisation metrics over the pooled pixels of all images.

    Parameters
    ----------
    margins, masks : array-like of shape (N, H, W)
        As for :func:`localise`.
    pro_limit : float
        False positive rate up to which ``pro`` is integrated.
    limits : sequence of float
        Further limits, reported in ``pro_at``.

    Returns
    -------
    dict
        ``pixel_auroc``, ``pixel_ap``, ``pixel_f1_max``, ``pro``: fractions, NaN with a warning
        where undefined; the counts ``regions``, ``defect_pixels``, ``normal_pixels``; with
        ``limits`` also ``pro_at``, PRO by the text of the limit (``"0.3"``).

    Examples
    --------
    >>> pixel_metrics([[[0.9, 0.2], [0.1, 0.3]]], [[[1, 0], [0, 0]]])["pixel_ap"]
    1.0
    """
    found = localise(margins, masks, (pro_limit, *(lim for lim in limits if lim != pro_limit)))
    return summary(found) | ({"pro_at": pro_at(found)} if limits else {})


def summary(found: Localisation) -> dict[str, float | int]:
    """The result of :func:`pixel_metrics`, without ``pro_at``."""
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
    """PRO by the text of its limit, e.g. ``"0.3"``, ascending."""
    return {f"{limit:g}": found.pro[limit] for limit in sorted(found.limits)}


def image_separation(margins: Any, masks: Any, pixel_labelled: Any = None) -> np.ndarray:
    """AUROC of each image's defect pixels against all normal pixels, float64 [N].

    See :attr:`Localisation.separation`; NaN, without a warning, where there is no defect pixel.
    ``pixel_labelled``: as for :func:`localise`.
    """
    return _localise(margins, masks, (1.0,), pixel_labelled=pixel_labelled).separation
