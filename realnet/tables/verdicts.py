"""A verdict on every number and every claim of the paper.

Numbers and claims are data (``paper.yaml``), the rules are in :mod:`realnet.tables.verdict_rules`.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.metrics import holm, interval, two_sided_p
from realnet.tables.published import Number, number, paper
from realnet.tables.resamples import difference_samples, with_interval
from realnet.tables.runs import (
    MEAN,
    METRICS,
    OFFICIAL_BEST,
    OFFICIAL_LAST,
    STRICT_BEST,
    Results,
    collect,
    under,
)
from realnet.tables.verdict_rules import (
    FAILED,
    IN_KIND,
    INFORMATION,
    NOT_RUN,
    judge_claim,
    judge_number,
    next_run,
    seed_interval,
    with_seeds,
)


@dataclass(frozen=True)
class Verdict:
    """Values in percent, differences in points; None where there is none.

    Of a number: ``paper`` and ``ours`` are the values, ``interval`` is of ours over test images,
    ``difference`` is ours minus paper. Of a claim: ``paper`` and ``ours`` are the difference
    between its two variants, first minus second, ``interval`` is of ours over images and, from two
    seeds on, training, and ``difference`` is again ours minus paper.
    """

    claim: str
    dataset: str  # key, or "any"
    metric: str  # one of METRICS
    paper: float | None
    ours: float | None
    interval: tuple[float, float] | None
    difference: float | None
    verdict: str
    note: str
    kind: Literal["number", "claim", "selection"]
    category: str = MEAN
    certainty: str = ""  # of the paper's side: certain, high, medium
    p: float | None = None  # of a claim, corrected
    variants: tuple[str, ...] = ()


def verdicts(found: Results) -> list[Verdict]:
    """Numbers, claims, claims tested in kind, and the effect of choosing on the test set.

    Numbers are of the reference variant; claims name their own two variants, which need not be in
    the experiment (``snakemake ablations`` evaluates others).
    """
    return [*_numbers(found), *_claims(_with_claimed(found)), *_selection(found)]


def _with_claimed(found: Results) -> Results:
    """Also with the runs of all variants that a claim names, as far as they exist."""
    named = [
        variant
        for claim in paper()["claims"]
        for variant in (*_declared(found, claim["variants"]), *claim["stand_ins"].values())
        if variant in found.matrix.folders
    ]
    if found.listed:  # other files are ignored
        return found
    variants = tuple(dict.fromkeys((*found.matrix.variants, *named)))
    # All datasets with the categories of the report.
    matrix = replace(found.matrix, variants=variants, datasets=dict(found.categories))
    wider = collect(found.root, matrix, allow_missing=True)
    return replace(wider, drawn=found.drawn)


# --- numbers -------------------------------------------------------------------------------------


def _numbers(found: Results) -> Iterator[Verdict]:
    for dataset, entry in paper()["datasets"].items():
        for category in (MEAN, *entry["categories"]):
            for metric in METRICS:
                published = number(dataset, category, metric)
                if published is not None:
                    yield _number(found, dataset, category, metric, published)


def _number(found: Results, dataset: str, category: str, metric: str, published: Number) -> Verdict:
    result = Verdict(
        claim=f"RealNet, {'mean over categories' if category == MEAN else category}",
        dataset=dataset,
        metric=metric,
        paper=published.value,
        ours=None,
        interval=None,
        difference=None,
        verdict=NOT_RUN,
        note="",
        kind="number",
        category=category,
        certainty=published.certainty,
        variants=found.matrix.variants[:1],
    )
    absent = _absent(found, dataset, category)
    if absent:
        return replace(result, note=absent)
    reference = found.matrix.variants[0]
    notes = []
    values = found.by_seed(dataset, reference, category, under(OFFICIAL_BEST, metric))
    if not values:
        values = found.by_seed(dataset, reference, category, under(OFFICIAL_LAST, metric))
        notes.append("last checkpoint, since none was chosen on the test set")
    if not values:
        return replace(result, note="not evaluated under the paper's protocol")
    ours = 100 * statistics.fmean(values.values())
    if math.isnan(ours):
        return replace(result, note="undefined, since there are no masks")
    # No per-image statistics are stored for the checkpoint that was best on the test set, nor for
    # official metrics: the interval is that of the exact metric of the last checkpoint, shifted.
    exact = with_interval(found, dataset, reference, category, metric)
    images = None
    if exact.interval is not None and exact.value is not None:
        low, high = exact.interval
        images = ours + 100 * (low - exact.value), ours + 100 * (high - exact.value)
    expected = next_run([100 * v for v in values.values()], found.matrix.level)
    verdict = judge_number(published.value, ours, images, expected)
    if len(values) == 1:
        notes.append("one seed: the noise of training is unknown")
    elif expected:
        notes.append(
            f"expected of one more training: {expected[0]:.1f} to {min(100, expected[1]):.1f}"
        )
    if verdict == FAILED and ours > published.value:
        notes.append("ours is higher")
    return replace(
        result,
        ours=ours,
        interval=images,
        difference=ours - published.value,
        verdict=verdict,
        note="; ".join(notes),
    )


def _absent(found: Results, dataset: str, category: str = MEAN) -> str:
    """Why a known dataset cannot be judged; empty if all of it is in the experiment."""
    if dataset not in found.categories:
        return "dataset not in the experiment"
    here, known = found.categories[dataset], KNOWN_CATEGORIES[dataset]
    if category != MEAN:
        return "" if category in here else "category not in the experiment"
    return "" if found.is_whole(dataset) else f"only {len(here)} of {len(known)} categories"


# --- claims --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Test:
    """A claim on one dataset and one metric, before the p-values are corrected."""

    result: Verdict
    in_kind: bool
    p: float


def _claims(found: Results) -> list[Verdict]:
    tests = [test for claim in paper()["claims"] for test in _tests(found, claim)]
    families: dict[str, list[int]] = {}
    for place, test in enumerate(tests):
        families.setdefault(test.result.dataset, []).append(place)
    corrected = {
        place: p
        for places in families.values()
        for place, p in zip(places, holm([tests[k].p for k in places]), strict=True)
    }
    done = []
    for place, test in enumerate(tests):
        p, result = corrected[place], test.result
        verdict = judge_claim(result.ours, p, found.matrix.level)
        if verdict != NOT_RUN:
            family = [tests[k] for k in families[result.dataset] if not math.isnan(tests[k].p)]
            tested = "1 claim" if len(family) == 1 else f"{len(family)} claims"
            note = f"p = {p:.3f}, {tested} tested here; {result.note}"
            result = replace(result, p=p, note=note.removesuffix("; "))
        label = IN_KIND.get(verdict, verdict) if test.in_kind else verdict
        done.append((test.in_kind, replace(result, verdict=label)))
    return [result for _, result in sorted(done, key=lambda pair: pair[0])]


def _tests(found: Results, claim: dict[str, Any]) -> Iterator[_Test]:
    """One per dataset and metric of the claim; in kind, only those that were evaluated."""
    known = [d for d in found.categories if d in paper()["datasets"]]
    wanted = [claim["dataset"]] if claim["dataset"] != "any" else known or ["any"]
    for dataset in wanted:
        for metric in claim["metrics"]:
            yield _test(found, claim, dataset, metric, in_kind=False)
    for dataset in found.categories:
        for metric in claim["metrics"] if dataset not in known else ():
            test = _test(found, claim, dataset, metric, in_kind=True)
            if test.result.ours is not None:
                yield test


def _test(found: Results, claim: dict[str, Any], dataset: str, metric: str, in_kind: bool) -> _Test:
    published = Number(**claim["difference"])
    known = None if in_kind else published.value
    result = Verdict(
        claim=claim["statement"],
        dataset=dataset,
        metric=metric,
        paper=known,
        ours=None,
        interval=None,
        difference=None,
        verdict=NOT_RUN,
        note="",
        kind="claim",
        certainty=published.certainty,
        variants=tuple(claim["variants"]),
    )
    absent = "no dataset of the paper in the experiment" if dataset == "any" else ""
    if not in_kind and dataset != "any":
        absent = _absent(found, dataset)
    if absent:
        return _Test(replace(result, note=absent), in_kind, math.nan)
    chosen, notes = [], []
    for name in _declared(found, claim["variants"]):
        stand_in = claim["stand_ins"].get(name)
        if in_kind and not _ran(found, dataset, name) and _ran(found, dataset, stand_in):
            notes.append(f"{stand_in} stands in for {name}")
            chosen.append(stand_in)
        else:
            chosen.append(name)
    result = replace(result, variants=tuple(chosen))
    missing = [name for name in chosen if not _ran(found, dataset, name)]
    if missing:
        note = f"variant {' and '.join(missing)} not evaluated in all categories"
        return _Test(replace(result, note=note), in_kind, math.nan)
    one, other = chosen
    first, second = (found.by_seed(dataset, v, MEAN, metric) for v in (one, other))
    both = [seed for seed in first if seed in second]
    samples = difference_samples(found, dataset, one, other, MEAN, metric)
    if samples is None or np.isnan(samples).any():
        same = len(both) == len(first) == len(second)
        note = "no per-image statistics, or no masks" if same else "the variants have other seeds"
        return _Test(replace(result, note=note), in_kind, math.nan)
    values = [first[seed] - second[seed] for seed in both]
    samples = with_seeds(samples, values, f"{claim['statement']}/{dataset}/{metric}")
    low, high = interval(samples, found.matrix.level)
    ours = 100 * statistics.fmean(values)
    if len(values) == 1:
        notes.append("one seed: the noise of training is not in the interval")
    result = replace(
        result,
        ours=ours,
        interval=(100 * low, 100 * high),
        difference=None if known is None else ours - known,
        note="; ".join(notes),
    )
    return _Test(result, in_kind, two_sided_p(samples))


def _ran(found: Results, dataset: str, variant: str | None) -> bool:
    """Whether the variant was evaluated, in all categories of at least one seed."""
    if variant not in found.matrix.variants:
        return False
    return bool(found.by_seed(dataset, variant, MEAN, METRICS[0]))


def _declared(found: Results, variants: list[str]) -> list[str]:
    """If no variant ``sdas`` is declared, ``base`` is trained on SDAS alone, as in the paper."""
    absent = "sdas" not in found.matrix.folders
    return ["base" if name == "sdas" and absent else name for name in variants]


# --- the choice on the test set ------------------------------------------------------------------


def _selection(found: Results) -> Iterator[Verdict]:
    """Best on the test set minus last checkpoint, of the same metric of the same trainings."""
    reference = found.matrix.variants[0]
    pairs = {"exact": (STRICT_BEST, ""), "official": (OFFICIAL_BEST, OFFICIAL_LAST)}
    for dataset in found.categories:
        for words, (best, last) in pairs.items():
            for metric in METRICS:
                high = found.by_seed(dataset, reference, MEAN, under(best, metric))
                low = found.by_seed(
                    dataset, reference, MEAN, under(last, metric) if last else metric
                )
                worth = [100 * (high[seed] - low[seed]) for seed in high if seed in low]
                if not worth or math.isnan(sum(worth)):
                    continue
                noise = seed_interval(worth, found.matrix.level)
                yield Verdict(
                    claim=f"Effect of choosing the checkpoint on the test set, {words} metric",
                    dataset=dataset,
                    metric=metric,
                    paper=None,
                    ours=statistics.fmean(worth),
                    interval=noise,
                    difference=None,
                    verdict=INFORMATION,
                    note="interval over seeds" if noise else "one seed: no interval",
                    kind="selection",
                    variants=(reference,),
                )
