"""`realnet failures`: what of the matrix has not been evaluated, where it stopped, and why.

One line per cause, however many cells wait for it. After a failed run the workflow prints those
that stopped; `snakemake tables` writes all of them to ``tables/missing.csv`` while there are any.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from realnet.core.io import write_csv
from realnet.provenance.lineage import relative
from realnet.registry import STAGES, Stage
from realnet.report.collect import Cell, Results, collect, matrix_of

COLUMNS = ["stage", "log", "reason", "dataset", "category", "seed", "variant"]
TAIL = 16_000  # bytes of a log that are looked at
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOWN = 3  # names of cells in a line


@dataclass
class Gap:
    """Cells that are missing for one reason."""

    stage: str  # the one that stopped; empty where none was started
    log: str  # relative to the results; empty where there is none
    message: str  # last line of the log
    cells: list[Cell] = field(default_factory=list)


def failures(results: Path, params: str, stopped: bool = False) -> tuple[str, int]:
    """The text, and how many cells it is about.

    ``params``: as of `realnet report`. ``stopped``: leave out what was never started.
    """
    found = collect(results, matrix_of(params), allow_missing=True)
    total = len(found.files)
    lacking = [gap for gap in gaps(results, found) if gap.stage or not stopped]
    count = sum(len(gap.cells) for gap in lacking)
    if not lacking:
        return f"{len(found.cells)} of {total} cells evaluated, no stage stopped", 0
    lines = [f"{count} of {total} cells not evaluated"]
    for gap in lacking:
        lines += ["", *_told(gap, results)]
    return "\n".join(lines), count


def _told(gap: Gap, results: Path) -> list[str]:
    names = [cell.name for cell in gap.cells]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    cells = f"{len(names)} cell{'s' * (len(names) > 1)}: {', '.join(names[:SHOWN])}{more}"
    if not gap.stage:
        return [f"not started, {cells}"]
    return [
        f"{gap.stage} stopped, or is running, {cells}",
        f"  {results / gap.log}:",
        f"  {gap.message or '(an empty log)'}",
    ]


def write_missing(results: Path, found: Results) -> None:
    """``tables/missing.csv``, one row per cell without an evaluation; no file where none lacks."""
    rows: Sequence[dict] = [
        {"stage": gap.stage, "log": gap.log, "reason": gap.message, **cell._asdict()}
        for gap in gaps(results, found)
        for cell in gap.cells
    ]
    path = results / "tables" / "missing.csv"
    if rows:
        write_csv(path, rows, COLUMNS)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def gaps(results: Path, found: Results) -> list[Gap]:
    """Every cell of the matrix that is missing, by its cause; what was not started comes last.

    A stage stopped where its log is there and its result is not, which is also how one looks that
    is still running.
    """
    causes: dict[tuple[str, str], Gap] = {}
    for cell, path in found.files.items():
        if cell in found.cells:
            continue
        stage, log = next(_stopped(results, cell, path.parent.name), ("", None))
        key = (stage, "" if log is None else relative(log, results))
        if key not in causes:
            causes[key] = Gap(*key, "" if log is None else last_line(log))
        causes[key].cells.append(cell)
    return sorted(causes.values(), key=lambda gap: (not gap.stage, -len(gap.cells)))


def _stopped(results: Path, cell: Cell, folder: str) -> Iterator[tuple[str, Path]]:
    """Stages without a result that left a log, causes first.

    ``folder``: the variant whose evaluation the cell shares. A stage that the variant does not
    touch has its result and its log under `base`; its own come first.
    """
    needed = _before(STAGES["evaluate"])
    for stage in STAGES.values():
        if stage.name not in needed:
            continue
        place = stage.path
        groups = (cell.category, "all") if "{group}" in place else ("",)
        for variant in dict.fromkeys((cell.variant, folder, "base")):
            for group in groups:
                where = place.format(**cell._asdict() | {"variant": variant, "group": group})
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
    """The last line that begins with `realnet: `, which is how a stage says why it ends.

    Without one the last that says something: of a traceback the error, of a progress bar its state.
    """
    with log.open("rb") as source:
        source.seek(max(0, log.stat().st_size - TAIL))
        text = source.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", text))]
    said = [line for line in lines if line]
    why = [line for line in said if line.startswith("realnet: ")]
    return (why or said)[-1][:1000] if said else ""
