"""Each stage of the DAG as a command, as the rules of the workflow run it."""

from pathlib import Path
from typing import Annotated

import typer

from realnet.cli.options import (
    BackboneOption,
    CategoryOption,
    ClassifierOption,
    DatasetOption,
    DdpmOption,
    ManifestOption,
    OutOption,
    ParamsOption,
    SdasOption,
    SeedOption,
    VariantOption,
)

app = typer.Typer()


def _inputs(**given: Path | None) -> dict[str, Path]:
    """The inputs of a job: those that were given."""
    return {name: path for name, path in given.items() if path is not None}


@app.command()
def backbone(
    out: OutOption, params: ParamsOption = "params.yaml", variant: VariantOption = "base"
) -> None:
    """Build the frozen feature extractor: fetch and verify its weights, or train it (pretext)."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import BackboneParams
    from realnet.stages import backbone as stage
    from realnet.stages.job import Job

    stage.run(Job(stage_params(params, BackboneParams, variant), out, variant=variant))


@app.command()
def ddpm(
    manifest: Annotated[list[Path], typer.Option(help="manifest.csv; once per category.")],
    dataset: DatasetOption,
    category: Annotated[list[str], typer.Option(help="Category of each manifest, same order.")],
    out: OutOption,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Train the diffusion model of a category's (or a dataset's) normal images."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import DdpmParams
    from realnet.stages.ddpm import run
    from realnet.stages.job import Job

    inputs, stage = _manifests(manifest, category), stage_params(params, DdpmParams, variant)
    run(Job(stage, out, dataset, tuple(category), seed, variant, inputs))


@app.command()
def classifier(
    manifest: Annotated[list[Path], typer.Option(help="manifest.csv; once per category.")],
    dataset: DatasetOption,
    category: Annotated[list[str], typer.Option(help="Category of each manifest, same order.")],
    out: OutOption,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Train the classifier that guides SDAS, where sdas.guidance_scale is above 0."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import ClassifierParams
    from realnet.stages.classifier import run
    from realnet.stages.job import Job

    inputs, stage = _manifests(manifest, category), stage_params(params, ClassifierParams, variant)
    run(Job(stage, out, dataset, tuple(category), seed, variant, inputs))


@app.command()
def sdas(
    ddpm: DdpmOption,
    manifest: ManifestOption,
    dataset: DatasetOption,
    category: CategoryOption,
    out: OutOption,
    classifier: ClassifierOption = None,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Sample anomalous images of adjustable strength."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import SdasParams
    from realnet.stages.job import Job
    from realnet.stages.sdas import run

    inputs = _inputs(ddpm=ddpm, manifest=manifest, classifier=classifier)
    stage = stage_params(params, SdasParams, variant)
    run(Job(stage, out, dataset, (category,), seed, variant, inputs))


@app.command()
def sdas_check(
    ddpm: DdpmOption,
    backbone: BackboneOption,
    manifest: ManifestOption,
    dataset: DatasetOption,
    category: CategoryOption,
    out: OutOption,
    classifier: ClassifierOption = None,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Check a diffusion model: are its s = 0 samples like normal images?"""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import SdasCheckParams
    from realnet.stages.job import Job
    from realnet.stages.sdas_check import run

    inputs = _inputs(ddpm=ddpm, backbone=backbone, manifest=manifest, classifier=classifier)
    stage = stage_params(params, SdasCheckParams, variant)
    run(Job(stage, out, dataset, (category,), seed, variant, inputs))


@app.command()
def sia(
    ddpm: DdpmOption,
    manifest: ManifestOption,
    dataset: DatasetOption,
    category: CategoryOption,
    out: OutOption,
    classifier: ClassifierOption = None,
    shard: Annotated[
        int | None, typer.Option(min=0, help="Sample this shard alone. [all that are missing]")
    ] = None,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Sample the Synthetic Industrial Anomaly dataset; resumes an interrupted run."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import SiaParams
    from realnet.stages import sia, sia_shard
    from realnet.stages.job import Job

    inputs = _inputs(ddpm=ddpm, manifest=manifest, classifier=classifier)
    stage = stage_params(params, SiaParams, variant)
    job = Job(stage, out, dataset, (category,), seed, variant, inputs)
    if shard is None:
        sia.run(job)
    else:
        sia_shard.run(job, shard)


def _manifests(paths: list[Path], categories: list[str]) -> dict[str, Path]:
    """The manifest of each category. UserError where their numbers differ."""
    from realnet.core.errors import UserError

    if len(paths) != len(categories):
        raise UserError("--manifest and --category must be given equally often")
    return {f"manifest/{name}": path for name, path in zip(categories, paths, strict=True)}


@app.command()
def afs(
    manifest: ManifestOption,
    backbone: BackboneOption,
    dataset: DatasetOption,
    category: CategoryOption,
    out: OutOption,
    sdas: SdasOption = None,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Select the backbone channels that respond to anomalies, and cache their indices."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import AfsParams
    from realnet.stages import afs as stage
    from realnet.stages.job import Job

    inputs = _inputs(manifest=manifest, backbone=backbone, sdas=sdas)
    sections = stage_params(params, AfsParams, variant)
    stage.run(Job(sections, out, dataset, (category,), seed, variant, inputs))


@app.command()
def train(
    manifest: ManifestOption,
    backbone: BackboneOption,
    afs: Annotated[Path, typer.Option(help="Folder of the stage afs.")],
    dataset: DatasetOption,
    category: CategoryOption,
    out: OutOption,
    sdas: SdasOption = None,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Train RealNet: reconstruction networks and discriminator."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import RealNetParams
    from realnet.stages import realnet as stage
    from realnet.stages.job import Job

    inputs = _inputs(manifest=manifest, backbone=backbone, afs=afs, sdas=sdas)
    sections = stage_params(params, RealNetParams, variant)
    stage.run(Job(sections, out, dataset, (category,), seed, variant, inputs))


@app.command()
def patchcore(
    manifest: ManifestOption,
    backbone: BackboneOption,
    dataset: DatasetOption,
    category: CategoryOption,
    out: OutOption,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Fit PatchCore, the baseline: a memory of normal patches on the same backbone."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import PatchCoreParams
    from realnet.stages import patchcore as stage
    from realnet.stages.job import Job

    inputs = _inputs(manifest=manifest, backbone=backbone)
    sections = stage_params(params, PatchCoreParams, variant)
    stage.run(Job(sections, out, dataset, (category,), seed, variant, inputs))


@app.command()
def evaluate(
    manifest: ManifestOption,
    model: Annotated[Path, typer.Option(help="Folder of the stage realnet.")],
    dataset: DatasetOption,
    category: CategoryOption,
    out: OutOption,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Score the test images and measure image AUROC, pixel AUROC and PRO."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import EvaluateParams
    from realnet.stages.evaluate import run
    from realnet.stages.job import Job

    inputs = {"manifest": manifest, "model": model}
    sections = stage_params(params, EvaluateParams, variant)
    run(Job(sections, out, dataset, (category,), seed, variant, inputs))
