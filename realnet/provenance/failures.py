"""`realnet failures`: runs without an evaluation, by the stage that stopped and its error.

One entry per cause, however many runs depend on it. After a failure the workflow prints the stages
that stopped; `snakemake tables` writes all missing runs to ``tables/missing.csv`` if there are any.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from realnet.core.errors import first_names
from realnet.core.io import write_csv
from realnet.provenance.lineage import relative
from realnet.registry import STAGES, Stage
from realnet.tables.runs import Results, Run, collect, matrix_of

COLUMNS = ["stage", "log", "reason", "dataset", "category", "seed", "variant"]
TAIL = 16_000  # bytes read from the end of a log
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOWN = 3  # names of runs in a line


@dataclass
class Failure:
    """Runs that are missing for the same reason."""

    stage: str  # the one that stopped; empty if none was started
    log: str  # relative to the results; empty if there is none
    message: str  # last line of the log
    runs: list[Run] = field(default_factory=list)


def failures(results: Path, params: str, stopped: bool = False) -> tuple[str, int]:
    """The text, and the number of missing runs in it.

    ``params``: as for `realnet report`. ``stopped``: leave out runs that were never started.
    """
    found = collect(results, matrix_of(params), allow_missing=True)
    total = len(found.files)
    lacking = [failure for failure in missing_runs(results, found) if failure.stage or not stopped]
    count = sum(len(failure.runs) for failure in lacking)
    if not lacking:
        return f"{len(found.runs)} of {total} runs evaluated, no stage failed", 0
    lines = [f"{count} of {total} runs not evaluated"]
    for failure in lacking:
        lines += ["", *_lines(failure, results)]
    return "\n".join(lines), count


def _lines(failure: Failure, results: Path) -> list[str]:
    names = [run.name for run in failure.runs]
    runs = f"{len(names)} run{'s' * (len(names) > 1)}: {first_names(names, SHOWN)}"
    if not failure.stage:
        return [f"not started, {runs}"]
    return [
        f"{failure.stage} failed or is still running, {runs}",
        f"  {results / failure.log}:",
        f"  {failure.message or '(log is empty)'}",
    ]


def write_missing(results: Path, found: Results) -> None:
    """``tables/missing.csv``, one row per run without an evaluation; no file if there is none."""
    rows: Sequence[dict] = [
        {"stage": failure.stage, "log": failure.log, "reason": failure.message, **run._asdict()}
        for failure in missing_runs(results, found)
        for run in failure.runs
    ]
    path = results / "tables" / "missing.csv"
    if rows:
        write_csv(path, rows, COLUMNS)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def missing_runs(results: Path, found: Results) -> list[Failure]:
    """Every missing run of the matrix, grouped by cause; runs that were not started come last.

    A stage with a log but without a result has failed, or is still running.
    """
    causes: dict[tuple[str, str], Failure] = {}
    for run, path in found.files.items():
        if run in found.runs:
            continue
        stage, log = next(_stopped(results, run, path.parent.name), ("", None))
        key = (stage, "" if log is None else relative(log, results))
        if key not in causes:
            causes[key] = Failure(*key, "" if log is None else last_line(log))
        causes[key].runs.append(run)
    return sorted(causes.values(), key=lambda failure: (not failure.stage, -len(failure.runs)))


def _stopped(results: Path, run: Run, folder: str) -> Iterator[tuple[str, Path]]:
    """Stages with a log but without a result, in the order in which they run.

    ``folder``: the variant whose evaluation the run shares. A stage that the variant does not
    change has its result and log under `base`; the variant's own are looked up first.
    """
    needed = _before(STAGES["evaluate"])
    for stage in STAGES.values():
        if stage.name not in needed:
            continue
        place = stage.path
        groups = (run.category, "all") if "{group}" in place else ("",)
        for variant in dict.fromkeys((run.variant, folder, "base")):
            for group in groups:
                where = place.format(**run._asdict() | {"variant": variant, "group": group})
                log = results / "logs" / f"{where}.log"
                done = (results / where / stage.result).is_file()
                if done or log.is_file():
                    break
            if done or log.is_file():
                if not done:
                    yield stage.name, log
                break


def _before(stage: Stage) -> set[str]:
    return {stage.name}.union(*(_before(STAGES[name]) for name in stage.upstream))


def last_line(log: Path) -> str:
    """The last line that begins with `realnet: `, the prefix of error messages.

    Without one, the last line that is not empty: the error of a traceback, a progress bar.
    """
    with log.open("rb") as source:
        source.seek(max(0, log.stat().st_size - TAIL))
        text = source.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", text))]
    nonempty = [line for line in lines if line]
    why = [line for line in nonempty if line.startswith("realnet: ")]
    return (why or nonempty)[-1][:1000] if nonempty else ""
