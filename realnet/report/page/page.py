"""Collect the parts of the page and render the template."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from realnet.core.io import read_csv
from realnet.provenance.failures import missing_runs
from realnet.provenance.lineage import Trace, trace
from realnet.report.page import facts, judged, page_data, pictures, view
from realnet.report.page.pictures import Picture
from realnet.report.page.view import View
from realnet.tables import result_tables
from realnet.tables.formats import Table
from realnet.tables.published import title
from realnet.tables.runs import Results, Run, collect
from realnet.tables.verdicts import Verdict

TEMPLATE, STYLE, SCRIPT = "template.html.j2", "style.css", "script.js"


def prepare(
    results: Path,
    found: Results,
    made: Mapping[str, Table],
    verdicts: Sequence[Verdict],
    params: str,
) -> dict[str, Any]:
    """Everything that :func:`render` needs except the figures; writes nothing.

    ``made``: file name -> table; ``params``: as for the report. Tables of groups of variants found
    under ``tables/`` are rebuilt from the evaluations and added. UserError: a malformed record.
    """
    groups = _groups(results, found)
    claimed = _with_variants(found, [name for verdict in verdicts for name in verdict.variants])
    whole = _joined(found, [group for _, _, group in groups], claimed)
    traced = trace(results, dict.fromkeys(whole.files[run].parent for run in whole.runs))
    lacking = missing_runs(results, whole)
    reasons = {run: n for n, failure in enumerate(lacking) for run in failure.runs}
    data = page_data.as_data(whole, traced, results, reasons)
    data["gaps"] = [[failure.stage, failure.log, failure.message] for failure in lacking]
    views = {name: view.view(name, table, found) for name, table in made.items()}
    views |= {name: view.view(name, table, group) for name, table, group in groups}
    first, *rest = (views[name] for name in sorted(views, key=lambda n: _place(n, found)))
    return {
        "facts": facts.facts(found, _part(traced, found), params),
        "commits": len({record.get("git_commit") for record in traced.records}),
        "main": first,
        "views": rest,
        "common": _common(rest, found),
        "verdicts": judged.sections(verdicts, found.matrix.digits),
        "gaps": lacking,
        "lacking": sum(len(failure.runs) for failure in lacking),
        "total": len(whole.files),
        "costs": facts.costs(traced),
        "data": _json(data),
    }


def render(prepared: Mapping[str, Any], results: Path) -> str:
    """The page as HTML, with the figures under ``results``. UserError: malformed figure index."""
    style, script = (_text(name) for name in (STYLE, SCRIPT))
    shown = pictures.pictures(results)
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "duration": facts.duration,
        "thousands": lambda number: f"{number:,}",
        "alternative": pictures.alternative,
    }
    return environment.from_string(_text(TEMPLATE)).render(
        **prepared,
        galleries=_by_dataset([picture for picture in shown if picture.data]),
        absent=[picture for picture in shown if not picture.data],
        style=Markup(style),
        script=Markup(script),
        style_hash=_digest(style),
        script_hash=_digest(script),
    )


def _place(name: str, found: Results) -> int:
    """Sort key: main, datasets, variants and their groups, then the long tables."""
    if name in found.categories:
        return 1
    order = {"main": 0, "ablation": 2, "protocols": 4, "per_category": 5, "sdas_check": 6}
    return order.get(name, 3)


def _common(views: Sequence[View], found: Results) -> list[str]:
    """Notes that several tables share; the page prints them once, above the tables.

    The tables of datasets count as one table here, since their notes hold for them only.
    """
    kinds: dict[str, set[str]] = {}
    for each in views:
        for note in each.notes:
            kinds.setdefault(note, set()).add("" if each.name in found.categories else each.name)
    return [note for note, where in kinds.items() if len(where) > 1]


def _by_dataset(shown: list[Picture]) -> list[tuple[str, list[Picture]]]:
    """(heading, figures) by dataset; without headings if there is only one dataset."""
    names = list(dict.fromkeys(picture.dataset for picture in shown))
    if len(names) <= 2:
        return [("", shown)] if shown else []
    return [(title(name) if name else "All datasets", [p for p in shown if p.dataset == name])
            for name in names]  # fmt: skip


def _groups(results: Path, found: Results) -> list[tuple[str, Table, Results]]:
    """(name, table, results) of each ``tables/ablation_<group>.csv``."""
    made = []
    for path in sorted((results / "tables").glob("ablation_*.csv")):
        names = dict.fromkeys(row["variant"] for row in read_csv(path) if row.get("variant"))
        group = _with_variants(found, names)
        if group is not None:
            heading = _title(path) or path.stem.removeprefix("ablation_").replace("_", " ")
            table = replace(result_tables.ablation_table(group), title=heading)
            made.append((path.stem, table, group))
    return made


def _with_variants(found: Results, names: Iterable[str]) -> Results | None:
    """The same matrix with other variants, whose evaluations may be missing; None: there are no
    such variants, or only the listed files are to be read."""
    known = tuple(dict.fromkeys(name for name in names if name in found.matrix.folders))
    if not known or found.listed:
        return None
    matrix = replace(found.matrix, variants=known, datasets=dict(found.categories))
    wider = collect(found.root, matrix, allow_missing=True)
    return replace(wider, drawn=found.drawn)


def _title(path: Path) -> str:
    """The heading of the table in its Markdown file."""
    text = path.with_suffix(".md")
    lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
    return next((line.removeprefix("### ") for line in lines if line.startswith("### ")), "")


def _joined(found: Results, groups: Sequence[Results], claimed: Results | None) -> Results:
    """All evaluations, those of the matrix first; of claims only those that exist."""
    files: dict[Run, Path] = dict(found.files)
    runs: dict[Run, Any] = dict(found.runs)
    for other in groups:
        files |= {run: path for run, path in other.files.items() if run not in files}
        runs |= {run: values for run, values in other.runs.items() if run not in runs}
    if claimed is not None:
        for run, values in claimed.runs.items():
            if run not in files:
                files[run], runs[run] = claimed.files[run], values
    return replace(found, files=files, runs=runs, drawn={})


def _part(traced: Trace, found: Results) -> Trace:
    """The records behind the matrix, without those only used by groups."""
    folders = {found.files[run].parent for run in found.runs}
    chains = {folder: chain for folder, chain in traced.chains.items() if folder in folders}
    used = sorted({k for chain in chains.values() for k in chain})
    return Trace([traced.folders[k] for k in used], [traced.records[k] for k in used], {})


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """SHA-256 of a script or style, as a content security policy states it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _json(value: Any) -> Markup:
    """JSON escaped so that it cannot close the HTML element that contains it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
