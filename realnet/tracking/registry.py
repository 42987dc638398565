"""Trained detectors in MLflow's model registry: load one by name, predict an image.

``mlflow.pyfunc.load_model("models:/realnet-demo-hex_nut@base-seed0").predict(image)``

One registered model per dataset and category, one version per trained detector. The alias
``<variant>-seed<k>`` names the version that matches the current results.
"""

import hashlib
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from realnet.core.io import read_json, write_json
from realnet.tracking.client import all_pages
from realnet.tracking.contents import CellContent
from realnet.tracking.files import link
from realnet.tracking.names import HEADLINE
from realnet.tracking.notes import model_note

LAYOUT = "1"  # raise it to register all models again although no weight has changed
PACKAGE = Path(__file__).resolve().parent.parent
# Packages that the code of a registered model imports, besides MLflow.
REQUIRED = (
    *("torch", "torchvision", "timm", "safetensors", "numpy", "scipy", "scikit-learn"),
    *("opencv-python-headless", "pandas", "pillow", "pydantic", "pyyaml", "tqdm"),
)


def register(
    client: Any, experiment: str, cells: Iterable[tuple[CellContent, str]], copy_limit: float
) -> dict[str, str]:
    """Register the detectors of ``cells`` (with the ids of their runs); key -> ``name/version``.

    A detector that is registered already is not registered again. ``copy_limit``: MiB up to which a
    detector's files are copied; a larger one is read from the results.
    """
    by_name: dict[str, list[tuple[CellContent, str]]] = {}
    missing = 0
    for cell, run_id in cells:
        if complete(cell.model):
            name = f"realnet-{cell.tags['dataset']}-{cell.tags['category']}"
            by_name.setdefault(name, []).append((cell, run_id))
        else:
            missing += 1
    if missing:
        print(f"realnet track: {missing} models have no files, left out", file=sys.stderr)
    registered = {}
    for name, members in by_name.items():
        known = _versions(client, name, members[0][0])
        for cell, run_id in members:
            digest = identity(cell, copy_limit)
            if digest not in known:
                known[digest] = _add(client, experiment, name, cell, run_id, digest, copy_limit)
            number, model_id = known[digest]
            client.set_registered_model_alias(name, alias(cell), number)
            _show(client, cell, run_id, name, number, model_id)
            registered[cell.key] = f"{name}/{number}"
        _forget(client, name)
    return registered


def alias(cell: CellContent) -> str:
    """The name of a run's detector among the versions of its category's model."""
    return f"{cell.tags['variant']}-seed{cell.tags['seed']}"


def identity(cell: CellContent, copy_limit: float) -> str:
    """A digest of a detector: weights, backbone and how images are scored.

    Where the files are read from the results, their path is part of it.
    """
    place = str(cell.model.resolve()) if _size(cell.model) > copy_limit else ""
    parts = [LAYOUT, cell.params.get("evaluate.image_score_pool"), place]
    content = (cell.model / "model.json").read_bytes()
    return hashlib.sha256(json.dumps(parts).encode() + content).hexdigest()


def _versions(client: Any, name: str, cell: CellContent) -> dict[str, tuple[str, str]]:
    """Digest -> (version, logged model) of the versions of ``name``, which is created if needed."""
    from mlflow.exceptions import MlflowException

    where = f"{cell.tags['dataset']}/{cell.tags['category']}"
    try:
        client.create_registered_model(
            name,
            tags={key: cell.tags[key] for key in ("dataset", "category")},
            description=f"Anomaly detectors of {where}: scores and anomaly maps of images.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = all_pages(client.search_model_versions, filter_string=f"name='{name}'")
    return {
        known.tags["realnet.sha256"]: (known.version, known.tags["realnet.model_id"])
        for known in found
        if "realnet.sha256" in known.tags
    }


def _add(
    client: Any,
    experiment: str,
    name: str,
    cell: CellContent,
    run_id: str,
    digest: str,
    copy_limit: float,
) -> tuple[str, str]:
    """Register a new version; returns its number and its logged model."""
    copied = _size(cell.model) <= copy_limit
    wanted = ("dataset", "category", "variant", "seed", "method", "commit", "model", "model_sha256")
    tags = {key: cell.tags[key] for key in wanted if key in cell.tags}
    tags |= {"files": "copied" if copied else "in the results"}
    logged = client.create_logged_model(
        experiment, name=f"{name}-{alias(cell)}", source_run_id=run_id, tags=tags
    )
    with tempfile.TemporaryDirectory() as folder:
        save(cell, Path(folder) / "model", copied, logged, run_id)
        client.log_model_artifacts(logged.model_id, f"{folder}/model")
    client.finalize_logged_model(logged.model_id, "READY")
    made = client.create_model_version(
        name,
        source=logged.artifact_location,
        run_id=run_id,
        tags=tags | {"realnet.sha256": digest, "realnet.model_id": logged.model_id},
        description=model_note(cell, f"models:/{name}@{alias(cell)}", copied),
        model_id=logged.model_id,
    )
    return made.version, logged.model_id


def _show(
    client: Any, cell: CellContent, run_id: str, name: str, number: str, model_id: str
) -> None:
    """Connect a run with its registered model, once."""
    from mlflow.entities import LoggedModelOutput, Metric

    value = f"{name}/{number}"
    if client.get_run(run_id).data.tags.get("registered_model") == value:
        return
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    end = round(cell.finished * 1000)
    metrics = [
        Metric(metric, cell.metrics[metric], end, 0, model_id=model_id)
        for metric in HEADLINE
        if metric in cell.metrics
    ]
    client.log_batch(run_id, metrics=metrics)
    client.set_tag(run_id, "registered_model", value)


def _forget(client: Any, name: str) -> None:
    """Delete versions without an alias: their detectors are no longer among the results.

    A version with an alias that the user gave is kept.
    """
    aliased = set(map(str, client.get_registered_model(name).aliases.values()))
    for known in list(all_pages(client.search_model_versions, filter_string=f"name='{name}'")):
        if "realnet.sha256" in known.tags and str(known.version) not in aliased:
            client.delete_model_version(name, known.version)
            client.delete_logged_model(known.tags["realnet.model_id"])


# --- the model's folder --------------------------------------------------------------------------


def save(cell: CellContent, folder: Path, copied: bool, logged: Any, run_id: str) -> None:
    """Write a pyfunc model: code, signature, input example, and the detector or its path."""
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    size = read_json(cell.model / "model.json")["image_size"]
    pool = int(cell.params["evaluate.image_score_pool"])
    settings = {
        "image_score_pool": pool,
        "batch_size": int(cell.params["evaluate.batch_size"]),
        "device": "auto",
        "precision": "fp32",
        "threads": int(cell.params["compute.threads"]),
    }
    if not copied:
        settings["folder"] = str(cell.model.resolve())
    # No input schema: it cannot express "an array or a list of paths", and MLflow would reject one
    # of them.
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype("float64"), (-1,), "score"),
        TensorSpec(np.dtype("float32"), (-1, size, size), "map"),
        TensorSpec(np.dtype("float32"), (-1, size, size), "margin"),
    ]
    signature = ModelSignature(
        outputs=Schema(outputs), params=ParamSchema([ParamSpec("image_score_pool", "long", pool)])
    )
    ramp = np.linspace(0, 255, 32, dtype=np.uint8)
    example = np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(128)), axis=-1)[None]
    with tempfile.TemporaryDirectory() as temporary, _quiet():
        code = Path(temporary, PACKAGE.name)
        shutil.copytree(PACKAGE, code, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        artifacts = {"detector": str(_gathered(cell.model, Path(temporary)))} if copied else {}
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts=artifacts,
            code_paths=[str(code)],
            signature=signature,
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", *REQUIRED)],
            model_config=settings,
            metadata={"realnet.key": cell.key, "model": cell.tags["model"]},
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                model_uuid=logged.model_id,
                run_id=run_id,
                model_id=logged.model_id,
            ),
        )


def complete(folder: Path) -> bool:
    """Whether a detector and its backbone exist (`dvc pull` may have fetched only metrics)."""
    if not (folder / "model.json").is_file() or not _files(folder):
        return False
    return (_backbone(folder) / "backbone.json").is_file()


def _files(folder: Path) -> list[Path]:
    """The weights that inference needs."""
    return [path for path in folder.glob("*.safetensors") if path.name != "best.safetensors"]


def _backbone(folder: Path) -> Path:
    beside = folder / read_json(folder / "model.json")["backbone"]["path"]
    return beside if beside.is_dir() else folder / "backbone"


def _size(folder: Path) -> float:
    """MiB of a detector with its backbone."""
    files = [*_files(folder), *_backbone(folder).glob("backbone.*")]
    return sum(path.stat().st_size for path in files) / 2**20


def _gathered(folder: Path, temporary: Path) -> Path:
    """Link a detector and its backbone into one folder."""
    whole = temporary / "detector"
    link({path.name: path for path in _files(folder)}, whole)
    backbone = _backbone(folder).glob("backbone.*")
    link({path.name: path for path in backbone}, whole / "backbone")
    meta = read_json(folder / "model.json")
    write_json(whole / "model.json", meta | {"backbone": meta["backbone"] | {"path": "backbone"}})
    return whole


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow's advice about saving models."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
