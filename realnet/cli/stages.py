"""Each stage of the DAG by hand: what the rules of the workflow run."""

from pathlib import Path
from typing import Annotated

import typer

from realnet.cli.options import (
    BackboneOption,
    CategoryOption,
    DatasetOption,
    ManifestOption,
    OutOption,
    ParamsOption,
    SdasOption,
    SeedOption,
    VariantOption,
)

app = typer.Typer()


@app.command()
def backbone(
    out: OutOption, params: ParamsOption = "params.yaml", variant: VariantOption = "base"
) -> None:
    """Build the frozen feature extractor: fetch and verify its weights, or train it (pretext)."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import BackboneParams
    from realnet.models.features import make_backbone

    make_backbone(stage_params(params, BackboneParams, variant), out)


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
    from realnet.stages.ddpm import train_ddpm

    train_ddpm(stage_params(params, DdpmParams, variant), manifest, dataset, category, seed, out)


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
    from realnet.stages.classifier import train_classifier

    stage = stage_params(params, ClassifierParams, variant)
    train_classifier(stage, manifest, dataset, category, seed, out)


@app.command()
def sdas(
    ddpm: Annotated[Path, typer.Option(help="Folder of the stage ddpm, or of import-ddpm.")],
    manifest: ManifestOption,
    dataset: DatasetOption,
    category: CategoryOption,
    out: OutOption,
    classifier: Annotated[
        Path | None, typer.Option(help="Folder of the stage classifier, to be guided by it.")
    ] = None,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Sample anomalous images of adjustable strength."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import SdasParams
    from realnet.stages.sdas import sample_sdas

    stage = stage_params(params, SdasParams, variant)
    sample_sdas(stage, ddpm, manifest, dataset, category, seed, out, classifier)


@app.command()
def sia(
    ddpm: Annotated[Path, typer.Option(help="Folder of the stage ddpm, or of import-ddpm.")],
    manifest: ManifestOption,
    dataset: DatasetOption,
    category: CategoryOption,
    out: OutOption,
    classifier: Annotated[
        Path | None, typer.Option(help="Folder of the stage classifier, to be guided by it.")
    ] = None,
    shard: Annotated[
        int | None, typer.Option(min=0, help="Draw this shard alone. [all that are missing]")
    ] = None,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Sample the Synthetic Industrial Anomaly dataset; resumes an interrupted run."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import SiaParams
    from realnet.stages.sia import make_sia
    from realnet.stages.sia_shard import draw_shards

    given = (stage_params(params, SiaParams, variant), ddpm, manifest, dataset, category, seed, out)
    if shard is None:
        make_sia(*given, classifier)
    else:
        draw_shards(*given, classifier, shard)


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
    from realnet.stages.afs import select_features

    stage = stage_params(params, AfsParams, variant)
    select_features(stage, manifest, backbone, sdas, dataset, category, seed, out)


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
    from realnet.stages.realnet import train_realnet

    stage = stage_params(params, RealNetParams, variant)
    train_realnet(stage, manifest, backbone, afs, sdas, dataset, category, seed, out)


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
    from realnet.detectors.patchcore import fit_patchcore

    stage = stage_params(params, PatchCoreParams, variant)
    fit_patchcore(stage, manifest, backbone, dataset, category, seed, out)


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
    from realnet.stages.evaluate import evaluate as run

    stage = stage_params(params, EvaluateParams, variant)
    run(stage, manifest, model, dataset, category, seed, variant, out)
