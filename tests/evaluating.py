"""The stage `evaluate`, called by tests for one run."""

from pathlib import Path

from realnet.config.stage_params import EvaluateParams
from realnet.stages.evaluate import run
from realnet.stages.job import Job


def evaluate(params: EvaluateParams, manifest: Path, model: Path, *where: str | int | Path) -> None:
    """``where``: dataset, category, seed, variant and the folder of the result."""
    dataset, category, seed, variant, out = where
    inputs = {"manifest": manifest, "model": model}
    run(Job(params, out, dataset, (category,), seed, variant, inputs))
