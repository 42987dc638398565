"""Loads a fitted detector of any method from its folder."""

from pathlib import Path

from realnet.compute.runtime import Runtime
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.detectors.base import AnomalyDetector
from realnet.detectors.patchcore import PatchCoreDetector, load_patchcore
from realnet.detectors.realnet_detector import load_detector


def load(folder: str | Path, runtime: Runtime, checkpoint: str = "last") -> AnomalyDetector:
    """The detector that a stage `realnet` or `patchcore` or `realnet import-realnet` wrote.

    ``checkpoint`` and UserError: see :func:`~realnet.detectors.realnet_detector.load_detector`.
    """
    folder = Path(folder)
    path = folder / "model.json"
    meta = read_json(path) if path.is_file() else {}
    if not isinstance(meta, dict) or meta.get("method", "realnet") != PatchCoreDetector.method:
        return load_detector(folder, runtime, checkpoint)
    if checkpoint != "last":
        raise UserError(f"{folder}: PatchCore is not trained, so it has no {checkpoint} checkpoint")
    return load_patchcore(folder, meta, runtime)
