"""What most tests start from: a stage's parameters, and a category that is prepared."""

from pathlib import Path
from typing import Any

from realnet.config.params import load
from realnet.config.sections import Prepare
from realnet.config.stage_params import DataParams, StageParams
from realnet.core.io import read_json
from realnet.registry import params_of
from realnet.stages import data
from realnet.stages.job import Job


def params_text(name: str, variant: str = "base", preset: str = "smoke", **overrides: Any) -> str:
    """The sections that a stage reads, as JSON for ``--params``."""
    return load(overrides={"preset": preset} | overrides).section_json(name, variant)


def params_for(
    name: str, variant: str = "base", preset: str = "smoke", **overrides: Any
) -> StageParams:
    """The sections that a stage reads: of a preset, under ``overrides`` (section=mapping)."""
    return params_of(name).of(load(overrides={"preset": preset} | overrides).variant(variant))


def prepare(
    dataset: str, category: str, raw: Path, out: Path, settings: Prepare | None = None
) -> dict[str, Any]:
    """Run the stage data on ``raw``, a dataset's folder; return the summary that it writes."""
    params = params_for("data") if settings is None else DataParams(prepare=settings)
    data.run(Job(params, Path(out), dataset, (category,), inputs={"raw": Path(raw)}))
    return read_json(Path(out) / "summary.json")
