"""What of the matrix is missing, and the last words of the stage that stopped."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from realnet.provenance.page_records import relative
from realnet.registry import STAGES
from realnet.report.collect import Cell, Results

# Where a stage leaves its record and its log, in the order in which stages run. `{group}` is the
# category or, where one model serves all of them, `all`. SIA is no part of a run.
PLACES = {stage.name: stage.path for stage in STAGES.values() if stage.name != "sia"}
TAIL = 16_000  # bytes of a log that are looked at
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Gap:
    """Cells that are missing for one reason."""

    stage: str  # the one that stopped; empty where none was started
    log: str  # relative to the results; empty where there is none
    message: str  # last line of the log
    cells: list[Cell] = field(default_factory=list)


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
    for stage, place in PLACES.items():
        groups = (cell.category, "all") if "{group}" in place else ("",)
        for variant in dict.fromkeys((cell.variant, folder, "base")):
            for group in groups:
                where = place.format(**cell._asdict() | {"variant": variant, "group": group})
                log = results / "logs" / f"{where}.log"
                done = (results / where / STAGES[stage].result).is_file()
                if done or log.is_file():
                    break
            if done or log.is_file():
                if not done:
                    yield stage, log
                break


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
