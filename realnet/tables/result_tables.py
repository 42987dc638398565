"""Contents of the tables. ``formats.py`` writes them, ``table_notes.py`` has their notes."""

import math
import statistics
from collections.abc import Sequence

import pandas as pd

from realnet.core.errors import UserError
from realnet.tables import table_notes as notes
from realnet.tables.differences import paired_differences
from realnet.tables.formats import Column, Delta, Name, Table, csv_text
from realnet.tables.published import Number, mean, number, title
from realnet.tables.resamples import with_interval
from realnet.tables.runs import (
    MEAN,
    METRICS,
    OFFICIAL_BEST,
    OFFICIAL_LAST,
    STRICT_BEST,
    STRICT_LAST,
    Results,
    Stat,
    under,
)
from realnet.tables.sample_checks import sample_check_table
from realnet.tables.verdict_rules import seed_interval

METHODS = {"realnet": "RealNet", "patchcore": "PatchCore"}
TITLES = {"image_auroc": "Image AUROC", "pixel_auroc": "Pixel AUROC", "pro": "PRO"}


def all_tables(found: Results) -> dict[str, Table]:
    """Name -> table. UserError: a dataset that has the name of another table."""
    made = {
        "main": main_table(found),
        "protocols": protocols_table(found),
        "per_category": per_category_table(found),
        "ablation": ablation_table(found),
        "sdas_check": sample_check_table(found),
    }
    for dataset in found.matrix.datasets:
        if dataset in (*made, "verdicts", "cells") or dataset.startswith("ablation_"):
            raise UserError(f"dataset {dataset}: name reserved for a table; rename the dataset")
    return made | {d: dataset_table(found, d) for d in found.matrix.datasets}


def main_table(results: Results) -> Table:
    """The reference variant, one row per dataset, beside the paper's numbers."""
    matrix = results.matrix
    reference = matrix.variants[0]
    columns = [
        Column("dataset", "Dataset", "text"),
        Column("categories", "Categories", "number"),
        *_compared_columns(),
    ]
    rows, published = [], []
    for dataset in matrix.datasets:
        published.append([_published(results, dataset, MEAN, m) for m in METRICS])
        ours = [_ours(results, dataset, reference, MEAN, m) for m in METRICS]
        count = len(results.categories[dataset])
        rows.append([_name(dataset), count, *_compared(ours, published[-1])])
    lines = [
        f"Variant {reference}; means over categories, percent. {notes.seeds(results)}",
        *notes.intervals(results),
        *notes.compared(results, list(matrix.datasets)),
        *notes.left_out(results),
    ]
    groups = [rows]
    if len(rows) > 1:
        means = [mean(list(values), matrix.digits) for values in zip(*published, strict=True)]
        ours = [
            (with_interval(results, None, reference, MEAN, m), _official_overall(results, m))
            for m in METRICS
        ]
        label = Name(MEAN, f"mean of {len(rows)} datasets")
        groups.append([[label, None, *_compared(ours, means)]])
        lines.append(
            "The last row weights all datasets equally, whatever their number of categories."
        )
    return Table(_heading(results), columns, groups, lines, matrix.digits)


def _heading(results: Results) -> str:
    """The method and the name of the reference variant."""
    reference = results.matrix.variants[0]
    methods = {
        values.get("method", "realnet")
        for run, values in results.runs.items()
        if run.variant == reference
    }
    method = " and ".join(METHODS.get(m, str(m)) for m in sorted(methods)) or "RealNet"
    return f"{method} ({reference})"


def dataset_table(results: Results, dataset: str) -> Table:
    """The reference variant on one dataset, category by category, beside the paper's numbers."""
    reference = results.matrix.variants[0]
    columns = [Column("category", "Category", "text"), *_compared_columns()]
    rows = [
        [
            category,
            *_compared(
                [_ours(results, dataset, reference, category, m) for m in METRICS],
                [_published(results, dataset, category, m) for m in METRICS],
            ),
        ]
        for category in results.rows(dataset)
    ]
    lines = [
        f"Variant {reference}, percent. {notes.seeds(results)}",
        *notes.intervals(results),
        *notes.compared(results, [dataset]),
        *notes.left_out(results, [dataset]),
    ]
    heading = f"{title(dataset)}: {_heading(results)}"
    return Table(heading, columns, [rows[:-1], rows[-1:]], lines, results.matrix.digits)


def protocols_table(results: Results) -> Table:
    """Means over categories under each protocol: the effect of choosing the checkpoint."""
    reference = results.matrix.variants[0]
    columns = [
        Column("dataset", "Dataset", "text"),
        Column("variant", "Variant", "text"),
        Column("metric", "Metric", "text"),
        Column(STRICT_LAST, "Strict, last", "percent"),
        Column(STRICT_BEST, "Strict, best", "percent"),
        Column("best_minus_last", "Best − last", "delta", interval=True),
        Column(OFFICIAL_LAST, "Official, last", "percent"),
        Column(OFFICIAL_BEST, "Official, best", "percent"),
        Column("paper", "Paper", "published"),
        Column("official_minus_paper", "Official − paper", "delta"),
    ]
    groups = []
    for dataset in results.matrix.datasets:
        rows = []
        for variant in results.matrix.variants:
            for metric in METRICS:
                last = results.stat(dataset, variant, MEAN, metric)
                best, official_last, official_best = (
                    _or_none(results.stat(dataset, variant, MEAN, under(protocol, metric)))
                    for protocol in (STRICT_BEST, OFFICIAL_LAST, OFFICIAL_BEST)
                )
                # The paper's numbers are of the full method, not of its ablations.
                is_reference = variant == reference
                paper = _published(results, dataset, MEAN, metric) if is_reference else None
                strict = (last, best, _best_minus_last(results, dataset, variant, metric))
                compared = (paper, _difference(official_best or official_last, paper))
                name = Name(metric, TITLES[metric])
                official = (official_last, official_best)
                rows.append([_name(dataset), variant, name, *strict, *official, *compared])
        groups.append(rows)
    lines = [
        f"Means over categories, percent. {notes.seeds(results)}",
        *notes.protocols(results),
    ]
    return Table("Protocols", columns, groups, lines, results.matrix.digits)


def per_category_table(results: Results) -> Table:
    """Every variant, category by category."""
    columns = [
        Column("dataset", "Dataset", "text"),
        Column("variant", "Variant", "text"),
        Column("category", "Category", "text"),
        *(Column(m, TITLES[m], "percent", interval=True) for m in METRICS),
    ]
    groups = [
        [
            [_name(dataset), variant, category]
            + [with_interval(results, dataset, variant, category, m) for m in METRICS]
            for category in results.rows(dataset)
        ]
        for dataset in results.matrix.datasets
        for variant in results.matrix.variants
    ]
    lines = [
        f"Last checkpoint, percent. {notes.seeds(results)}",
        *notes.intervals(results),
        *notes.ranks(results),
        *notes.masks(results),
        *notes.left_out(results),
    ]
    ranked = ("dataset", "category")
    return Table("Variants by category", columns, groups, lines, results.matrix.digits, ranked)


def ablation_table(results: Results) -> Table:
    """One row per variant: mean over categories, and the paired difference to the first one."""
    reference, *others = results.matrix.variants
    columns = [
        Column("dataset", "Dataset", "text"),
        Column("variant", "Variant", "text"),
    ]
    for m in METRICS:
        columns += [
            Column(m, "mean", "percent", TITLES[m], interval=True),
            Column(f"delta_{m}", "Δ", "delta", TITLES[m], interval=True),
            Column(f"p_{m}", "p", "p", TITLES[m]),
        ]
    groups = []
    for dataset in results.matrix.datasets:
        rows: dict[str, list[object]] = {v: [_name(dataset), v] for v in results.matrix.variants}
        for m in METRICS:
            for variant, row in rows.items():
                row.append(with_interval(results, dataset, variant, MEAN, m))
            rows[reference] += [None, None]
            for found in paired_differences(results, results.matrix.variants, m, dataset):
                bounds = None
                if found.low is not None and found.high is not None:
                    bounds = (found.low, found.high)
                delta = None if found.difference is None else Delta(found.difference, bounds)
                rows[found.variant] += [delta, found.p_holm]
        groups.append(list(rows.values()))
    lines = [
        f"Mean over categories, last checkpoint, percent. {notes.seeds(results)}",
        *notes.intervals(results),
        *(notes.differences(results, reference) if others else []),
        *notes.ranks(results),
        *notes.claims(results),
        *notes.masks(results),
        *notes.left_out(results),
    ]
    return Table("Variants", columns, groups, lines, results.matrix.digits, ("dataset",))


def cells_csv(results: Results) -> str:
    """:func:`run_frame` as CSV; an empty field where a metric is undefined or not evaluated."""
    return csv_text(run_frame(results))


def run_frame(results: Results) -> pd.DataFrame:
    """One row per run: dataset, variant, category, seed and the fractions of its metrics file.

    Metrics of the protocols follow as ``<protocol>/<metric>``, except ``strict_last``, which the
    first columns hold. Not rounded; NaN where undefined or not evaluated.
    """
    rows = []
    for run, values in results.runs.items():
        numbers = {k: v for k, v in values.items() if isinstance(v, float) and 0 <= v <= 1}
        numbers |= {k: values[k] for k in METRICS if values[k] is not None}
        for protocol, measured in values.get("protocols", {}).items():
            if measured is not None and protocol != STRICT_LAST:
                named = {f"{protocol}/{k}": v for k, v in measured.items() if k != "checkpoint"}
                numbers |= {k: v for k, v in named.items() if v is not None}
        rows.append(run._asdict() | numbers)
    names = ["dataset", "variant", "category", "seed", *METRICS]
    extra = sorted({key for row in rows for key in row} - set(names))
    # Metrics of the last checkpoint first, then those of the other protocols.
    extra.sort(key=lambda key: "/" in key)
    steps = {key: "Int64" for key in extra if key.endswith("/step")}  # integers, some missing
    return pd.DataFrame(rows, columns=[*names, *extra]).astype(steps)


# --- beside the paper ----------------------------------------------------------------------------


def _compared_columns() -> list[Column]:
    return [
        column
        for m in METRICS
        for column in (
            Column(m, "strict", "percent", TITLES[m], interval=True),
            Column(f"official_{m}", "official", "percent", TITLES[m]),
            Column(f"paper_{m}", "paper", "published", TITLES[m]),
            Column(f"delta_{m}", "Δ", "delta", TITLES[m]),
        )
    ]


def _ours(
    results: Results, dataset: str, variant: str, category: str, metric: str
) -> tuple[Stat, Stat | None]:
    """(strict, official): exact metric of the last checkpoint, and that of the paper's protocol.

    The latter is of the checkpoint that was best on the test set or, if none was chosen, of the
    last one.
    """
    best, last = (
        _or_none(results.stat(dataset, variant, category, under(protocol, metric)))
        for protocol in (OFFICIAL_BEST, OFFICIAL_LAST)
    )
    return with_interval(results, dataset, variant, category, metric), best or last


def _official_overall(results: Results, metric: str) -> Stat | None:
    reference = results.matrix.variants[0]
    best, last = (
        _or_none(results.overall(reference, under(protocol, metric)))
        for protocol in (OFFICIAL_BEST, OFFICIAL_LAST)
    )
    return best or last


def _compared(
    ours: Sequence[tuple[Stat, Stat | None]], published: Sequence[Number | None]
) -> list[object]:
    fields: list[object] = []
    for (strict, official), paper in zip(ours, published, strict=True):
        fields += [strict, official, paper, _difference(official, paper)]
    return fields


def _published(results: Results, dataset: str, category: str, metric: str) -> Number | None:
    """The paper's number; its mean only if ours is over the same categories."""
    if category == MEAN and not results.is_whole(dataset):
        return None
    return number(dataset, category, metric)


def _or_none(stat: Stat) -> Stat | None:
    """None if nothing was evaluated, so that empty columns can be left out."""
    return None if stat.value is None else stat


def _difference(one: Stat | None, other: Stat | Number | None) -> Delta | None:
    """None if one of them is missing, NaN if one is undefined."""
    if one is None or other is None or one.value is None or other.value is None:
        return None
    return Delta(one.value - (other.value / 100 if isinstance(other, Number) else other.value))


def _best_minus_last(results: Results, dataset: str, variant: str, metric: str) -> Delta | None:
    """Best minus last checkpoint, exact metric; from two seeds on with an interval over seeds."""
    best = results.by_seed(dataset, variant, MEAN, under(STRICT_BEST, metric))
    last = results.by_seed(dataset, variant, MEAN, metric)
    values = [best[seed] - last[seed] for seed in best if seed in last]
    if not values:
        return None
    level = results.matrix.level
    undefined = any(map(math.isnan, values))
    return Delta(statistics.fmean(values), None if undefined else seed_interval(values, level))


def _name(dataset: str) -> Name:
    return Name(dataset, title(dataset))
