"""`realnet failures`: what of the matrix has not been evaluated, where it stopped, and why.

One line per cause, however many cells wait for it. After a failed run the workflow prints those
that stopped; `snakemake tables` writes all of them to ``tables/missing.csv`` while there are any.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from realnet.core.io import write_csv
from realnet.provenance.gaps import Gap, gaps
from realnet.report.collect import Results, collect, matrix_of

COLUMNS = ["stage", "log", "reason", "dataset", "category", "seed", "variant"]
SHOWN = 3  # names of cells in a line


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
