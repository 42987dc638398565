"""The rules of the verdicts: the table RULES, and the functions that implement it.

``docs/verdicts.md`` shows and explains the same table. Noise has two sources, each with its own
estimate:

- *images*: another sample of test images would give other metrics. Estimate: the image bootstrap of
  ``per_image.npz`` (:mod:`realnet.tables.resamples`); differences between variants are paired.
- *training*: another seed would give another network. Estimate: from two seeds on, the standard
  deviation over seeds with Student's t; with one seed it is unknown, and the note says so.
"""

import math
import statistics

import numpy as np
from scipy.special import stdtrit

from realnet.core.seeds import numpy_generator

REPRODUCED, NOISE, FAILED = "reproduced", "within seed noise", "not reproduced"
NOT_RUN, INFORMATION = "not run", "for information"
# On other data than the paper's, a claim can hold or fail, but that is not a verdict on the paper.
IN_KIND = {
    REPRODUCED: "in kind: holds",
    NOISE: "in kind: within seed noise",
    FAILED: "in kind: does not hold",
}
TOLERANCE = 0.5  # points, between a number of the paper and ours

RULES: dict[tuple[str, str], str] = {
    ("number", REPRODUCED): (
        f"ours differs by at most {TOLERANCE} points, or the paper's number lies inside our"
        " interval over test images"
    ),
    ("number", NOISE): (
        "otherwise, and the paper's number lies in the range expected for one more training of"
        " ours (from two seeds on): mean ± t · std · √(1 + 1/seeds)"
    ),
    ("number", FAILED): "otherwise",
    ("claim", REPRODUCED): (
        "the paired difference has the claimed sign, and its p-value (corrected over the claims"
        " tested on that dataset) is at most 1 − level"
    ),
    ("claim", NOISE): "the corrected p-value is above 1 − level, whatever the sign",
    ("claim", FAILED): "the corrected p-value is at most 1 − level, with the other sign",
    ("both", NOT_RUN): (
        "a required run is missing (the dataset or some of its categories are not in the"
        " experiment, or a variant was not evaluated), or the metric is undefined"
    ),
}


def rules_table() -> str:
    """RULES as Markdown."""
    rows = [f"| {kind} | {verdict} | {rule} |" for (kind, verdict), rule in RULES.items()]
    return "\n".join(["| subject | verdict | condition |", "| --- | --- | --- |", *rows])


def rules_sentences() -> list[str]:
    """RULES as one paragraph each for numbers, claims and both."""
    sentences = []
    for kind, start in (("number", "A number is"), ("claim", "A claim is"), ("both", "Either is")):
        parts = [f"{v}: {rule}" for (of, v), rule in RULES.items() if of == kind]
        sentences.append(f"{start} {'; '.join(parts)}.")
    return sentences


def judge_number(
    published: float,
    ours: float | None,
    images: tuple[float, float] | None,
    next_run: tuple[float, float] | None,
) -> str:
    """RULES for a number; all in percent. ``next_run``: range expected of one more training."""
    if ours is None or math.isnan(ours):
        return NOT_RUN
    # The small margin includes a difference of exactly the tolerance despite rounding errors.
    near = abs(ours - published) <= TOLERANCE + 1e-9
    if near or (images is not None and images[0] <= published <= images[1]):
        return REPRODUCED
    if next_run is not None and next_run[0] <= published <= next_run[1]:
        return NOISE
    return FAILED


def judge_claim(difference: float | None, p: float | None, level: float) -> str:
    """RULES for a claim; ``difference``: first minus second, ``p``: corrected."""
    if difference is None or p is None or math.isnan(difference) or math.isnan(p):
        return NOT_RUN
    if p > 1 - level + 1e-9:
        return NOISE
    return REPRODUCED if difference > 0 else FAILED


def next_run(values: list[float], level: float) -> tuple[float, float] | None:
    """Prediction interval of one more value of a normal distribution; None: fewer than two."""
    if len(values) < 2:
        return None
    count = len(values)
    half = _student(count, level) * statistics.stdev(values) * math.sqrt(1 + 1 / count)
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def seed_interval(values: list[float], level: float) -> tuple[float, float] | None:
    """Student's interval of the mean of values, one per seed; None: fewer than two."""
    if len(values) < 2:
        return None
    half = _student(len(values), level) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def with_seeds(samples: np.ndarray, values: list[float], name: str) -> np.ndarray:
    """Samples over images with the noise of the training added, from two seeds on; [B].

    ``values``: one per seed. The noise of their mean is std/√n times Student's t; its B quantiles
    are added to the samples in a random order seeded by ``name``.
    """
    count = len(values)
    if count < 2:
        return samples
    places = (np.arange(len(samples)) + 0.5) / len(samples)
    noise = stdtrit(count - 1, places) * statistics.stdev(values) / math.sqrt(count)
    return samples + numpy_generator(0, "verdict", name).permutation(noise)


def _student(count: int, level: float) -> float:
    return float(stdtrit(count - 1, (1 + level) / 2))
