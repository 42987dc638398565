"""What the tables say; how they are written is in ``formats.py``."""

from collections.abc import Sequence
from typing import Any

from realnet.data.categories import KNOWN_CATEGORIES
from realnet.reporting.collect import MEAN, METRICS, Results, title
from realnet.reporting.formats import Column, Name, Table, csv_text

TITLES = {"image_auroc": "Image AUROC", "pixel_auroc": "Pixel AUROC", "pro": "PRO"}
Paper = dict[str, dict[str, Any]]


def main_table(results: Results, paper: Paper) -> Table:
    """The reference variant, one row per data set, beside the paper's numbers."""
    matrix = results.matrix
    reference = matrix.variants[0]
    columns = [
        Column("dataset", "Data set", "text"),
        Column("categories", "Categories", "number"),
        *_compared_columns(),
    ]
    rows, published = [], []
    for dataset in matrix.datasets:
        stats = [results.stat(dataset, reference, MEAN, m) for m in METRICS]
        published.append([_published(results, paper, dataset, MEAN, m) for m in METRICS])
        count = len(results.categories[dataset])
        rows.append([_name(dataset), count, *_compared(stats, published[-1])])
    notes = [
        f"Variant {reference}, last checkpoint, percent; means over categories. {_seeds(results)}"
    ]
    groups = [rows]
    if len(rows) > 1:
        means = [
            None if None in values else round(sum(values) / len(values), matrix.digits)
            for values in zip(*published, strict=True)
        ]
        stats = [results.overall(reference, m) for m in METRICS]
        label = Name(MEAN, f"mean of {len(rows)} data sets")
        groups.append([[label, None, *_compared(stats, means)]])
        notes.append("The last row counts each data set once, however many categories it has.")
    notes += _notes(results, paper, list(matrix.datasets))
    return Table(f"RealNet ({reference})", columns, groups, notes, matrix.digits)


def dataset_table(results: Results, paper: Paper, dataset: str) -> Table:
    """The reference variant on one data set, category by category, beside the paper's numbers."""
    reference = results.matrix.variants[0]
    columns = [Column("category", "Category", "text"), *_compared_columns()]
    rows = [
        [
            category,
            *_compared(
                [results.stat(dataset, reference, category, m) for m in METRICS],
                [_published(results, paper, dataset, category, m) for m in METRICS],
            ),
        ]
        for category in results.rows(dataset)
    ]
    notes = [
        f"Variant {reference}, last checkpoint, percent. {_seeds(results)}",
        *_notes(results, paper, [dataset]),
    ]
    heading = f"{title(dataset)}: RealNet ({reference})"
    return Table(heading, columns, [rows[:-1], rows[-1:]], notes, results.matrix.digits)


def per_category_table(results: Results) -> Table:
    """Every variant, category by category."""
    columns = [
        Column("dataset", "Data set", "text"),
        Column("variant", "Variant", "text"),
        Column("category", "Category", "text"),
        *(Column(m, TITLES[m], "percent") for m in METRICS),
    ]
    groups = [
        [
            [_name(dataset), variant, category]
            + [results.stat(dataset, variant, category, m) for m in METRICS]
            for category in results.rows(dataset)
        ]
        for dataset in results.matrix.datasets
        for variant in results.matrix.variants
    ]
    notes = [f"Last checkpoint, percent. {_seeds(results)}", *_mask_notes(results)]
    return Table("Variants by category", columns, groups, notes, results.matrix.digits)


def ablation_table(results: Results) -> Table:
    """One row per variant: mean over categories, and the difference to the reference variant."""
    reference = results.matrix.variants[0]
    columns = [
        Column("dataset", "Data set", "text"),
        Column("variant", "Variant", "text"),
        *(Column(m, TITLES[m], "percent") for m in METRICS),
        *(Column(f"delta_{m}", f"Δ {TITLES[m]}", "delta") for m in METRICS),
    ]
    groups = []
    for dataset in results.matrix.datasets:
        base = [results.stat(dataset, reference, MEAN, m) for m in METRICS]
        rows = []
        for variant in results.matrix.variants:
            stats = [results.stat(dataset, variant, MEAN, m) for m in METRICS]
            deltas = [
                None if variant == reference else _difference(s.value, b.value)
                for s, b in zip(stats, base, strict=True)
            ]
            rows.append([_name(dataset), variant, *stats, *deltas])
        groups.append(rows)
    notes = [
        f"Mean over categories, last checkpoint, percent. {_seeds(results)}"
        f" Δ: difference to {reference} before rounding, points.",
        *_mask_notes(results),
    ]
    return Table("Variants", columns, groups, notes, results.matrix.digits)


def cells_csv(results: Results) -> str:
    """Every evaluation: the fractions of its metrics file, unrounded; empty where undefined."""
    extra = sorted(
        {
            key
            for cell in results.cells.values()
            for key, value in cell.items()
            if isinstance(value, float) and key not in METRICS and 0 <= value <= 1
        }
    )
    fields = ["dataset", "variant", "category", "seed", *METRICS, *extra]
    rows = [
        [c.dataset, c.variant, c.category, c.seed]
        + ["" if values.get(k) is None else values[k] for k in (*METRICS, *extra)]
        for c, values in results.cells.items()
    ]
    return csv_text([fields, *rows])


# --- beside the paper ----------------------------------------------------------------------------


def _compared_columns() -> list[Column]:
    return [
        column
        for m in METRICS
        for column in (
            Column(m, "ours", "percent", TITLES[m]),
            Column(f"paper_{m}", "paper", "number", TITLES[m]),
            Column(f"delta_{m}", "Δ", "delta", TITLES[m]),
        )
    ]


def _compared(stats: Sequence, published: Sequence[float | None]) -> list:
    cells = []
    for stat, paper in zip(stats, published, strict=True):
        other = None if paper is None else paper / 100
        cells += [stat, paper, _difference(stat.value, other)]
    return cells


def _published(
    results: Results, paper: Paper, dataset: str, category: str, metric: str
) -> float | None:
    """The paper's number; its mean only beside a mean over the same categories."""
    entry = paper.get(dataset, {})
    if category != MEAN:
        entry = entry.get("categories", {}).get(category, {})
    elif not results.is_whole(dataset):
        return None
    return entry.get(metric)


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _name(dataset: str) -> Name:
    return Name(dataset, title(dataset))


# --- notes ---------------------------------------------------------------------------------------


def _notes(results: Results, paper: Paper, datasets: Sequence[str]) -> list[str]:
    known = [d for d in datasets if d in paper]
    whole = [d for d in known if results.is_whole(d)]
    notes = []
    if whole:
        notes.append(
            "Paper: mean over categories of the checkpoint that was best on the test set; its PRO"
            " is not AU-PRO (thresholds linear in the score). Δ: ours minus paper, points."
        )
        sources: dict[str, list[str]] = {}
        for dataset in whole:
            sources.setdefault(paper[dataset]["source"], []).append(title(dataset))
        notes += [f"{', '.join(names)}: {source}." for source, names in sources.items()]
    notes += [
        f"{title(d)}: {len(results.categories[d])} of {len(KNOWN_CATEGORIES[d])}"
        " categories, so the paper's mean over all of them is not shown."
        for d in known
        if d not in whole
    ]
    return notes + _mask_notes(results, datasets)


def _mask_notes(results: Results, datasets: Sequence[str] | None = None) -> list[str]:
    """Why pixel metrics are n/a: where the data have no masks."""
    bare = [cell for cell in results.without_masks if datasets is None or cell[0] in datasets]
    if not bare:
        return []
    names = ", ".join("/".join(cell) for cell in bare)
    return [
        f"n/a: no masks in {names}, so image metrics only; a mean over categories or data sets is"
        " given where all of them have masks."
    ]


def _seeds(results: Results) -> str:
    seeds = results.matrix.seeds
    if len(seeds) == 1:
        return f"One seed ({seeds[0]})."
    return f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))})."
