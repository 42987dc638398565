"""Distances between sets of images against formulas and naive oracles."""

import itertools

import numpy as np
import pytest

from realnet.metrics.image_sets import (
    Compared,
    against_halves,
    decibels,
    energy_distance,
    grey,
    grey_distance,
    histograms,
    radial_power,
    spectrum_distance,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(40, 120, (6, 3, 16, 16), dtype=np.uint8)


def test_a_shift_of_grey_levels_is_its_own_distance():
    shifted = histograms(grey(IMAGES + np.uint8(34)))
    assert grey_distance(shifted, histograms(grey(IMAGES))) == pytest.approx(34, abs=1e-9)
    assert np.allclose(histograms(grey(IMAGES)).sum(1), 1)


def test_grey_distance_is_the_area_between_sorted_pixels():
    one, other = np.rint(grey(IMAGES)), np.rint(grey(IMAGES[::-1] // 2))
    oracle = np.abs(np.sort(one.ravel()) - np.sort(other.ravel())).mean()
    assert grey_distance(histograms(one), histograms(other)) == pytest.approx(oracle)


def test_twice_the_amplitude_is_six_decibels_at_every_frequency():
    noise = RNG.normal(0, 40, (8, 32, 32))
    weak, strong = radial_power(noise), radial_power(2 * noise)
    assert weak.shape == (8, 16)
    assert np.allclose(decibels(strong) - decibels(weak), 20 * np.log10(2), atol=1e-3)
    assert spectrum_distance(strong, weak) == pytest.approx(6.02, abs=0.01)


def test_a_wave_is_in_the_ring_of_its_frequency():
    wave = 50 * np.sin(2 * np.pi * 5 * np.arange(32) / 32)
    power = radial_power(np.broadcast_to(wave, (1, 32, 32)))[0]
    assert power.argmax() == 5 - 1
    assert np.isfinite(decibels(radial_power(np.full((1, 32, 32), 7.0)))).all()


def test_energy_distance_against_loops():
    one, other = RNG.normal(size=(5, 7)), RNG.normal(0.5, 2, size=(4, 7))

    def mean(a, b):
        return np.mean([np.linalg.norm(x - y) for x, y in itertools.product(a, b)])

    oracle = np.sqrt(2 * mean(one, other) - mean(one, one) - mean(other, other))
    assert energy_distance(one, other) == pytest.approx(oracle)
    assert energy_distance(one, one) == 0


def test_halves_are_compared_with_each_other_and_with_the_set():
    def distance(a, b):
        return abs(a.mean() - b.mean())

    reference = np.array([0.0, 2.0, 4.0, 6.0])
    halves = [(np.array([0, 1]), np.array([2, 3]))]  # means 1 and 5
    found = against_halves(distance, np.array([9.0, 9.0]), reference, halves)
    assert found == Compared(distance=6.0, halves=4.0) and found.ratio == 1.5
    assert Compared(1.0, 0.0).ratio == float("inf") and Compared(0.0, 0.0).ratio == 1
