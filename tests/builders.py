"""Builders for tests: the parameters of a stage, its job, and a finished stage."""

from pathlib import Path
from typing import Any

from realnet.config.params import load
from realnet.config.sections import Prepare
from realnet.config.stage_params import DataParams, StageParams
from realnet.core.io import read_json
from realnet.registry import params_of
from realnet.stages import (
    afs,
    backbone,
    classifier,
    data,
    ddpm,
    patchcore,
    realnet,
    sdas,
    sdas_check,
    sia,
    sia_shard,
)
from realnet.stages import (
    evaluate as evaluation,
)
from realnet.stages.job import Job


def params_text(name: str, variant: str = "base", preset: str = "smoke", **overrides: Any) -> str:
    """The sections that a stage reads, as JSON for ``--params``."""
    return load(overrides={"preset": preset} | overrides).section_json(name, variant)


def params_for(
    name: str, variant: str = "base", preset: str = "smoke", **overrides: Any
) -> StageParams:
    """The sections that a stage reads, from a preset with ``overrides`` (section=mapping)."""
    return params_of(name).of(load(overrides={"preset": preset} | overrides).variant(variant))


def prepare(
    dataset: str, category: str, raw: Path, out: Path, settings: Prepare | None = None
) -> dict[str, Any]:
    """Run the stage data on ``raw``, a dataset's folder; return the summary that it writes."""
    params = params_for("data") if settings is None else DataParams(prepare=settings)
    data.run(Job(params, Path(out), dataset, (category,), inputs={"raw": Path(raw)}))
    return read_json(Path(out) / "summary.json")


# --- jobs ----------------------------------------------------------------------------------------


def job(params, inputs, dataset, category, seed, out):
    """A job of one category; inputs that are None are left out."""
    given = {name: path for name, path in inputs.items() if path is not None}
    return Job(params, out, dataset, (category,), seed, inputs=given)


def joint_job(params, manifests, dataset, categories, seed, out):
    """The job of a model of several categories, each with its manifest."""
    pairs = zip(categories, manifests, strict=True)
    inputs = {f"manifest/{name}": path for name, path in pairs}
    return Job(params, out, dataset, tuple(categories), seed, inputs=inputs)


def sampling_job(params, model, manifest, dataset, category, seed, out, guide=None):
    """The job that samples images of one category; ``guide``: folder of the stage `classifier`."""
    inputs = {"ddpm": model, "manifest": manifest, "classifier": guide}
    return job(params, inputs, dataset, category, seed, out)


def realnet_job(params, manifest, backbone, afs, sdas, dataset, category, seed, out):
    inputs = {"manifest": manifest, "backbone": backbone, "afs": afs, "sdas": sdas}
    return job(params, inputs, dataset, category, seed, out)


# --- run a stage ---------------------------------------------------------------------------------


def make_backbone(params, out):
    backbone.run(Job(params, out))


def train_ddpm(*given):
    ddpm.run(joint_job(*given))


def train_classifier(*given):
    classifier.run(joint_job(*given))


def sample_sdas(*given):
    sdas.run(sampling_job(*given))


def check_ddpm(params, model, backbone, manifest, dataset, category, seed, out, guide=None):
    """Run the stage `sdas_check`; return what it writes to ``check.json``."""
    inputs = {"ddpm": model, "backbone": backbone, "manifest": manifest, "classifier": guide}
    sdas_check.run(job(params, inputs, dataset, category, seed, out))
    return read_json(Path(out) / "check.json")


def make_sia(*given):
    sia.run(sampling_job(*given))


def sample_shard(*given, shard=0):
    sia_shard.run(sampling_job(*given), shard)


def select_features(params, manifest, backbone, sdas, dataset, category, seed, out):
    inputs = {"manifest": manifest, "backbone": backbone, "sdas": sdas}
    afs.run(job(params, inputs, dataset, category, seed, out))


def train_realnet(*given):
    realnet.run(realnet_job(*given))


def fit_patchcore(params, manifest, backbone, dataset, category, seed, out):
    inputs = {"manifest": manifest, "backbone": backbone}
    patchcore.run(job(params, inputs, dataset, category, seed, out))


def evaluate(params, manifest, model, dataset, category, seed, variant, out):
    inputs = {"manifest": manifest, "model": model}
    evaluation.run(Job(params, out, dataset, (category,), seed, variant, inputs))
