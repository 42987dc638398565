"""`realnet compare A B`: which runs changed between two results folders, by how much, and why.

Runs are matched by dataset, category, seed and variant. Changes are compared with the noise of the
choice of test images: the bootstrap of ``per_image.npz``, paired if both used the same test images,
otherwise with independent draws for each side. A change *within* noise may still have a cause, and
one *beyond* noise may come from other rounding in the training, whose noise is not included. The
inputs that differ are read from the records (``stage.json``) of all stages behind a run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from realnet.core.errors import UserError
from realnet.core.io import sha256
from realnet.evaluation.stored import load_per_image
from realnet.metrics import bootstrap, interval, two_sided_p
from realnet.provenance.compare_inputs import Change, changes, same_test_images
from realnet.tables.resamples import FILE
from realnet.tables.runs import METRICS, Run, address_of, number, read_run

RESAMPLES = 1000
BEYOND, WITHIN, SAME, UNKNOWN = "beyond noise", "within noise", "identical", "noise unknown"


@dataclass(frozen=True)
class Move:
    """A metric in A and in B, as fractions, B - A with its interval; None where undefined."""

    a: float | None
    b: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None  # not corrected for the number of runs
    moved: str = UNKNOWN  # or BEYOND, WITHIN, SAME


@dataclass(frozen=True)
class Compared:
    """One run that is in both folders."""

    run: Run
    moves: dict[str, Move]  # by metric
    same_scores: bool | None  # whether scores.npz is identical, byte by byte; None: not in both
    paired: bool | None  # whether the test images are the same; None: no per-image statistics
    samples: dict[str, np.ndarray] = field(repr=False, compare=False)  # of B - A, by metric


@dataclass(frozen=True)
class Comparison:
    a: Path
    b: Path
    level: float
    runs: tuple[Compared, ...]
    only_a: tuple[Run, ...]
    only_b: tuple[Run, ...]
    inputs: dict[Change, tuple[Run, ...]]  # a difference -> the runs that have it


def compare(a: Path, b: Path, level: float = 0.95) -> Comparison:
    """The content of `realnet compare`; ``level``: of the intervals.

    UserError: one of the folders has no evaluations, or a malformed one.
    """
    if not 0 < level < 1:
        raise UserError(f"--level: {level:g} is not between 0 and 1")
    in_a, in_b = evaluations(a), evaluations(b)
    inputs: dict[Change, list[Run]] = {}
    compared = []
    for run in in_a:
        if run not in in_b:
            continue
        folders = (in_a[run], in_b[run])
        for change in changes(a, b, *folders):
            inputs.setdefault(change, []).append(run)
        compared.append(_compared(run, (a, b), folders, level))
    return Comparison(
        a,
        b,
        level,
        runs=tuple(compared),
        only_a=tuple(run for run in in_a if run not in in_b),
        only_b=tuple(run for run in in_b if run not in in_a),
        inputs={change: tuple(runs) for change, runs in inputs.items()},
    )


def evaluations(root: Path) -> dict[Run, Path]:
    """Run -> its folder, for every evaluation below a folder of results, sorted."""
    found = {address_of(p): p.parent for p in root.glob("evaluate/*/*/seed*/*/metrics.json")}
    if not found:
        missing = "" if root.is_dir() else "no such folder; "
        raise UserError(
            f"{root}: {missing}expected a folder of results that contains"
            " evaluate/<dataset>/<category>/seed<k>/<variant>/metrics.json"
        )
    return dict(sorted(found.items()))


def means(comparison: Comparison) -> dict[tuple[str, str], dict[str, Move]]:
    """(dataset, variant) -> metric -> means over the runs in both, with their own interval.

    All runs of a category use the same resampled images, so its seeds are not independent evidence
    about images.
    """
    groups: dict[tuple[str, str], list[Compared]] = {}
    for found in comparison.runs:
        groups.setdefault((found.run.dataset, found.run.variant), []).append(found)
    return {
        group: {m: _mean([found for found in members], m, comparison.level) for m in METRICS}
        for group, members in groups.items()
    }


def _mean(members: list[Compared], metric: str, level: float) -> Move:
    moves = [found.moves[metric] for found in members]
    if any(move.difference is None for move in moves):
        return Move(None, None, None)
    a, b = (float(np.mean([getattr(move, side) for move in moves])) for side in "ab")
    if all(move.moved == SAME for move in moves):
        return Move(a, b, 0.0, 0.0, 0.0, None, SAME)
    drawn = [found.samples[metric] for found in members if metric in found.samples]
    return _judged(a, b, np.mean(drawn, axis=0) if len(drawn) == len(members) else None, level)


def _compared(
    run: Run, roots: tuple[Path, Path], folders: tuple[Path, Path], level: float
) -> Compared:
    values = [read_run(folder / "metrics.json", run) for folder in folders]
    scores = [folder / "scores.npz" for folder in folders]
    same = None
    if all(path.is_file() for path in scores):
        same = sha256(scores[0]) == sha256(scores[1])
    samples, paired = _samples(run, roots, folders)
    moves = {}
    for metric in METRICS:
        a, b = (_defined(number(v, metric)) for v in values)
        if a is None or b is None:
            moves[metric] = Move(a, b, None, moved=SAME if a == b else UNKNOWN)
        elif a == b:
            moves[metric] = Move(a, b, 0.0, 0.0, 0.0, None, SAME)
        else:
            moves[metric] = _judged(a, b, samples.get(metric), level)
    return Compared(run, moves, same, paired, samples)


def _judged(a: float, b: float, samples: np.ndarray | None, level: float) -> Move:
    if samples is None or np.isnan(samples).any():
        return Move(a, b, b - a)
    low, high = interval(samples, level)
    moved = WITHIN if low <= 0 <= high else BEYOND
    return Move(a, b, b - a, low, high, two_sided_p(samples), moved)


def _samples(
    run: Run, roots: tuple[Path, Path], folders: tuple[Path, Path]
) -> tuple[dict[str, np.ndarray], bool | None]:
    """Metric -> B - A of each resample, and whether they are paired."""
    files = [folder / FILE for folder in folders]
    if not all(file.is_file() for file in files):
        return {}, None
    a, b = map(load_per_image, files)
    paired = a.key == b.key and same_test_images(*roots, *folders)
    if paired and sha256(files[0]) == sha256(files[1]):
        return dict.fromkeys(METRICS, np.zeros(RESAMPLES)), True
    # Another name gives other draws: resamples of different images cannot be paired.
    names = (run.category, run.category if paired else f"{run.category}, of B")
    drawn = {
        metric: bootstrap(b, metric, RESAMPLES, name=names[1])
        - bootstrap(a, metric, RESAMPLES, name=names[0])
        for metric in METRICS
    }
    return drawn, paired


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Plain values: fractions, null where undefined or unknown."""

    def plain(move: Move) -> dict[str, Any]:
        return dict(vars(move))

    def listed(runs: tuple[Run, ...]) -> list[Mapping[str, Any]]:
        return [run._asdict() for run in runs]

    return {
        "a": str(comparison.a),
        "b": str(comparison.b),
        "level": comparison.level,
        "cells": [
            found.run._asdict()
            | {"same_scores": found.same_scores, "paired": found.paired}
            | {"metrics": {metric: plain(move) for metric, move in found.moves.items()}}
            for found in comparison.runs
        ],
        "means": [
            {"dataset": dataset, "variant": variant}
            | {"metrics": {metric: plain(move) for metric, move in moves.items()}}
            for (dataset, variant), moves in means(comparison).items()
        ],
        "only_in_a": listed(comparison.only_a),
        "only_in_b": listed(comparison.only_b),
        "inputs": [
            change._asdict() | {"cells": listed(runs)} for change, runs in comparison.inputs.items()
        ],
    }
