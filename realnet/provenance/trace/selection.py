"""The evaluations behind a table, a page or a result."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json
from realnet.registry import STAGES
from realnet.tables.groups import group_matrix
from realnet.tables.runs import Results, Run, collect, matrix_of

GROUP = "ablation_"
# Files of the report that depend on every run.
WHOLE_REPORT = ("metrics.json", "report.html")


@dataclass(frozen=True)
class Selection:
    """The target, and the runs behind it.

    The result of a single stage, whichever it is, counts as a run too.
    """

    target: Path
    results: Path  # the folder of all results
    found: Results | None  # the matrix that a file of the report shows
    runs: dict[Run, Path]  # folder of each evaluation, or of the stage
    table: bool  # whether the target is a table of the report
    group: str = ""  # name of the group, of a group's table
    lost: dict[Run, Path] = field(
        default_factory=dict
    )  # runs that the table shows, but that are missing

    def only(self, **wanted: str | int | None) -> "Selection":
        """The runs with these values; None: any. UserError: there are none."""
        asked = {name: value for name, value in wanted.items() if value is not None}

        def matching(runs: dict[Run, Path]) -> dict[Run, Path]:
            pairs = asked.items()
            return {c: f for c, f in runs.items() if all(getattr(c, k) == v for k, v in pairs)}

        runs, lost = matching(self.runs), matching(self.lost)
        if not runs and not lost:
            values = ", ".join(f"{name} {value}" for name, value in asked.items())
            there = "; ".join(
                f"{name}: {', '.join(dict.fromkeys(str(getattr(c, name)) for c in self.runs))}"
                for name in Run._fields
            )
            raise UserError(f"{self.target}: no run with {values}; there are {there}")
        return replace(self, runs=runs, lost=lost)


def select(target: Path, params: str) -> Selection:
    """The evaluations behind ``target``: a file of the report, or a stage's folder or file.

    A table depends on the datasets, variants and categories that it names; without a column of
    variants, on the reference variant. ``params``: parameter file or JSON of experiment, variants
    and report, for the matrix. UserError: no such file, or one without evaluations behind it.
    """
    if not target.exists():
        raise UserError(f"{target}: no such file; expected a table, e.g. results/tables/main.csv")
    if target.is_dir() or (target.parent / "stage.json").is_file():
        return _of_a_result(target)
    name = target.stem
    if target.parent.name == "tables":
        return _of_a_table(target, target.parent.parent, params, name)
    if target.name in WHOLE_REPORT:
        found = collect(target.parent, matrix_of(params), allow_missing=True)
        return Selection(target, target.parent, found, _there(found), table=False)
    raise UserError(
        f"{target}: no evaluation is behind it; expected a file of results/tables, or a folder or"
        " file of a stage below results"
    )


def _of_a_table(target: Path, results: Path, params: str, name: str) -> Selection:
    group = name.removeprefix(GROUP) if name.startswith(GROUP) else ""
    try:
        matrix = group_matrix(params, group)[0] if group else matrix_of(params)
    except UserError as error:
        raise UserError(f"{target}: {error}") from None
    found = collect(results, matrix, allow_missing=True)
    runs = {run: path.parent for run, path in found.files.items()}
    table = target.with_suffix(".csv")
    rows = read_csv(table) if table.is_file() else []
    if name in found.matrix.datasets:
        runs = {run: folder for run, folder in runs.items() if run.dataset == name}
    for column in ("dataset", "variant"):
        if named := {row[column] for row in rows if row.get(column)}:
            runs = {c: f for c, f in runs.items() if getattr(c, column) in named}
    if rows and "variant" not in rows[0] and "variants" not in rows[0] and not group:
        reference = found.matrix.variants[0]
        runs = {run: folder for run, folder in runs.items() if run.variant == reference}
    known, listed = _there(found), results / "tables/cells.csv"
    there = {run: folder for run, folder in runs.items() if run in known}
    shown = _shown(rows if group or not listed.is_file() else read_csv(listed), runs)
    lost = {run: runs[run] for run in shown if run not in there}
    return Selection(target, results, found, there, table=True, group=group, lost=lost)


def _shown(rows: list[dict[str, str]], runs: dict[Run, Path]) -> list[Run]:
    """The runs for which the rows have a value (a column that is absent matches every run)."""
    columns = [name for name in Run._fields if rows and name in rows[0]]
    valued = {tuple(row[name] for name in columns) for row in rows if row.get("image_auroc")}
    return [run for run in runs if tuple(str(getattr(run, n)) for n in columns) in valued]


def _of_a_result(target: Path) -> Selection:
    folder = target if target.is_dir() else target.parent
    if not (folder / "stage.json").is_file():
        raise UserError(
            f"{target}: not a result of a stage (no stage.json); expected one like"
            " results/evaluate/<dataset>/<category>/seed<k>/<variant>, or a table"
        )
    record = read_json(folder / "stage.json")
    if not isinstance(record, dict) or "stage" not in record:
        raise UserError(f"{folder}/stage.json: not the record of a stage; rerun the stage")
    run = Run(
        record.get("dataset", "-"),
        record.get("category", "all"),
        record.get("seed", 0),
        record.get("variant", folder.name),
    )
    # results/backbone/<variant>, or results/<stage>/<dataset>/<category>/seed<k>/<variant>
    depth = STAGES[record["stage"]].path.count("/") if record["stage"] in STAGES else 4
    results = folder.resolve().parents[depth]
    if not target.is_absolute():  # print paths as they were given
        results = Path(os.path.relpath(results))
    return Selection(target, results, None, {run: folder}, table=False)


def _there(found: Results) -> dict[Run, Path]:
    """Evaluations that exist, also those whose metrics are missing."""
    folders = {run: path.parent for run, path in found.files.items()}
    return {
        run: folder
        for run, folder in folders.items()
        if run in found.runs or (folder / "stage.json").is_file()
    }
