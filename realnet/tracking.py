"""The only writer to MLflow: a run per evaluated cell (data set, category, seed, variant) and mean.

The database is derived from `results/` and can be thrown away. Each run is described by the
`stage.json` files behind its evaluation, followed from input to input, so it shows the parameters
and digests that were used, whatever `params.yaml` says by now. A run whose files have not changed
stays as it is; where they have, a new run takes the place of the old one, which goes to MLflow's
recycle bin (`mlflow gc` empties it).
"""

import csv
import datetime
import fcntl
import hashlib
import json
import logging
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realnet.errors import UserError
from realnet.io import read_json, sha256, write_json
from realnet.params import Params, load
from realnet.sections import Experiment

DEFAULT_URI = "sqlite:///mlflow.db"
HEADLINE = ("image_auroc", "pixel_auroc", "pro")
POINTS = 500  # of a loss curve; the whole curve is among the run's files
LAYOUT = "1"  # raise it when runs are to be written anew though no result has changed

# The run list as it opens from the link that `make mlflow` prints: MLflow's own format of a shared
# view, kept as a tag of the experiment. By default its list shows no metric at all.
VIEW = "realnet"
VIEW_STATE = {
    "orderByKey": "metrics.`image_auroc`",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "searchFilter": "",
    "selectedColumns": [
        *(f"metrics.`{name}`" for name in (*HEADLINE, "seconds/total")),
        *(f"params.`{name}`" for name in ("dataset", "category", "seed", "variant")),
        "tags.`device`",
    ],
    "columnOrder": [],
    "columnWidths": {},
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsVisibilityMap": {},
    "runsHiddenMode": "FIRST_10_RUNS",
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "autoRefreshEnabled": True,
    "globalLineChartConfig": {
        "xAxisKey": "step",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
    },
}
ABOUT = """One run per data set, category, seed and variant, and one per mean over categories
(`params.category = 'mean'`). Made from `results/` by `realnet track`; nothing lives here alone."""

# Stage -> what of its folder the run shows, under which name.
FIGURES = {
    "evaluate": {"qualitative.png": "heat_maps.png"},
    "realnet": {"curves.png": "training_curves.png"},
    "afs": {"afs.png": "selected_features.png"},
    "sdas": {"grid.png": "sdas_strengths.png"},
    "ddpm": {"samples.png": "ddpm_samples.png"},
}


@dataclass(frozen=True)
class Content:
    """What one MLflow run shows."""

    key: str  # its place in the matrix; two active runs never share one
    fingerprint: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)  # name among the artifacts -> file
    data: tuple[str, str, str] | None = None  # name, digest, path of the manifest
    seconds: float = 0.0
    finished: float = 0.0  # seconds since 1970


# --- from result files to contents ---------------------------------------------------------------


def lineage(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Stage -> (its folder, its stage.json), of a result and of everything it was made from."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    todo = [folder]
    while todo:
        here = todo.pop()
        if not (here / "stage.json").is_file():
            continue
        record = read_json(here / "stage.json")
        if record["stage"] not in found:
            found[record["stage"]] = (here, record)
            todo += [Path(source["path"]).parent for source in record["inputs"].values()]
    return found


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as ``section.key``: text; lists and None as JSON."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def thin(rows: Sequence[Any], limit: int = POINTS) -> list[Any]:
    """At most about ``limit`` rows, evenly spaced, the first and the last among them."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (limit - 1))] for i in range(limit)]


def curves(
    path: Path, prefix: str, kinds: tuple[str, ...] = ("loss",)
) -> dict[str, list[tuple[int, float]]]:
    """The columns of a history.csv whose names start with one of ``kinds``: ``prefix/column``."""
    with path.open(newline="", encoding="utf-8") as source:
        rows = thin(list(csv.DictReader(source)))
    names = [name for name in (rows[0] if rows else {}) if name.startswith(kinds)]
    return {
        f"{prefix}/{name}": [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        for name in names
    }


def under_protocols(measured: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of the protocols of a metrics.json, as ``protocol/metric``.

    Without those of ``strict_last``, which are the headline.
    """
    return {
        f"{protocol}/{name}": float(value)
        for protocol, found in measured.get("protocols", {}).items()
        for name, value in (found or {}).items()
        if protocol != "strict_last" and isinstance(value, int | float)
    }


def cell_content(folder: Path, key: str, identity: Mapping[str, Any]) -> Content:
    """The run of one evaluation, ``folder`` being ``results/evaluate/…/<variant>``."""
    measured = read_json(folder / "metrics.json")
    stages = lineage(folder)
    if "evaluate" not in stages:
        raise UserError(f"{folder}/stage.json: no such file; evaluate again")
    digest = hashlib.sha256(LAYOUT.encode() + key.encode() + (folder / "metrics.json").read_bytes())
    sections: dict[str, Any] = {}
    metrics = {
        name: float(value)
        for name, value in measured.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "seed"
    } | under_protocols(measured)
    files = {"metrics.json": folder / "metrics.json", "images.csv": folder / "images.csv"}
    losses: dict[str, list[tuple[int, float]]] = {}
    for stage, (place, record) in sorted(stages.items()):
        digest.update((place / "stage.json").read_bytes())
        sections |= record["params"]
        metrics[f"seconds/{stage}"] = record["wall_s"]
        metrics[f"peak_memory_mb/{stage}"] = record["peak_memory_mb"]
        files[f"provenance/{stage}.json"] = place / "stage.json"
        if (place / "history.csv").is_file():
            losses |= curves(place / "history.csv", stage)
            files[f"history/{stage}.csv"] = place / "history.csv"
        if (place / "selection.csv").is_file():
            chosen = ("image_auroc", "pixel_auroc", "key")
            losses |= curves(place / "selection.csv", "on_test", chosen)
            files["history/selection.csv"] = place / "selection.csv"
        for name, shown in FIGURES.get(stage, {}).items():
            files[f"figures/{shown}"] = place / name
    seconds = sum(record["wall_s"] for _, record in stages.values())
    last = stages["evaluate"][1]
    sections |= last["params"]  # of section `evaluate` the stage realnet notes one value
    tags = {name: str(value) for name, value in identity.items()} | {
        "device": last["device"],
        "git_commit": last["git_commit"] or "none",
        "results": str(folder),
    }
    if "realnet" in stages:
        model = stages["realnet"][0] / "model.safetensors"
        tags |= {"model": str(model), "model_sha256": sha256(model)}
    for stage, (_, record) in stages.items():
        for name, source in record["inputs"].items():
            tags[f"input.{stage}.{name.replace('/', '.')}"] = source["sha256"]
    manifest = last["inputs"]["manifest"]
    return Content(
        key=key,
        fingerprint=digest.hexdigest(),
        tags=tags,
        params=flatten(sections),
        metrics=metrics | {"seconds/total": round(seconds, 2)},
        curves=losses,
        files={name: path for name, path in files.items() if path.is_file()},
        data=(
            f"{identity['dataset']}/{identity['category']}",
            manifest["sha256"],
            manifest["path"],
        ),
        seconds=seconds,
        finished=datetime.datetime.fromisoformat(last["finished"]).timestamp(),
    )


def mean_content(dataset: str, variant: str, cells: Sequence[Content]) -> Content:
    """The run with the means over categories and seeds, to compare variants by."""
    common = set.intersection(*(set(cell.metrics) for cell in cells))
    shared = set.intersection(*(set(cell.params.items()) for cell in cells))
    text = "".join(sorted(cell.fingerprint for cell in cells))
    return Content(
        key=f"{dataset}/mean/{variant}",
        fingerprint=hashlib.sha256(f"{LAYOUT}mean{text}".encode()).hexdigest(),
        tags={
            "dataset": dataset,
            "category": "mean",
            "seed": ",".join(sorted({cell.tags["seed"] for cell in cells}, key=int)),
            "variant": variant,
            "device": ",".join(sorted({cell.tags["device"] for cell in cells})),
            "git_commit": ",".join(sorted({cell.tags["git_commit"] for cell in cells})),
            "runs": str(len(cells)),
        },
        params=dict(sorted(shared)),
        metrics={n: statistics.fmean(cell.metrics[n] for cell in cells) for n in sorted(common)},
        seconds=sum(cell.seconds for cell in cells),
        finished=max(cell.finished for cell in cells),
    )


def contents(results: Path, params: Params) -> Iterator[Content]:
    """The runs of the matrix, as far as it has been evaluated, then their means."""
    missing = 0
    groups: dict[tuple[str, str], list[Content]] = defaultdict(list)
    for dataset, wanted in params.experiment.datasets.items():
        there = results / "evaluate" / dataset
        found = sorted(p.name for p in there.iterdir()) if there.is_dir() else []
        for category in found if wanted == "all" else wanted:
            for seed in params.experiment.seeds:
                for variant in params.experiment.variants:
                    shared = params.shared_variant("evaluate", variant)
                    folder = there / category / f"seed{seed}" / shared
                    if not (folder / "metrics.json").is_file():
                        missing += 1
                        continue
                    identity = {
                        "dataset": dataset,
                        "category": category,
                        "seed": seed,
                        "variant": variant,
                    }
                    key = f"{dataset}/{category}/seed{seed}/{variant}"
                    content = cell_content(folder, key, identity)
                    groups[dataset, variant].append(content)
                    yield content
    if missing:
        print(f"realnet track: {missing} cells not evaluated yet, left out", file=sys.stderr)
    for (dataset, variant), cells in groups.items():
        yield mean_content(dataset, variant, cells)


# --- MLflow --------------------------------------------------------------------------------------


def track(results: Path, params: str, receipt: Path | None = None) -> None:
    """Make MLflow show the results; ``params``: a parameter file, or JSON of experiment, variants.

    Where to: MLFLOW_TRACKING_URI, else ``mlflow.db`` here. UserError: a store that cannot be used.
    """
    settings = matrix_of(params)
    wanted = list(contents(results, settings))
    if not wanted:
        raise UserError(f"{results}/evaluate: no evaluation of the matrix there; nothing to track")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    with lock_of(uri, results).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one writer: first schema creation is not safe otherwise
        identity, written = _upsert(uri, settings.experiment.name, results, wanted)
    if receipt is not None:
        view = f"/#/experiments/{identity}/runs?viewStateShareKey={VIEW}"
        name = settings.experiment.name
        write_json(receipt, {"uri": uri, "experiment": name, "view": view, "runs": written})
    print(f"{len(wanted)} runs in {uri}, experiment {settings.experiment.name}")


def matrix_of(text: str) -> Params:
    """The parameters that say which runs there are, from a file or from JSON."""
    if text.lstrip()[:1] != "{":
        return load(text)
    values = json.loads(text)
    experiment = Experiment.model_validate(values["experiment"])
    return Params.model_construct(experiment=experiment, variants=values["variants"])


def lock_of(uri: str, results: Path) -> Path:
    """The file that writers to a store lock: beside an SQLite file, else among the results."""
    path = results / "tracking" / "lock"
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///") + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _upsert(
    uri: str, name: str, results: Path, wanted: Sequence[Content]
) -> tuple[str, dict[str, Any]]:
    """Write what is new; the experiment's id, and key -> {run_id, fingerprint}. Needs the lock."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a line per migration of a new database
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(uri)
        experiment = _experiment(client, uri, name, results)
        for key, value in {
            f"mlflow.sharedViewState.{VIEW}": json.dumps(VIEW_STATE),
            "mlflow.experimentKind": "custom_model_development",  # not the page for language models
            "mlflow.note.content": ABOUT,
        }.items():
            client.set_experiment_tag(experiment, key, value)
        known = _active_runs(client, experiment)
        written = {}
        for content in wanted:
            old = known.get(content.key, [])
            current = [
                r for r in old if r.data.tags.get("realnet.fingerprint") == content.fingerprint
            ]
            run_id = current[0].info.run_id if current else _create(client, experiment, content)
            for run in old:
                if run.info.run_id != run_id:
                    client.delete_run(run.info.run_id)
            written[content.key] = {"run_id": run_id, "fingerprint": content.fingerprint}
        return experiment, written
    except MlflowException as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"MLflow at {uri} (MLFLOW_TRACKING_URI): {reason}") from None


def _experiment(client: Any, uri: str, name: str, results: Path) -> str:
    """The experiment's id, created or brought back where needed."""
    local = (results / "mlartifacts").resolve().as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        if uri.startswith("sqlite:///"):
            import sqlite3

            # Readers (the UI) and the writer then never wait for each other. It stays so.
            with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
                database.execute("PRAGMA journal_mode=WAL")
            return client.create_experiment(name, artifact_location=local)
        return client.create_experiment(name)  # a server knows where its artifacts go
    if uri == DEFAULT_URI and found.artifact_location != local:
        raise UserError(
            f"mlflow.db: its files lie in {found.artifact_location}, not in {local}: the project"
            " was moved; delete mlflow.db and track again, it is made from results/"
        )
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _active_runs(client: Any, experiment: str) -> dict[str, list[Any]]:
    runs: dict[str, list[Any]] = defaultdict(list)
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            if "realnet.key" in run.data.tags:
                runs[run.data.tags["realnet.key"]].append(run)
        token = page.token
        if not token:
            return runs


def _create(client: Any, experiment: str, content: Content) -> str:
    """A new finished run. Its fingerprint comes last: a run cut short has none, and is replaced."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    end = round(content.finished * 1000)
    start = end - round(content.seconds * 1000)  # so the UI's duration is the time computed
    tags = {
        **content.tags,
        "mlflow.note.content": _note(content),
        "mlflow.source.name": "realnet track",
        "mlflow.source.git.commit": content.tags["git_commit"],
    }
    run_id = client.create_run(
        experiment, start_time=start, run_name=content.key, tags={"realnet.key": content.key}
    ).info.run_id
    metrics = [Metric(name, value, end, 0) for name, value in content.metrics.items()]
    metrics += [
        Metric(name, value, start + i, step)
        for name, points in content.curves.items()
        for i, (step, value) in enumerate(points)
    ]
    identity = {n: content.tags[n] for n in ("dataset", "category", "seed", "variant")}
    params = [Param(name, value) for name, value in (identity | content.params).items()]
    for batch in _batches([RunTag(name, value) for name, value in tags.items()], 100):
        client.log_batch(run_id, tags=batch)
    for batch in _batches(params, 100):  # MLflow's own limits per call
        client.log_batch(run_id, params=batch)
    for batch in _batches(metrics, 1000):
        client.log_batch(run_id, metrics=batch)
    if content.data:
        name, digest, source = content.data
        dataset = Dataset(name, digest[:32], "local", json.dumps({"uri": source}))
        client.log_inputs(
            run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])]
        )
    for name, path in content.files.items():
        _log_file(client, run_id, path, name)
    client.set_terminated(run_id, "FINISHED", end_time=end)
    client.set_tag(run_id, "realnet.fingerprint", content.fingerprint)
    return run_id


def _log_file(client: Any, run_id: str, path: Path, name: str) -> None:
    """One file under another name, which MLflow can only do through a copy."""
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, Path(name).name)
        shutil.copyfile(path, copy)
        parent = str(Path(name).parent)
        client.log_artifact(run_id, str(copy), None if parent == "." else parent)


def _note(content: Content) -> str:
    """The run's description: its headline, in Markdown."""
    cells = [
        f"{100 * content.metrics[name]:.1f}" if name in content.metrics else "undefined"
        for name in HEADLINE
    ]
    return (
        f"| {' | '.join(HEADLINE)} |\n|{'---|' * len(cells)}\n| {' | '.join(cells)} |\n\n"
        "percent, last checkpoint"
    )


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))
