"""The command `realnet trace`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from realnet.config.params import as_json, load
from realnet.core.io import write_json
from realnet.provenance.trace.chain import chain, overview, text
from realnet.provenance.trace.check import check as compare
from realnet.provenance.trace.check import verdict
from realnet.provenance.trace.selection import select


def run(
    target: Path,
    params: str = "params.yaml",
    asked: Mapping[str, Any] | None = None,
    check: bool = False,
    every: bool = False,
    out: Path | None = None,
) -> tuple[str, bool]:
    """The text, and whether everything matches (True where nothing was compared).

    ``asked``: dataset, category, seed, variant of the runs; without any, and without ``check``,
    the runs are only listed, unless there is one. ``out``: a JSON file with all details.
    UserError: see :func:`realnet.provenance.trace.select`, or no such run.
    """
    wanted = {key: value for key, value in (asked or {}).items() if value is not None}
    whole = select(target, params)
    chosen = whole.only(**wanted)
    content: dict[str, Any] = {"target": str(target)}
    matches = True
    if check:
        now = load(params) if as_json(params) is None else None
        findings, files = compare(chosen, now)
        shown = verdict(findings, files, len(chosen.runs))
        matches = all(finding.kind != "mismatch" for finding in findings)
        content |= {"files": files, "findings": [asdict(finding) for finding in findings]}
    elif wanted or len(chosen.runs) == 1:
        shown = "\n\n".join(text(chain(chosen, run), every) for run in chosen.runs)
    else:
        shown = overview(chosen)
    if out is not None:
        content["cells"] = [chain(chosen, run) for run in chosen.runs]
        write_json(out, content)
    return shown, matches
