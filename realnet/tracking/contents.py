"""The content of MLflow's runs, read only from result files.

Each run is described by the `stage.json` files behind its evaluation, followed from input to input,
so it shows the parameters and digests that were used, even if `params.yaml` has changed since.
"""

import dataclasses
import datetime
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realnet.config.params import Params, as_json, load
from realnet.config.sections import Experiment
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.provenance.lineage import behind, flatten
from realnet.registry import STAGES
from realnet.tracking.names import GROUPS, WHOLE, metric_name

LAYOUT = "2"  # raise it to rewrite all runs although no result has changed

# Stage -> figures in its folder that the run shows -> their names among the artifacts.
FIGURES = {stage.name: stage.figures for stage in STAGES.values() if stage.figures}
# Table of a stage -> prefix of the metrics, and prefixes of the columns shown over the steps.
CURVES = {
    "history.csv": ("{stage}", ("loss",)),
    "selection.csv": ("on_test", ("image_auroc", "pixel_auroc", "key")),
}


@dataclass(frozen=True)
class Curves:
    """Columns of a table with a column ``step``, read when the run is written."""

    path: Path
    prefix: str
    columns: tuple[str, ...]  # prefixes of their names


@dataclass(frozen=True)
class Content:
    """What one MLflow run shows."""

    key: str  # its name; unique among the active runs
    fingerprint: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    curves: list[Curves] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)  # name among the artifacts -> file
    data: tuple[str, str, str] | None = None  # name, digest, path of the manifest
    seconds: float = 0.0
    finished: float = 0.0  # seconds since 1970


@dataclass(frozen=True, kw_only=True)
class CellContent(Content):
    """What the run of one evaluation shows."""

    parent: str  # key of its parent run
    model: Path  # folder of the trained detector


def run_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of a run: ``section.key`` -> text; lists and None as JSON.

    Mappings that are meaningful only as a whole are one value: ``sdas 0.5, normal 0.5``.
    """
    return flatten(values, _text, WHOLE)


def _text(key: str, value: Any) -> str:
    if isinstance(value, Mapping) and key in WHOLE:
        entries = sorted(value.items(), key=lambda entry: entry[0] == "normal")  # "normal" last
        parts = (f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in entries)
        return ", ".join(parts) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def measurements(measured: Mapping[str, Any]) -> dict[str, float]:
    """A metrics.json as flat numbers; undefined values (null) are omitted.

    The headline metrics keep their names, all others are grouped by a prefix:
    ``pro_at/0.05``, ``by_defect/crack/pro``, ``image_auroc/low``, ``official_best/pro_official``.
    """
    values = {n: v for n, v in measured.items() if n not in GROUPS and n not in ("seed", "counts")}
    found = {metric_name(name): v for name, v in _numbers(values).items()}
    for name in ("pro_at", "by_defect", "by_size", "counts"):
        for path, value in _numbers(measured.get(name) or {}, f"{name}/").items():
            if not path.endswith(("/regions", "/defect_pixels")):
                found[metric_name(path)] = value
    for name in ("regions", "defect_pixels", "normal_pixels"):  # counts, not metrics of quality
        if name in found:
            found[f"counts/{name}"] = found.pop(name)
    for metric, bounds in (measured.get("intervals") or {}).items():
        if bounds is not None:
            found |= {f"{metric}/low": float(bounds[0]), f"{metric}/high": float(bounds[1])}
    for protocol, values in (measured.get("protocols") or {}).items():
        if protocol != "strict_last":  # that is the headline
            for path, value in _numbers(values or {}, f"{protocol}/").items():
                found[metric_name(path)] = value
    return found


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested mappings, as ``outer/inner``."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found


def cell_content(folder: Path, key: str, identity: Mapping[str, Any]) -> CellContent:
    """The run of one evaluation, whose folder is ``results/evaluate/…/<variant>``.

    ``identity``: dataset, category, seed, variant, and further tags that identify the run.
    """
    measured = read_json(folder / "metrics.json")
    stages = behind(folder.parents[4], folder)
    if "evaluate" not in stages:
        raise UserError(f"{folder}/stage.json: no such file; evaluate again")
    identified = json.dumps([LAYOUT, key, dict(identity)])
    digest = hashlib.sha256(identified.encode() + (folder / "metrics.json").read_bytes())
    metrics = measurements(measured)
    sections: dict[str, Any] = {}
    shown: list[Curves] = []
    files = {name: folder / name for name in ("metrics.json", "images.csv", "regions.csv")}
    for stage, (place, record) in sorted(stages.items()):
        digest.update((place / "stage.json").read_bytes())
        sections |= record["params"]
        metrics[f"seconds/{stage}"] = record["wall_s"]
        metrics[f"peak_memory_mb/{stage}"] = record["peak_memory_mb"]
        files[f"provenance/{stage}.json"] = place / "stage.json"
        for table, (prefix, columns) in CURVES.items():
            if (place / table).is_file():
                shown.append(Curves(place / table, prefix.format(stage=stage), columns))
                files[f"history/{stage}_{table}"] = place / table
        for name, title in FIGURES.get(stage, {}).items():
            files[f"figures/{title}"] = place / name
    last = stages["evaluate"][1]
    sections |= last["params"]  # the stage realnet records one value of the section `evaluate`
    seconds = sum(record["wall_s"] for _, record in stages.values())
    manifest = last["inputs"]["manifest"]
    model = Path(last["inputs"]["model"]["path"]).parent
    tags = {name: str(value) for name, value in identity.items()} | {
        "level": "cell",
        "device": last["device"],
        "commit": last["git_commit"] or "none",
        "results": str(folder),
        "metrics_sha256": hashlib.sha256((folder / "metrics.json").read_bytes()).hexdigest(),
        "manifest_sha256": manifest["sha256"],
        "model": str(model),
        **_of_model(model),
    }
    return CellContent(
        key=key,
        fingerprint=digest.hexdigest(),
        tags=tags,
        params=run_params(sections),
        metrics=metrics | {"seconds/total": round(seconds, 2)},
        curves=shown,
        files={name: path for name, path in files.items() if path.is_file()},
        data=(
            f"{identity['dataset']}/{identity['category']}",
            manifest["sha256"],
            manifest["path"],
        ),
        seconds=seconds,
        finished=datetime.datetime.fromisoformat(last["finished"]).timestamp(),
        parent=f"{identity['dataset']}/{identity['variant']}",
        model=model,
    )


def _of_model(folder: Path) -> dict[str, str]:
    """Method and digest of a trained detector, from its ``model.json`` (weights may be 2 GB)."""
    if not (folder / "model.json").is_file():
        return {"method": "unknown"}
    meta = read_json(folder / "model.json")
    return {"method": meta.get("method", "realnet"), "model_sha256": str(meta.get("sha256"))}


def cells(results: Path, params: Params) -> Iterator[CellContent]:
    """The evaluations of the matrix that exist, in the order of the matrix."""
    missing = 0
    drawn: set[Path] = set()
    for dataset, wanted in params.experiment.datasets.items():
        there = results / "evaluate" / dataset
        found = sorted(p.name for p in there.iterdir() if p.is_dir()) if there.is_dir() else []
        for variant in params.experiment.variants:
            shared = params.shared_variant("evaluate", variant)
            for category in found if wanted == "all" else wanted:
                for seed in params.experiment.seeds:
                    folder = there / category / f"seed{seed}" / shared
                    if not (folder / "metrics.json").is_file():
                        missing += 1
                        continue
                    identity = {
                        "dataset": dataset,
                        "category": category,
                        "seed": seed,
                        "variant": variant,
                        "preset": params.preset,
                    }
                    key = f"{dataset}/{variant}/{category}/seed{seed}"
                    yield _drawn_once(cell_content(folder, key, identity), drawn)
    if missing:
        print(f"realnet track: {missing} runs are not evaluated yet, left out", file=sys.stderr)


def _drawn_once(content: CellContent, drawn: set[Path]) -> CellContent:
    """Without curves that an earlier run shows: a model that variants share is drawn once."""
    new = [curve for curve in content.curves if curve.path not in drawn]
    drawn.update(curve.path for curve in new)
    names = "".join(curve.prefix for curve in new)
    fingerprint = hashlib.sha256(f"{content.fingerprint}{names}".encode()).hexdigest()
    return dataclasses.replace(content, curves=new, fingerprint=fingerprint)


def matrix_of(text: str) -> Params:
    """The parameters that define the matrix of runs, from a file or from JSON."""
    values = as_json(text)
    if values is None:
        return load(text)
    experiment = Experiment.model_validate(values["experiment"])
    return Params.model_construct(
        preset=values.get("preset", "none"), experiment=experiment, variants=values["variants"]
    )
