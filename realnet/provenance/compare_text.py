"""Text of `realnet compare`: Markdown, readable in a terminal."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from realnet.core.io import write_json, write_text
from realnet.provenance.compare import (
    BEYOND,
    SAME,
    UNKNOWN,
    WITHIN,
    Compared,
    Comparison,
    Move,
    as_json,
    compare,
    means,
)
from realnet.provenance.compare_inputs import KINDS
from realnet.tables.formats import Column, Delta, Name, Table, to_markdown
from realnet.tables.published import title
from realnet.tables.result_tables import TITLES
from realnet.tables.runs import METRICS, Run, Stat

SHOWN = 20  # runs beyond noise, and inputs of one kind, that are printed; --json has all


def run(a: Path, b: Path, level: float, json: Path | None, md: Path | None) -> str:
    """Compare, write the requested files, return the text."""
    found = compare(a, b, level)
    text = to_text(found)
    if json is not None:
        write_json(json, as_json(found))
    if md is not None:
        write_text(md, text)
    return text


def to_text(found: Comparison) -> str:
    parts = [f"# A: {found.a}, B: {found.b}", _summary(found)]
    if found.runs:
        parts += [to_markdown(_means(found)).rstrip("\n")]
        beyond = _beyond_noise(found)
        parts += [to_markdown(beyond).rstrip("\n")] if beyond else []
    parts += ["### Inputs that differ", *_inputs(found)]
    for side, runs in (("A", found.only_a), ("B", found.only_b)):
        if runs:
            parts += [f"### Only in {side}", _runs(runs)]
    return "\n\n".join(parts) + "\n"


def _summary(found: Comparison) -> str:
    count = len(found.runs)
    if not count:
        return "A and B have no run in common."
    worst = [_worst(run) for run in found.runs]
    same = sum(run.same_scores is True for run in found.runs)
    parts = [
        f"{count} run{'s' if count > 1 else ''} in both: {worst.count(BEYOND)} changed beyond"
        f" noise, {worst.count(WITHIN)} within noise, {worst.count(SAME)} unchanged"
        f" ({same} with identical scores of every pixel)"
    ]
    if UNKNOWN in worst:
        parts.append(f"{worst.count(UNKNOWN)} changed, noise unknown (no per-image statistics)")
    if found.only_a or found.only_b:
        parts.append(f"{len(found.only_a)} only in A, {len(found.only_b)} only in B")
    return "; ".join(parts) + "."


def _worst(run: Compared) -> str:
    moved = {move.moved for move in run.moves.values()}
    return next(label for label in (BEYOND, UNKNOWN, WITHIN, SAME) if label in moved)


def _means(found: Comparison) -> Table:
    columns = [
        Column("dataset", "Dataset", "text"),
        Column("variant", "Variant", "text"),
        Column("metric", "Metric", "text"),
        Column("a", "A", "percent"),
        Column("b", "B", "percent"),
        Column("difference", "B − A", "delta"),
        Column("cells", "Runs", "number"),
        Column("beyond", "Beyond noise", "number"),
        Column("within", "Within", "number"),
        Column("same", "Identical", "number"),
        Column("unknown", "Noise unknown", "number"),
    ]
    groups = []
    for (dataset, variant), moves in means(found).items():
        members = [c for c in found.runs if (c.run.dataset, c.run.variant) == (dataset, variant)]
        rows = []
        for metric in METRICS:
            move = moves[metric]
            counts = [
                sum(c.moves[metric].moved == label for c in members)
                for label in (BEYOND, WITHIN, SAME, UNKNOWN)
            ]
            names = [Name(dataset, title(dataset)), variant, Name(metric, TITLES[metric])]
            # Empty columns are not printed.
            rows.append([*names, *_numbers(move), len(members), *counts[:3], counts[3] or None])
        groups.append(rows)
    level = f"{100 * found.level:g} %"
    kinds = {run.paired for run in found.runs}
    parts = [f"Means over the runs in both, percent; differences in points, {level} intervals."]
    if True in kinds:
        parts.append(
            "Noise: of the choice of test images, paired (A and B have the same test images)."
        )
    if False in kinds:
        some = "where" if True in kinds else "since"
        parts.append(f"Noise: unpaired, so larger, {some} A and B have different test images.")
    parts.append(
        "The noise of training is not included. If A and B are equally good, about"
        f" {100 * (1 - found.level):g} % of the runs are still beyond noise by chance."
    )
    return Table("Changes", columns, groups, parts, 2)


def _beyond_noise(found: Comparison) -> Table | None:
    """The runs beyond noise, the largest differences first."""
    columns = [
        Column("cell", "Run", "text"),
        Column("metric", "Metric", "text"),
        Column("a", "A", "percent"),
        Column("b", "B", "percent"),
        Column("difference", "B − A", "delta"),
        Column("p", "p", "p"),
    ]
    moves = [
        (run.run, metric, move)
        for run in found.runs
        for metric, move in run.moves.items()
        if move.moved == BEYOND
    ]
    if not moves:
        return None
    moves.sort(key=lambda item: -abs(item[2].difference or 0))
    rows = [
        [run.name, Name(metric, TITLES[metric]), *_numbers(move), move.p]
        for run, metric, move in moves[:SHOWN]
    ]
    more = len(moves) - SHOWN
    parts = [f"{more} more; --json FILE has all of them."] if more > 0 else []
    return Table("Beyond noise", columns, [rows], parts, 2)


def _numbers(move: Move) -> list[object]:
    a, b = (Stat(math.nan if x is None else x, None, 1) for x in (move.a, move.b))
    bounds = None
    if move.low is not None and move.high is not None and move.moved != SAME:
        bounds = (move.low, move.high)
    return [a, b, None if move.difference is None else Delta(move.difference, bounds)]


def _inputs(found: Comparison) -> Iterator[str]:
    if not found.inputs:
        same = all(_worst(run) == SAME for run in found.runs)
        yield "None." if same else "None recorded, although results differ."
        return
    order = list(KINDS)
    ranked = sorted(found.inputs.items(), key=lambda item: order.index(item[0].kind))
    for kind, items in groupby(ranked, key=lambda item: item[0].kind):
        alike: dict[tuple[str, str, tuple[Run, ...]], list[str]] = {}
        for change, runs in items:
            alike.setdefault((change.a, change.b, runs), []).append(change.name)
        groups = [(key, names) for key, names in alike.items()]
        if kind == "params":  # one line per parameter
            groups = [(key, [name]) for key, names in groups for name in names]
        lines = sorted(_line(names, *key, len(found.runs)) for key, names in groups)
        more = [f"- and {len(lines) - SHOWN} more; --json FILE has all of them"]
        shown = lines[:SHOWN] + (more if len(lines) > SHOWN else [])
        yield "\n".join([f"{KINDS[kind]}:", *shown])


def _line(names: Sequence[str], a: str, b: str, runs: Sequence[Run], total: int) -> str:
    where = "" if len(runs) == total else f" ({_runs(runs)})"
    return f"- {', '.join(names)}: {a} → {b}{where}"


def _runs(runs: Sequence[Run]) -> str:
    """Up to four runs by name, more by what they have in common."""
    if len(runs) <= 4:
        return ", ".join(run.name for run in runs)
    fields = [list(dict.fromkeys(values)) for values in zip(*runs, strict=True)]
    words = ("datasets", "categories", "seeds", "variants")
    parts = [
        (f"seed {v[0]}" if word == "seeds" else str(v[0])) if len(v) == 1 else f"{len(v)} {word}"
        for word, v in zip(words, fields, strict=True)
    ]
    return f"{len(runs)} runs: {', '.join(parts)}"
