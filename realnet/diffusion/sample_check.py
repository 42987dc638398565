"""Are the s = 0 samples of a diffusion model like the normal images that it was trained on?

A model that was trained too briefly gives grey blotches, or images without fine texture. SDAS
images made from it differ from normal images everywhere, not only by an anomaly, and a detector
trained with them learns that difference. At s = 0 SDAS is ordinary sampling, so these samples
should be like the normal images.

Three distances are measured, each beside the mean distance between two random halves of the normal
images, of as many images each (our decision; the official code checks nothing):

- ``grey_levels``: 1-Wasserstein distance of the distributions of grey levels, in grey levels;
- ``spectrum``: root mean square difference of the radially averaged spectra, in dB;
- ``features``: energy distance of spatial means of the backbone's features. Unlike the Fréchet
  distance it needs no covariance, so it is defined for 16 or 32 images.

:data:`LIMITS` were chosen by eye on nine diffusion models of the demo and of magnetic tiles (128
pixels, EfficientNet-Lite0, 32 images). Distances, and in brackets the ratio to that of the halves:

================ ============== =========== =========== ======== ===========================
category         samples        grey levels spectrum    features by eye
================ ============== =========== =========== ======== ===========================
woven_fabric     400 steps [1]_ 1.0 (2.3)   8.1 (34)    3.6 (13) fabric, a little soft
circuit_board    400 steps [2]_ 3.4 (12)    6.3 (93)    4.1 (14) board, a little soft
hex_nut          250 steps [1]_ 2.1 (6)     9.8 (52)    4.2 (14) nut, soft
woven_fabric     250 steps [1]_ 1.8 (5)     9.6 (38)    4.6 (16) fabric, soft
circuit_board    250 steps [1]_ 4.3 (17)    9.5 (131)   5.3 (18) board, wavy lines
woven_fabric     400 steps [2]_ 4.9 (12)    11.7 (49)   4.9 (17) stripes, no threads
circuit_board    300 steps      8.1 (29)    8.9 (131)   5.3 (18) green blotches
circuit_board    300 steps [3]_ 11.2 (40)   8.4 (124)   7.6 (26) noise
magnetic_tile    400 steps [1]_ 5.3 (0.8)   15.3 (17)   1.6 (6)  light and shade, no grain
**limit**                       6 (3)       10 (3)      5 (3)
================ ============== =========== =========== ======== ===========================

.. [1] From noised normal images. .. [2] Patches of 8 pixels, from noise. .. [3] v-prediction.

A distance is a fault above its limit. The ratio has a limit too, since a small category differs
from itself by chance: two random thirds of the normal images have ratios of 0.6 to 1.2. Ratios
alone do not do: photographs of one fixed setup hardly differ, so that even good samples have large
ratios.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from realnet.core.seeds import SeedPath
from realnet.metrics.image_sets import (
    Compared,
    Halves,
    against_halves,
    decibels,
    energy_distance,
    grey,
    grey_distance,
    histograms,
    radial_power,
    spectrum_distance,
)

SPLITS = 50  # pairs of random halves that are averaged


@dataclass(frozen=True)
class Limit:
    """A distance is a fault above ``distance`` and above ``ratio`` times the halves' distance."""

    distance: float  # in the unit of the distance
    ratio: float = 3.0


LIMITS = {
    "grey_levels": Limit(6.0),
    "spectrum": Limit(10.0),
    "features": Limit(5.0),
}


@dataclass(frozen=True)
class Health:
    """What the check found.

    compared: name of a distance (a key of :data:`LIMITS`) -> what was measured.
    brightness, contrast: mean grey level, and mean standard deviation of an image's grey levels, of
    (samples, normal images).
    fine, coarse: mean difference of the spectra (samples minus normal images) in the upper and in
    the lower half of the frequencies, in dB.
    """

    compared: Mapping[str, Compared]
    brightness: tuple[float, float]
    contrast: tuple[float, float]
    fine: float
    coarse: float

    @property
    def faults(self) -> list[str]:
        """The distances above their limits."""
        return [name for name, found in self.compared.items() if exceeds(name, found)]

    def findings(self) -> list[str]:
        """What is wrong with the samples, in words; empty for a good model."""
        words = {
            "grey_levels": self._of_levels,
            "spectrum": self._of_spectrum,
            "features": lambda: "the backbone's features of them differ",
        }
        return [
            f"{words[name]()} (distance {self.compared[name].distance:.1f}, limit"
            f" {LIMITS[name].distance:g}, two halves of the normal images"
            f" {self.compared[name].halves:.2g})"
            for name in self.faults
        ]

    def _of_levels(self) -> str:
        shift = self.brightness[0] - self.brightness[1]
        change = self.contrast[0] - self.contrast[1]
        if abs(shift) >= max(abs(change), self.compared["grey_levels"].distance / 2):
            word = "brighter" if shift > 0 else "darker"
            return f"they are {word} by {abs(shift):.0f} grey levels"
        word = "more" if change > 0 else "less"
        return (
            f"they have {word} contrast (standard deviation {self.contrast[0]:.0f} grey levels,"
            f" normal images {self.contrast[1]:.0f})"
        )

    def _of_spectrum(self) -> str:
        name, change = "fine texture", self.fine
        if abs(self.coarse) > abs(self.fine):
            name, change = "coarse structure", self.coarse
        return f"they {'have too much' if change > 0 else 'lack'} {name} ({change:+.0f} dB)"


def exceeds(name: str, found: Compared) -> bool:
    """Whether a distance is a fault."""
    limit = LIMITS[name]
    return found.distance > limit.distance and found.ratio > limit.ratio


def halves_of(count: int, images: int, seeds: SeedPath) -> Halves:
    """``SPLITS`` random pairs of disjoint sets of ``images`` out of ``count`` indices."""
    orders = [
        np.random.default_rng(seeds.derive("halves", k)).permutation(count) for k in range(SPLITS)
    ]
    return [(order[:images], order[images : 2 * images]) for order in orders]


def check_samples(
    samples: np.ndarray,
    normal: np.ndarray,
    features: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    seeds: SeedPath,
) -> Health:
    """Compare n samples with normal images, of which there are at least 2 n.

    samples, normal: uint8 ``[n, 3, S, S]`` and ``[N, 3, S, S]``, of the same size.
    features: of the samples and of the normal images, one array ``[n or N, C_k]`` per layer. All
    layers are scaled to the same total variance over the normal images, together 1.
    """
    own, reference = grey(samples), grey(normal)
    power = radial_power(own), radial_power(reference)
    halves = halves_of(len(normal), len(samples), seeds)
    change = decibels(power[0]) - decibels(power[1])
    middle = len(change) // 2
    return Health(
        {
            "grey_levels": against_halves(
                grey_distance, histograms(own), histograms(reference), halves
            ),
            "spectrum": against_halves(spectrum_distance, *power, halves),
            "features": against_halves(energy_distance, *_scaled(*features), halves),
        },
        (float(own.mean()), float(reference.mean())),
        (float(own.std((1, 2)).mean()), float(reference.std((1, 2)).mean())),
        float(change[middle:].mean()),
        float(change[:middle].mean()),
    )


def _scaled(
    mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Features of all layers side by side, float64 ``[n, C]`` and ``[N, C]``; total variance 1."""
    share = len(theirs) ** 0.5
    scales = [
        max(share * float(np.sqrt(layer.var(0, dtype=np.float64).sum())), 1e-6) for layer in theirs
    ]
    return (
        np.concatenate([layer / scale for layer, scale in zip(mine, scales, strict=True)], axis=1),
        np.concatenate(
            [layer / scale for layer, scale in zip(theirs, scales, strict=True)], axis=1
        ),
    )


def advice(ddpm: Mapping[str, Any], sdas: Mapping[str, Any]) -> str:
    """What to change, by the model's section ``ddpm`` and the sampling's section ``sdas``."""
    length = "steps" if ddpm.get("steps") is not None else "epochs"
    words = [f"raise ddpm.{length} (it was {ddpm.get(length)})"]
    if ddpm.get("init") is None and not ddpm["ema"]["warmup"]:
        words.insert(0, "set ddpm.ema.warmup: true, since the training started from random weights")
    if sdas["start"] == "noise":
        words.append("set sdas.start: image with sdas.start_fraction below 1")
    elif sdas["start_fraction"] > 0.1:
        words.append(f"lower sdas.start_fraction (it is {sdas['start_fraction']:g})")
    return "; or ".join(words)
