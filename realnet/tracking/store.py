"""The only writer to MLflow.

A run whose files have not changed is kept. Where they have changed, a new run replaces the old one,
which is marked as deleted (`mlflow gc` removes it).
"""

import contextlib
import dataclasses
import datetime
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, write_json
from realnet.tracking.client import (
    DEFAULT_URI,
    StoreError,
    all_pages,
    connect,
    database,
    plainly,
    store_uri,
    usable,
    without_password,
)
from realnet.tracking.contents import CellContent, Content, Curves, cells, matrix_of
from realnet.tracking.files import log_files
from realnet.tracking.means import mean_intervals, variant_contents
from realnet.tracking.notes import ABOUT, cell_note, variant_note
from realnet.tracking.registry import register
from realnet.tracking.views import links, views

PRINT = "realnet.fingerprint"
POINTS = 60  # of a curve; the whole table is among the run's files
LOCK_TIMEOUT = 600.0  # seconds; a usual update takes less than a minute


def track(
    results: Path,
    params: str,
    receipt: Path | None = None,
    models: str = "reference",
    copy_limit: float = 256,
    later: bool = False,
) -> None:
    """Update MLflow with the results.

    ``params``: a parameter file, or JSON of experiment and variants. The store is
    MLFLOW_TRACKING_URI, else ``mlflow.db`` in the working folder. ``models``: register
    the detectors of ``all`` variants, of the ``reference`` (the first) or of ``none``; their files
    are copied up to ``copy_limit`` MiB, larger ones are read from the results.

    Raises:
        UserError: a store that cannot be used. With ``later`` this is only a warning, and the
            receipt says what :func:`track_pending` has to do.
    """
    try:
        written = _written(results, params, models, copy_limit)
    except StoreError as error:
        if not later or receipt is None:
            raise
        left = {
            "reason": str(error),
            "results": str(results),
            "params": params,
            "models": models,
            "copy_limit": copy_limit,
        }
        write_json(receipt, {"uri": without_password(store_uri()), "pending": left})
        print(f"realnet: {reminder(receipt)}", file=sys.stderr)
        return
    if receipt is not None:
        write_json(receipt, written)


def track_pending(receipt: Path) -> None:
    """Do what a receipt lists as pending; it is then replaced by a complete one.

    Raises:
        UserError: no such receipt, or a store that still cannot be used.
    """
    if not receipt.is_file():
        raise UserError(f"{receipt}: no such receipt; expected results/tracking/runs.json")
    left = read_json(receipt).get("pending")
    if left is None:
        print(f"{receipt}: nothing is pending")
        return
    track(Path(left["results"]), left["params"], receipt, left["models"], left["copy_limit"])


def reminder(receipt: Path) -> str | None:
    """One line for a receipt with pending work: the reason, and the command that does it."""
    left = read_json(receipt).get("pending") if receipt.is_file() else None
    if left is None:
        return None
    return f"{left['reason']}. Not logged yet; to log it later: realnet track --pending {receipt}"


def _written(results: Path, params: str, models: str, copy_limit: float) -> dict[str, Any]:
    """Update the store; returns the receipt."""
    settings = matrix_of(params)
    found = list(cells(results, settings))
    if not found:
        raise UserError(f"{results}/evaluate: no evaluation of the matrix; nothing to track")
    parents = variant_contents(found, settings)
    uri, name = store_uri(), settings.experiment.name
    reference = settings.experiment.variants[0]
    chosen = {
        cell.key
        for cell in found
        if models == "all" or (models == "reference" and cell.tags["variant"] == reference)
    }
    with plainly(uri), only_writer(lock_of(uri, results)):
        usable(uri)
        client = connect(uri)
        experiment = _experiment(client, uri, name, results)
        written, made = _upsert(client, experiment, parents, found)
        shown = [(cell, written[cell.key]["run_id"]) for cell in found if cell.key in chosen]
        registered = register(client, experiment, shown, copy_limit)
        for key, value in views(parents, found).items():
            client.set_experiment_tag(experiment, key, value)
        now = datetime.datetime.now(datetime.UTC).isoformat()
        client.set_experiment_tag(experiment, "realnet.tracked", now)
    print(
        f"{len(written)} runs in {without_password(uri)}, experiment {name} ({made} new);"
        f" {len(registered)} models registered"
    )
    return {
        "uri": without_password(uri),
        "experiment": name,
        "view": links(experiment)["runs"],
        "links": links(experiment),
        "runs": written,
        "models": registered,
    }


def lock_of(uri: str, results: Path) -> Path:
    """The lock file of a store: beside an SQLite file, else among the results."""
    path = results / "tracking" / "lock"
    if file := database(uri):
        path = file.with_name(f"{file.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the lock in ``path``, which ends with the process: two writers at once are not safe.

    Raises:
        StoreError: not acquired before the timeout.
    """
    lock = FileLock(path, timeout=LOCK_TIMEOUT, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(
            f"{path}: not acquired within {LOCK_TIMEOUT:g} seconds: another `realnet track` is"
            " writing to this store; wait or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _experiment(client: Any, uri: str, name: str, results: Path) -> str:
    """The experiment's id; the experiment is created or restored where needed."""
    local = (results / "mlartifacts").resolve().as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        if file := database(uri):
            import sqlite3

            # Readers (the UI) and the writer then never wait for each other; the mode is permanent.
            with sqlite3.connect(file) as opened:
                opened.execute("PRAGMA journal_mode=WAL")
            identity = client.create_experiment(name, artifact_location=local)
        else:
            identity = client.create_experiment(name)  # a server chooses the place of artifacts
    else:
        if uri == DEFAULT_URI and found.artifact_location != local:
            raise UserError(
                f"mlflow.db: its artifacts are in {found.artifact_location}, not in {local}: the"
                " project was moved; delete mlflow.db and run `realnet track` again, which rebuilds"
                " it from results/"
            )
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        identity = found.experiment_id
    # Else MLflow may open its page for language models.
    client.set_experiment_tag(identity, "mlflow.experimentKind", "custom_model_development")
    client.set_experiment_tag(identity, "mlflow.note.content", ABOUT)
    return identity


def _upsert(
    client: Any, experiment: str, parents: Sequence[Content], found: Sequence[CellContent]
) -> tuple[dict[str, dict[str, str]], int]:
    """Write new runs; returns key -> {run_id, fingerprint}, and how many runs are new."""
    known = _active_runs(client, experiment)
    written: dict[str, dict[str, str]] = {}
    made = 0
    members: dict[str, list[CellContent]] = defaultdict(list)
    for cell in found:
        members[cell.parent].append(cell)
    for parent in parents:
        for content in (parent, *members[parent.key]):
            old = known.get(content.key, [])
            current = [run for run in old if run.data.tags.get(PRINT) == content.fingerprint]
            above = written[parent.key]["run_id"] if isinstance(content, CellContent) else None
            if current:
                run_id = current[0].info.run_id
                if above and current[0].data.tags.get("mlflow.parentRunId") != above:
                    client.set_tag(run_id, "mlflow.parentRunId", above)
            else:
                run_id = _create(client, experiment, content, above, members[parent.key])
                made += 1
            for run in old:
                if run.info.run_id != run_id:
                    client.delete_run(run.info.run_id)
            written[content.key] = {"run_id": run_id, "fingerprint": content.fingerprint}
    return written, made


def _active_runs(client: Any, experiment: str) -> dict[str, list[Any]]:
    runs: dict[str, list[Any]] = defaultdict(list)
    for run in all_pages(client.search_runs, experiment_ids=[experiment], max_results=1000):
        if "realnet.key" in run.data.tags:
            runs[run.data.tags["realnet.key"]].append(run)
    return runs


def _create(
    client: Any, experiment: str, content: Content, above: str | None, members: Sequence[Content]
) -> str:
    """Create a finished run. The fingerprint is written last: an interrupted run is replaced."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    end = round(content.finished * 1000)
    start = end - round(content.seconds * 1000)  # the duration in the UI is the computing time
    if above is None:
        start = end = round(time.time() * 1000)  # the newest, which MLflow lists first
        content = dataclasses.replace(content, metrics=content.metrics | mean_intervals(members))
    tags = {
        **content.tags,
        **({"mlflow.parentRunId": above} if above else {}),
        "mlflow.note.content": cell_note(content) if above else variant_note(content, members),
        "mlflow.source.name": "realnet track",
        "mlflow.source.git.commit": content.tags["commit"],
        "realnet.key": content.key,
    }
    run = client.create_run(experiment, start_time=start, run_name=content.key, tags=tags).info
    run_id = run.run_id
    metrics = [Metric(name, value, end, 0) for name, value in content.metrics.items()]
    metrics += [
        Metric(name, value, start + i, step)
        for shown in content.curves
        for name, points in curves(shown).items()
        for i, (step, value) in enumerate(points)
    ]
    identity = {n: content.tags[n] for n in ("dataset", "category", "seed", "variant", "method")}
    params = [Param(name, value[:6000]) for name, value in (identity | content.params).items()]
    while metrics or params:  # MLflow's limits per call: 100 parameters, 1000 entries in all
        client.log_batch(run_id, metrics=metrics[:900], params=params[:100])
        metrics, params = metrics[900:], params[100:]
    if content.data:
        name, digest, source = content.data
        dataset = Dataset(name, digest[:32], "local", json.dumps({"uri": source}))
        client.log_inputs(
            run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])]
        )
    if content.files:
        log_files(client, run_id, run.artifact_uri, content.files)
    client.set_terminated(run_id, "FINISHED", end_time=end)
    client.set_tag(run_id, PRINT, content.fingerprint)
    return run_id


def curves(shown: Curves) -> dict[str, list[tuple[int, float]]]:
    """``prefix/column`` -> (step, value) of at most about POINTS rows."""
    rows = thin(read_csv(shown.path))
    names = [name for name in (rows[0] if rows else {}) if name.startswith(shown.columns)]
    return {
        f"{shown.prefix}/{name}": [
            (int(row["step"]), float(row[name])) for row in rows if row[name]
        ]
        for name in names
    }


def thin(rows: Sequence[Any], limit: int = POINTS) -> list[Any]:
    """At most about ``limit`` rows, evenly spaced, including the first and the last."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (limit - 1))] for i in range(limit)]
