"""Check recorded digests, parameters, code and packages against the present ones.

Three kinds of findings. ``mismatch``: a file is missing or changed; a stage used other inputs or
parameters than the present ones; a table differs from its evaluations. ``differs``: other code or
packages than the present ones, which may or may not change a result. ``unknown``: not recorded by
an older version.
"""

import importlib.metadata
import itertools
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from realnet.config.params import PROJECT, Params
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256
from realnet.core.progress import in_threads
from realnet.datasets.items import read_manifest
from realnet.provenance.lineage import moved, trace
from realnet.provenance.trace.chain import SHORT, manifests
from realnet.provenance.trace.selection import Selection
from realnet.registry import STAGES
from realnet.tables import formats, result_tables
from realnet.tables.runs import Results, Run

Kind = Literal["mismatch", "differs", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One difference; ``repair``: the target for Snakemake to rebuild; empty if there is none."""

    kind: Kind
    where: str
    said: str
    repair: str = ""


@dataclass(frozen=True)
class _Expected:
    """A file and its recorded digest."""

    path: Path
    digest: str
    by: str  # the file that records the digest
    repair: str
    own: bool  # recorded by the stage that wrote the file; False: by one that read it
    made: bool = False  # whether it is a result, which can be rebuilt


@dataclass
class _Found:
    expected: list[_Expected] = field(default_factory=list)
    findings: dict[Finding, None] = field(default_factory=dict)

    def add(self, kind: Kind, where: Path | str, said: str, repair: str = "") -> None:
        self.findings[Finding(kind, str(where), said, repair)] = None


def check(selection: Selection, params: Params | None) -> tuple[list[Finding], int]:
    """Findings, the worst first, and the number of checked files.

    ``params``: the present parameters; None: not compared.
    """
    found = _Found()
    folders = dict.fromkeys(selection.runs.values())
    traced = trace(selection.results, folders)
    users: dict[int, dict[str, Run]] = {}  # record -> variant -> one run that depends on it
    for run, folder in selection.runs.items():
        if not traced.chains.get(folder):
            found.add("mismatch", folder / "stage.json", "missing", str(folder / "stage.json"))
        for number in traced.chains.get(folder, []):
            users.setdefault(number, {}).setdefault(run.variant, run)
    for number, runs in users.items():
        folder, record = traced.folders[number], traced.records[number]
        _files(found, selection.results, folder, record)
        for run in runs.values():
            _settings(found, folder, record, params, run, selection.runs[run] / "stage.json")
        _surroundings(found, record)
    gone = bool(selection.lost) and not (selection.results / "evaluate").is_dir()
    if gone:  # a published report, or all are lost: one finding, not one per run
        text = f"missing, with {len(selection.lost)} evaluations that the table shows"
        found.add("mismatch", selection.results / "evaluate", text, "tables")
    for folder in () if gone else selection.lost.values():
        text = "the table shows this evaluation, but it is missing"
        found.add("mismatch", folder, text, str(folder / "stage.json"))
    if params is None:
        found.add("unknown", "parameters", "not compared, since they are not a file")
    _data(found, manifests(selection.results, traced.records))
    checked = _compare_digests(found)
    if selection.table and selection.found is not None and not gone:
        _table(found, selection, selection.found)
    other = selection.target.suffix in (".md", ".tex", ".html")
    if other or (selection.found is not None and not selection.table):
        found.add(
            "unknown", selection.target, "its own content is not checked, only its evaluations"
        )
    order = ("mismatch", "differs", "unknown")
    return sorted(found.findings, key=lambda finding: order.index(finding.kind)), checked


def _files(found: _Found, results: Path, folder: Path, record: Mapping[str, Any]) -> None:
    """Outputs and inputs of the stage."""
    target = str(folder / "stage.json")
    if "outputs" not in record:
        found.add("unknown", "digests of outputs", "not recorded by the version that wrote them")
    for name, digest in (record.get("outputs") or {}).items():
        found.expected.append(_Expected(folder / name, digest, target, target, own=True))
    if record["stage"] == "sdas" and (folder / "manifest.csv").is_file():
        for row in read_csv(folder / "manifest.csv"):
            by = str(folder / "manifest.csv")
            path = folder / row.get("path", "")
            found.expected.append(_Expected(path, row.get("sha256", ""), by, target, own=True))
    for source in record["inputs"].values():
        path = Path(source["path"])
        if (place := moved(results, source["path"])) is not None:
            path = place / path.name
        elif "data" in path.parts and path.name == "manifest.csv":
            path = results.joinpath(*path.parts[-4:])
        elif (place := _unvouched(results, path)) is not None:
            path, voucher = place / path.name, str(place / "stage.json")
            found.add("mismatch", voucher, f"missing, {target} depends on it", voucher)
        made = path.is_relative_to(results)
        found.expected.append(_Expected(path, source["sha256"], target, target, False, made))


def _unvouched(results: Path, source: Path) -> Path | None:
    """The folder of a result without its record; None: the file is not a result of a stage."""
    for start, part in enumerate(source.parts):
        if part in STAGES:
            folder = results.joinpath(*source.parts[start:]).parent
            return folder if folder.is_dir() or source.is_relative_to(results) else None
    return None


def _data(found: _Found, paths: Iterable[Path]) -> None:
    """Manifests against their summaries, images and masks against their manifests."""
    for manifest in paths:
        summary = manifest.with_name("summary.json")
        known = read_json(summary).get("outputs", {}) if summary.is_file() else {}
        if manifest.name in known:
            found.expected.append(
                _Expected(manifest, known[manifest.name], str(summary), str(manifest), own=True)
            )
        else:
            found.add("unknown", "digests of manifests", "not recorded by their summary.json")
        if not manifest.is_file():
            continue
        try:
            items = read_manifest(manifest)
        except UserError as error:
            found.add("mismatch", manifest, str(error), str(manifest))
            continue
        for item in items:
            for path, digest in ((item.path, item.sha256), (item.mask_path, item.mask_sha256)):
                if path is not None and digest:
                    found.expected.append(_Expected(path, digest, str(manifest), "", own=True))


def _compare_digests(found: _Found) -> int:
    """Hash each file once; report a file that differs from what its stage wrote only once."""
    paths = list(dict.fromkeys(expected.path for expected in found.expected))
    hashed = in_threads(lambda path: sha256(path) if path.is_file() else None, paths, "files")
    now = dict(zip(paths, hashed, strict=True))
    changed = set()
    for expected in sorted(found.expected, key=lambda e: not e.own):
        digest = now[expected.path]
        if digest == expected.digest or expected.path in changed:
            continue
        if expected.own:
            changed.add(expected.path)
            if digest is None:
                text = f"missing, its digest is in {expected.by}"
            else:
                text = f"{digest[:SHORT]} now, {expected.digest[:SHORT]} in {expected.by}"
            found.add("mismatch", expected.path, text, expected.repair)
        elif digest is None:
            target = str(expected.path) if expected.made else ""
            text = f"missing, {expected.by} depends on it"
            found.add("mismatch", expected.path, text, target)
        else:
            text = (
                f"made from {expected.path} with digest {expected.digest[:SHORT]},"
                f" now {digest[:SHORT]}"
            )
            found.add("mismatch", expected.by, text, expected.repair)
    return len(paths)


def _settings(
    found: _Found,
    folder: Path,
    record: Mapping[str, Any],
    params: Params | None,
    run: Run,
    repair: Path,
) -> None:
    """Compare the stage's recorded parameters with the present ones of this run.

    ``repair``: the record of the run's evaluation. Rebuilding that reruns the stages with changed
    parameters, whose folders may be new (the run may have shared those of base before).
    """
    if params is None:
        return
    try:
        wanted = json.loads(params.section_json(record["stage"], run.variant))
    except (KeyError, UserError):
        return  # an imported model
    target = str(folder / "stage.json")
    for section in sorted(wanted.keys() | record["params"].keys()):
        was, now = record["params"].get(section), wanted.get(section)
        for key, before, after in _differing(was, now, section):
            text = (
                f"made with {key} {_shortened(before)}, now {_shortened(after)} in the parameters"
                f" of {run.variant}"
            )
            found.add("mismatch", target, text, str(repair))


def _differing(was: Any, now: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted(was.keys() | now.keys()):
            yield from _differing(was.get(key), now.get(key), f"{name}.{key}")
    elif was != now:
        yield name, was, now


def _shortened(value: Any) -> str:
    return json.dumps(value)[:60]


def _surroundings(found: _Found, record: Mapping[str, Any]) -> None:
    """Recorded code and packages against the present ones."""
    if "code" not in record:
        found.add("unknown", "code", "not recorded by the version that ran")
    code = record.get("code") or {}
    now = {n: sha256(PROJECT / n)[: len(d)] for n, d in code.items() if (PROJECT / n).is_file()}
    if len(now) < len(code):  # modules were renamed: one finding, not one per module
        found.add("differs", "code", "not compared: recorded by a version with other modules")
    else:
        for name, digest in code.items():
            if now[name] != digest:
                text = f"{now[name][:SHORT]} now, {digest[:SHORT]} when the stages ran"
                found.add("differs", name, text)
    for package, version in (record.get("versions") or {}).items():
        try:
            here = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            here = "not installed"
        if here != version:
            found.add("differs", package, f"{here} now, {version} when the stages ran")


def _table(found: _Found, selection: Selection, results: Results) -> None:
    """The table against one that is rebuilt from the evaluations."""
    name = selection.target.stem
    if name == "verdicts":
        found.add("unknown", selection.target, "verdicts are not checked; check the other tables")
        return
    if name == "cells":
        wanted = result_tables.cells_csv(results)
    elif selection.group:
        wanted = formats.to_csv(result_tables.ablation_table(results))
    else:
        made = result_tables.all_tables(results)
        if name not in made:
            found.add("unknown", selection.target, "not a table of these parameters")
            return
        wanted = formats.to_csv(made[name])
    path = selection.target.with_suffix(".csv")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = itertools.zip_longest(lines, wanted.splitlines(), fillvalue="")
    for number, (line, now) in enumerate(pairs, start=1):
        if line != now:
            text = f"line {number} differs from the evaluations: {now or 'no such line'}"
            found.add("mismatch", path, text, "tables")


def verdict(findings: list[Finding], files: int, runs: int) -> str:
    """The findings as text, one per line, then the commands that repair them."""
    lines = [f"{finding.kind}: {finding.where}: {finding.said}" for finding in findings]
    bad = [finding for finding in findings if finding.kind == "mismatch"]
    what = "everything matches" if not bad else f"{len(bad)} mismatches"
    lines.append(f"{runs} runs, {files} files checked: {what}")
    again = dict.fromkeys(finding.repair for finding in bad if finding.repair)
    made = [target for target in again if target != "tables"]
    if made:
        targets = shlex.join(made)
        lines += ["", "to rebuild:"]
        lines.append(f"  rm -f {targets}\n  snakemake --cores all {targets}")
    if again:
        lines += ["", "then rebuild the tables:", "  snakemake --cores 1 tables"]
    if any(not finding.repair for finding in bad):
        lines += [
            "",
            "files that no stage makes (raw data, weights): restore them from their source",
        ]
    return "\n".join(lines)
