"""The stages behind an evaluation: inputs, outputs, parameters, code and packages of each."""

import json
import shlex
import textwrap
from pathlib import Path
from typing import Any

from realnet.core.errors import UserError
from realnet.core.io import read_json, sha256
from realnet.datasets.items import read_manifest
from realnet.provenance.lineage import flatten, relative, trace
from realnet.provenance.trace.selection import Selection
from realnet.tables.runs import METRICS, Run

SHORT = 8  # digits of a digest that are shown


def chain(selection: Selection, run: Run) -> dict[str, Any]:
    """One run as plain data: metrics, records of its stages in the order they ran, datasets.

    UserError: an evaluation without a record.
    """
    folder = selection.runs[run]
    if not (folder / "stage.json").is_file():
        raise UserError(
            f"{folder}/stage.json: no such file, so the provenance is unknown; rerun the evaluation"
        )
    traced = trace(selection.results, [folder])
    stages = [
        {"folder": str(traced.folders[k]), **traced.records[k]} for k in traced.chains[folder]
    ]
    return {
        **run._asdict(),
        "metrics": _metrics(folder / "metrics.json"),
        "data": [_data(path) for path in manifests(selection.results, stages)],
        "stages": stages,
    }


def _metrics(path: Path) -> dict[str, float | None]:
    """Empty if it is not an evaluation, or its metrics are missing."""
    if not path.is_file():
        return {}
    values = read_json(path)
    return {name: values.get(name) for name in METRICS}


def manifests(results: Path, stages: list[dict[str, Any]]) -> list[Path]:
    """Present paths of the manifests of the datasets that the stages read."""
    found: dict[Path, None] = {}
    for stage in stages:
        for source in stage["inputs"].values():
            path = Path(source["path"])
            if path.name == "manifest.csv" and "data" in path.parts:
                found[results.joinpath(*path.parts[-4:])] = None
    return list(found)


def _data(manifest: Path) -> dict[str, Any]:
    if not manifest.is_file():
        return {"manifest": str(manifest), "sha256": None}
    items = read_manifest(manifest)
    return {
        "manifest": str(manifest),
        "sha256": sha256(manifest),
        "images": len(items),
        "train": sum(item.split == "train" for item in items),
        "masks": sum(item.mask_path is not None for item in items),
    }


def overview(selection: Selection) -> str:
    """The runs, one per line, and the commands for more."""
    lines = [f"{selection.target}: {len(selection.runs)} runs"]
    for run, folder in selection.runs.items():
        lines.append(f"  {run.name:40s} {relative(folder, selection.results)}/metrics.json")
    one, target = next(iter(selection.runs)), shlex.quote(str(selection.target))
    lines += [
        "",
        "provenance of one run:",
        f"  realnet trace {target} --dataset {one.dataset} --category {one.category}"
        f" --seed {one.seed} --variant {one.variant}",
        "check all of them against the present files:",
        f"  realnet trace {target} --check",
    ]
    return "\n".join(lines)


def text(found: dict[str, Any], every: bool = False) -> str:
    """A run for the terminal, from its metrics down to its datasets.

    ``every``: all outputs and code files of each stage, and one line per parameter.
    """
    name = Run(*(found[part] for part in Run._fields)).name
    values = ", ".join(
        f"{k} {'-' if v is None else f'{v:.4f}'}" for k, v in found["metrics"].items()
    )
    blocks = [f"{name}: {values}" if values else name]
    blocks += [_stage(stage, every) for stage in reversed(found["stages"])]
    for data in found["data"]:
        if data["sha256"] is None:
            blocks.append(f"data  {data['manifest']}: missing")
        else:
            blocks.append(
                f"data  {data['manifest']} {data['sha256'][:SHORT]}\n"
                f"  lists {data['images']} images ({data['train']} for training) and"
                f" {data['masks']} masks, each with its digest"
            )
    blocks.append(_parameters(found["stages"], every))
    blocks.append(_packages(found["stages"]))
    return "\n\n".join(blocks)


def _stage(stage: dict[str, Any], every: bool) -> str:
    commit = stage.get("git_commit") or "no commit"
    dirty = ", with uncommitted changes" if commit.endswith("+dirty") else ""
    code = stage.get("code") or {}
    ran = [
        f"seed {stage['seed']}" if "seed" in stage else "no seed",
        f"{stage.get('wall_s', '?')} s on {stage.get('device', '?')}",
        str(stage.get("finished", "at an unknown time")),
        f"commit {commit.removesuffix('+dirty')[:SHORT]}{dirty}",
        f"{len(code)} files of code" if code else "code not recorded",
    ]
    lines = [f"{stage['stage']}  {stage['folder']}", f"  ran    {', '.join(ran)}"]
    if names := stage.get("nondeterministic"):
        lines.append(f"  nondeterministic {', '.join(names)}")
    for name, source in stage["inputs"].items():
        lines.append(f"  read   {name}: {source['path']} {str(source.get('sha256'))[:SHORT]}")
    wrote = stage.get("outputs") or {}
    shown = wrote if every else dict(list(wrote.items())[:6])
    names = ", ".join(f"{name} {digest[:SHORT]}" for name, digest in shown.items())
    more = f" and {len(wrote) - len(shown)} more" if len(wrote) > len(shown) else ""
    lines += _wrapped("  wrote  ", f"{names}{more}" if wrote else "(digests not recorded)")
    if every:
        lines += [f"  code   {path} {digest[:SHORT]}" for path, digest in code.items()]
    return "\n".join(lines)


def _parameters(stages: list[dict[str, Any]], every: bool) -> str:
    """Each section once per set of values, with the stages that read it."""
    readers: dict[tuple[str, str], list[str]] = {}
    for stage in stages:
        for section, values in stage["params"].items():
            readers.setdefault((section, json.dumps(values)), []).append(stage["stage"])
    lines = ["parameters"]
    for (section, values), names in readers.items():
        flat = flatten(json.loads(values))
        head = f"  {section} (read by {', '.join(names)}): "
        if every:
            lines += [head.rstrip(), *(f"    {key}: {value}" for key, value in flat.items())]
        else:
            lines += _wrapped(head, ", ".join(f"{k} {v}" for k, v in flat.items()))
    return "\n".join(lines)


def _packages(stages: list[dict[str, Any]]) -> str:
    sets: dict[str, list[str]] = {}
    for stage in stages:
        versions = {"python": stage.get("python", "?"), **(stage.get("versions") or {})}
        listed = ", ".join(f"{name} {version}" for name, version in versions.items())
        sets.setdefault(listed, []).append(stage["stage"])
    if len(sets) == 1:
        return "\n".join(_wrapped("packages  ", next(iter(sets))))
    lines = ["packages (they differ between stages)"]
    for listed, names in sets.items():
        lines += _wrapped(f"  {', '.join(names)}: ", listed)
    return "\n".join(lines)


def _wrapped(head: str, words: str) -> list[str]:
    return textwrap.wrap(
        words, 100, initial_indent=head, subsequent_indent=" " * 9, break_long_words=False
    ) or [head.rstrip()]
