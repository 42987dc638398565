"""Models: predict with them, import them, export their training pairs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from realnet.cli.options import (
    CategoryOption,
    DatasetOption,
    ManifestOption,
    OutOption,
    ParamsOption,
    SeedOption,
    VariantOption,
)
from realnet.core.errors import UserError

app = typer.Typer()

CheckpointArgument = Annotated[Path, typer.Argument(help="Of guided-diffusion or of RealNet.")]
ClassNamesOption = Annotated[
    list[str] | None, typer.Option("--category", help="Name of each class, in their order.")
]
ClassSetOption = Annotated[
    str | None, typer.Option("--dataset", help="Dataset whose categories the classes are.")
]
ClassesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Number of classes; reinitialised if it differs from the file's."),
]
HeadChannelsOption = Annotated[int, typer.Option(min=1, help="Of each attention head.")]


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder of the stage realnet, or an import.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: OutOption,
    raw: Annotated[
        bool, typer.Option("--raw", help="Also the anomaly map, float32 in [0, 1] (NAME.npy).")
    ] = False,
    margins: Annotated[
        bool, typer.Option("--margins", help="Also its logit, unsaturated (NAME_margin.npy).")
    ] = False,
    pool: Annotated[
        int | None, typer.Option(min=1, help="Average N x N pixels before the image maximum.")
    ] = None,
    params: ParamsOption = "params.yaml",
) -> None:
    """Score images with a trained model: a heat map and a score for each."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import EvaluateParams
    from realnet.evaluation.predict import PredictOptions
    from realnet.evaluation.predict import predict as run

    stage = stage_params(params, EvaluateParams)
    options = PredictOptions(
        pool=pool,
        default_pool=stage.evaluate.image_score_pool,
        raw=raw,
        margins=margins,
        batch_size=stage.evaluate.batch_size,
    )
    done = run(model, images, out, stage.compute, options)
    for path, score in done.scores:
        print(f"{score:.4f}  {path}")
    for line in done.unreadable:
        print(f"realnet: {line}", file=sys.stderr)
    if done.unreadable:
        count = len(done.unreadable) + len(done.scores)
        raise UserError(f"{len(done.unreadable)} of {count} images could not be read")


@app.command("export-pairs")
def export_pairs(
    manifest: ManifestOption,
    dataset: DatasetOption,
    category: CategoryOption,
    count: Annotated[int, typer.Option(min=1, help="Number of pairs.")],
    out: OutOption,
    sdas: Annotated[
        Path | None, typer.Option(help="Folder of the stage sdas: images to blend in.")
    ] = None,
    sia: Annotated[
        Path | None, typer.Option(help="Folder of the stage sia, instead of --sdas.")
    ] = None,
    size: Annotated[
        Literal["model", "original"],
        typer.Option(help="Size of the images: of the model, or of the original files."),
    ] = "model",
    with_normals: Annotated[
        bool, typer.Option("--with-normals", help="Also train/good and test/good.")
    ] = False,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Write the training's local anomalies with their masks, in MVTec-AD layout."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import RealNetParams
    from realnet.interop.export_pairs import export_pairs as run
    from realnet.stages.job import Job

    if sdas is not None and sia is not None:
        raise UserError("--sdas and --sia: give one of them")
    images = sdas or sia
    inputs = {"manifest": manifest} | ({"images": images} if images is not None else {})
    sections = stage_params(params, RealNetParams, variant)
    job = Job(sections, out, dataset, (category,), seed, variant, inputs)
    run(job, count, size, with_normals)


@app.command("import-realnet")
def import_realnet(
    checkpoint: Annotated[Path, typer.Argument(help="ckpt_best.pth.tar of the official code.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    image_size: Annotated[
        int, typer.Option(min=32, help="Side of its input; the checkpoint does not contain it.")
    ] = 256,
    dataset: DatasetOption = "imported",
    category: CategoryOption = "imported",
) -> None:
    """Import a model trained with the authors' code; nothing in the file is executed."""
    from realnet.interop.realnet_checkpoint import import_realnet as run

    print(run(checkpoint, out, image_size, dataset, category).summary)


@app.command("import-ddpm")
def import_ddpm(
    checkpoint: CheckpointArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write, for sdas or for ddpm.init.")],
    dataset: ClassSetOption = None,
    category: ClassNamesOption = None,
    classes: ClassesOption = None,
    image_size: Annotated[int, typer.Option(min=8, help="Side of its images, pixels.")] = 256,
    head_channels: HeadChannelsOption = 64,
    seed: SeedOption = 0,
) -> None:
    """Import a guided-diffusion (ADM) model, e.g. 256x256_diffusion.pt."""
    from realnet.interop.adm import Classes
    from realnet.interop.adm import import_ddpm as run

    print(
        run(
            checkpoint,
            out,
            image_size=image_size,
            head_channels=head_channels,
            classes=Classes(dataset, tuple(category or ()), classes),
            seed=seed,
        )
    )


@app.command("import-classifier")
def import_classifier(
    checkpoint: CheckpointArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write, for sdas or for classifier.init.")],
    dataset: ClassSetOption = None,
    category: ClassNamesOption = None,
    classes: ClassesOption = None,
    head_channels: HeadChannelsOption = 64,
    seed: SeedOption = 0,
) -> None:
    """Import a guided-diffusion classifier, e.g. 256x256_classifier.pt."""
    from realnet.interop.adm import Classes
    from realnet.interop.adm import import_classifier as run

    print(
        run(
            checkpoint,
            out,
            head_channels=head_channels,
            classes=Classes(dataset, tuple(category or ()), classes),
            seed=seed,
        )
    )
