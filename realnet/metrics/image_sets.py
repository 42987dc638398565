"""Distances between two sets of images: grey levels, spectrum, features.

Each distance compares arrays with one row per image. None of them is zero for two random sets of
the same images, so each is to be read beside the distance between two halves of a set, which has
the same sampling error (:func:`against_halves`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVELS = 256
QUANTISATION = 1 / 12  # variance of rounding to a grey level, spread over all frequencies


def grey(images: np.ndarray) -> np.ndarray:
    """Grey levels float64 ``[N, H, W]`` in 0..255, of uint8 images ``[N, 3, H, W]``."""
    return images.mean(axis=1, dtype=np.float64)


def histograms(images: np.ndarray) -> np.ndarray:
    """Share of the pixels at each grey level, ``[N, 256]``, of grey images ``[N, H, W]``."""
    levels = (np.rint(image).astype(np.int64).ravel() for image in images)
    counts = np.stack([np.bincount(image, minlength=LEVELS) for image in levels])
    return counts / images[0].size


def grey_distance(one: np.ndarray, other: np.ndarray) -> float:
    """1-Wasserstein distance of two sets of histograms ``[N, 256]``, in grey levels."""
    return float(np.abs(np.cumsum(one.mean(0) - other.mean(0))).sum())


def radial_power(images: np.ndarray) -> np.ndarray:
    """Radially averaged power, ``[N, S // 2]``, of grey images ``[N, S, S]``.

    Entry k is the mean power over the frequencies of k + 0.5 to k + 1.5 cycles per image. A Hann
    window removes the effect of the borders.
    """
    size = images.shape[-1]
    window = np.outer(*2 * [np.hanning(size + 1)[:-1]])
    axis = np.fft.fftfreq(size, 1 / size)
    ring = np.rint(np.hypot(axis[:, None], axis[None, :])).astype(np.int64).ravel()
    count = np.bincount(ring)
    rings = []
    for image in images:  # one by one: the spectra of a whole training set are large
        power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2 / (window**2).sum()
        rings.append(np.bincount(ring, power.ravel()) / count)
    return np.stack(rings)[:, 1 : size // 2 + 1]


def decibels(power: np.ndarray) -> np.ndarray:
    """Mean power of the images ``[N, K]`` in dB, ``[K]``; that of rounding to grey levels is
    added, so that constant images have a finite spectrum."""
    return 10 * np.log10(power.mean(0) + QUANTISATION)


def spectrum_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square difference, in dB, of the spectra of two sets ``[N, K]`` of powers."""
    return float(np.sqrt(np.mean((decibels(one) - decibels(other)) ** 2)))


def energy_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Energy distance of two samples ``[N, D]`` and ``[M, D]`` (Székely & Rizzo 2013), >= 0.

    The square root of 2 E|X - Y| - E|X - X'| - E|Y - Y'| over all pairs. Needs no covariance, so
    it is defined for few images in many dimensions, where the Fréchet distance is not.
    """

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
        if a is b:
            np.fill_diagonal(squares, 0.0)
        return float(np.sqrt(squares.clip(min=0)).mean())

    return float(np.sqrt(max(0.0, 2 * mean(one, other) - mean(one, one) - mean(other, other))))


@dataclass(frozen=True)
class Compared:
    """A mean distance, and the mean distance between halves of the reference set."""

    distance: float
    halves: float

    @property
    def ratio(self) -> float:
        """Distance by halves' distance; inf where the halves agree exactly and the sets do not."""
        if self.halves > 0:
            return self.distance / self.halves
        return float("inf") if self.distance > 0 else 1.0


Halves = Sequence[tuple[np.ndarray, np.ndarray]]  # pairs of disjoint index arrays of equal length


def against_halves(
    distance: Callable[[np.ndarray, np.ndarray], float],
    own: np.ndarray,
    reference: np.ndarray,
    halves: Halves,
) -> Compared:
    """Compare a set with a reference, and halves of the reference with each other.

    own, reference: a row per image, ``[n, ...]`` and ``[N, ...]``; each half has n rows.
    """
    pairs = [(reference[one], reference[other]) for one, other in halves]
    return Compared(
        float(np.mean([distance(own, half) for pair in pairs for half in pair])),
        float(np.mean([distance(*pair) for pair in pairs])),
    )
