"""`realnet <command>`: each stage of the workflow, and the tools around it, by hand."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from realnet import stopping
from realnet.errors import UserError
from realnet.trouble import explain

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="RealNet-Bench: every stage by hand. The whole benchmark: snakemake --cores all",
)

ParamsOption = Annotated[
    str, typer.Option("--params", help="A parameter file, or JSON of this stage's sections.")
]
VariantOption = Annotated[str, typer.Option(help="Variant, when --params is a file.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the experiment matrix.")]
DatasetOption = Annotated[str, typer.Option(help="Name of the data set.")]
CategoryOption = Annotated[str, typer.Option(help="Name of the category.")]
ManifestOption = Annotated[Path, typer.Option(help="manifest.csv of the stage data.")]
BackboneOption = Annotated[Path, typer.Option(help="Folder of the stage backbone.")]
SdasOption = Annotated[
    Path | None, typer.Option(help="Folder of the stage sdas, where its images are used.")
]


@app.callback()
def _root() -> None:
    """Keeps `realnet <command>` a group, however many commands there are."""


data = typer.Typer(no_args_is_help=True, help="Data sets: render the demo set, check and list.")
app.add_typer(data, name="data")


@data.command("demo")
def data_demo(out: OutOption = Path("data/raw/demo"), params: ParamsOption = "params.yaml") -> None:
    """Render the embedded demo set in MVTec-AD layout, replacing the one that is there."""
    from realnet.data.demo.dataset import make_demo
    from realnet.params import stage_params

    make_demo(stage_params(params, "demo").data.demo, out)


@data.command("prepare")
def data_prepare(
    dataset: DatasetOption,
    category: CategoryOption,
    root: Annotated[Path, typer.Option(help="The data set's folder: one folder per category.")],
    out: OutOption,
    params: ParamsOption = "params.yaml",
) -> None:
    """Check every image and mask of a category and list them in manifest.csv."""
    from realnet.data.manifest import prepare
    from realnet.params import stage_params

    prepare(dataset, category, root, out, stage_params(params, "data").prepare)


@data.command("fetch")
def data_fetch(
    dataset: Annotated[str, typer.Argument(help="mvtec_ad, mpdd, btad, visa, or dtd (textures).")],
    given: Annotated[
        str | None, typer.Option("--from", help="File or http(s) address of the archive.")
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licence, which is shown.")
    ] = False,
    root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("data/raw"),
    sha256: Annotated[
        str | None, typer.Option(help="Hash of that archive, if it is not the published one.")
    ] = None,
    keep_archive: Annotated[
        bool, typer.Option("--keep-archive", help="Keep it, in ROOT/.archives.")
    ] = False,
) -> None:
    """Download a published data set, check it and unpack it to ROOT/DATASET."""
    from realnet.data.fetch import fetch

    ask = input if sys.stdin.isatty() else None
    fetch(dataset, root, given, accept_licence, sha256, keep_archive, ask)


@data.command("cache")
def data_cache(
    root: Annotated[Path, typer.Option(help="Folder of the DVC project.")] = Path("."),
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove what is damaged, for `dvc pull` to get again.")
    ] = False,
) -> None:
    """Read DVC's cache again and name what has rotted, which DVC itself does not notice.

    Exit status: 0 nothing is damaged, 1 something is, 2 no DVC project.
    """
    from realnet.data.cache import run

    told, sound = run(root, remove)
    print(told)
    raise typer.Exit(0 if sound else 1)


@data.command("verify")
def data_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET[/CATEGORY]", help="Default: all of experiment.datasets."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data sets; default: data.root of the parameters."),
    ] = None,
    manifests: Annotated[
        Path, typer.Option(help="Folder of the manifests to compare with.")
    ] = Path("results/data"),
    json: Annotated[
        Path | None, typer.Option("--json", help="Report to write, for machines.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads; default: one per CPU.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Problems printed of each kind.")] = 5,
    params: Annotated[str, typer.Option(help="Parameter file.")] = "params.yaml",
) -> None:
    """Read every file and report all that is wrong.

    Exit status: 0 no errors (there may be warnings), 1 errors, 2 no such data set or parameters.
    """
    from realnet.data.verify import run

    if not run(names or (), params, root, manifests, json, workers, show):
        raise typer.Exit(1)


@data.command("foregrounds")
def data_foregrounds(
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="DATASET[/CATEGORY]", help="Repeat for several. [all that are there]"),
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("data/raw"),
    manifests: Annotated[
        Path, typer.Option(help="Folder of the manifests, which go before the folders.")
    ] = Path("results/data"),
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path(
        "results/figures/foregrounds.png"
    ),
    params: ParamsOption = "params.yaml",
) -> None:
    """Draw the foreground rule of every category on a training image."""
    from realnet.synthesis.gallery import run

    run(dataset or (), root, manifests, out, params)


@app.command()
def backbone(
    out: OutOption, params: ParamsOption = "params.yaml", variant: VariantOption = "base"
) -> None:
    """Make the frozen feature extractor: fetch, verify or (pretext) train it."""
    from realnet.models.backbone import make_backbone
    from realnet.params import stage_params

    make_backbone(stage_params(params, "backbone", variant), out)


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
    """Train the diffusion model of a category's (or a data set's) normal images."""
    from realnet.diffusion.training import train_ddpm
    from realnet.params import stage_params

    train_ddpm(stage_params(params, "ddpm", variant), manifest, dataset, category, seed, out)


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
    from realnet.diffusion.classifier import train_classifier
    from realnet.params import stage_params

    stage = stage_params(params, "classifier", variant)
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
    from realnet.diffusion.sampling import sample_sdas
    from realnet.params import stage_params

    stage = stage_params(params, "sdas", variant)
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
    """Draw the Synthetic Industrial Anomaly data set; goes on where an earlier run was stopped."""
    from realnet.diffusion.sia import draw_shards
    from realnet.diffusion.sia_set import make_sia
    from realnet.params import stage_params

    given = (stage_params(params, "sia", variant), ddpm, manifest, dataset, category, seed, out)
    if shard is None:
        make_sia(*given, classifier)
    else:
        draw_shards(*given, classifier, shard)


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
        typer.Option(help="Of the images: as the training sees them, or as photographed."),
    ] = "model",
    with_normals: Annotated[
        bool, typer.Option("--with-normals", help="Also train/good and test/good.")
    ] = False,
    seed: SeedOption = 0,
    params: ParamsOption = "params.yaml",
    variant: VariantOption = "base",
) -> None:
    """Write the training's local anomalies with their masks, in MVTec-AD layout."""
    from realnet.params import stage_params
    from realnet.synthesis.export import export_pairs as run

    if sdas is not None and sia is not None:
        raise UserError("--sdas and --sia: give one of them")
    stage = stage_params(params, "realnet", variant)
    where = (manifest, sdas or sia, dataset, category)
    run(stage, *where, count, seed, out, size, with_normals)


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
    """Select the backbone channels that see anomalies, and cache their indices."""
    from realnet.models.afs import select_features
    from realnet.params import stage_params

    stage = stage_params(params, "afs", variant)
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
    from realnet.params import stage_params
    from realnet.training.loop import train_realnet

    stage = stage_params(params, "realnet", variant)
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
    from realnet.baselines.patchcore import fit_patchcore
    from realnet.params import stage_params

    stage = stage_params(params, "patchcore", variant)
    fit_patchcore(stage, manifest, backbone, dataset, category, seed, out)


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
    from realnet.evaluation.predict import predict as run
    from realnet.params import stage_params

    stage = stage_params(params, "evaluate")
    done = run(
        model,
        images,
        out,
        stage.compute,
        pool,
        raw=raw,
        margins=margins,
        default_pool=stage.evaluate.image_score_pool,
        batch_size=stage.evaluate.batch_size,
    )
    for path, score in done.scores:
        print(f"{score:.4f}  {path}")
    for line in done.unreadable:
        print(f"realnet: {line}", file=sys.stderr)
    if done.unreadable:
        count = len(done.unreadable) + len(done.scores)
        raise UserError(f"{len(done.unreadable)} of {count} images could not be read")


@app.command("import-realnet")
def import_realnet(
    checkpoint: Annotated[Path, typer.Argument(help="ckpt_best.pth.tar of the official code.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    image_size: Annotated[
        int, typer.Option(min=32, help="Side of its input; the checkpoint does not tell.")
    ] = 256,
    dataset: DatasetOption = "imported",
    category: CategoryOption = "imported",
) -> None:
    """Bring a model trained with the authors' code into this format; nothing in it is run."""
    from realnet.interop.realnet_checkpoint import import_realnet as run

    print(run(checkpoint, out, image_size, dataset, category).summary)


CheckpointArgument = Annotated[Path, typer.Argument(help="Of guided-diffusion or of RealNet.")]
ClassNamesOption = Annotated[
    list[str] | None, typer.Option("--category", help="Name of each class, in their order.")
]
ClassSetOption = Annotated[
    str | None, typer.Option("--dataset", help="Data set whose categories the classes are.")
]
ClassesOption = Annotated[
    int | None, typer.Option(min=1, help="Number of classes, drawn anew if not the file's own.")
]
HeadChannelsOption = Annotated[int, typer.Option(min=1, help="Of each attention head.")]


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
    """Bring a guided-diffusion (ADM) model into this format, e.g. 256x256_diffusion.pt."""
    from realnet.interop.adm import import_ddpm as run

    options = {"dataset": dataset, "categories": category or (), "classes": classes, "seed": seed}
    print(run(checkpoint, out, image_size=image_size, head_channels=head_channels, **options))


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
    """Bring a guided-diffusion classifier into this format, e.g. 256x256_classifier.pt."""
    from realnet.interop.adm import import_classifier as run

    options = {"dataset": dataset, "categories": category or (), "classes": classes, "seed": seed}
    print(run(checkpoint, out, head_channels=head_channels, **options))


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
    from realnet.evaluation.stage import evaluate as run
    from realnet.params import stage_params

    stage = stage_params(params, "evaluate", variant)
    run(stage, manifest, model, dataset, category, seed, variant, out)


@app.command()
def metrics(
    scores: Annotated[
        Path,
        typer.Argument(
            help="Anomaly maps: .npy or .npz [N, H, W] (FILE.npz:NAME), a folder of KIND/IMAGE.tiff"
            " (.tif, .npy, .png), or a scores.npz, alone."
        ),
    ],
    masks: Annotated[
        Path | None,
        typer.Argument(
            help="Masks, > 0 is anomalous: .npy, .npz, or a folder of KIND/IMAGE_mask.png or"
            " KIND/IMAGE.png."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help=".npy [N] or .csv (path, label). Default: by folder (good) or mask."),
    ] = None,
    image_scores: Annotated[
        Path | None, typer.Option(help=".npy [N] or .csv (path, score), instead of map maxima.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="File to write.")] = None,
    curves: Annotated[
        Path | None, typer.Option(help="OUT.png (and OUT.npz), or a folder: ROC, PR and PRO.")
    ] = None,
    limits: Annotated[
        str, typer.Option(help="False positive rates up to which PRO goes, the headline first.")
    ] = "0.3,0.01,0.05,0.1,1",
    pro_limit: Annotated[
        float | None, typer.Option(help="The headline, if it is not the first of --limits.")
    ] = None,
    pool: Annotated[
        int | None, typer.Option(min=1, help="Average N x N pixels before the image maximum. [1]")
    ] = None,
    logits: Annotated[
        bool, typer.Option("--logits", help="The maps are logits: --pool and --compat use sigmoid.")
    ] = False,
    compat: Annotated[
        bool, typer.Option("--compat", help="Also the numbers of RealNet's official evaluation.")
    ] = False,
    resize_masks: Annotated[
        bool, typer.Option("--resize-masks", help="To the size of the maps, nearest pixel.")
    ] = False,
    resize_maps: Annotated[
        bool, typer.Option("--resize-maps", help="To the size of the masks, bilinear.")
    ] = False,
    suffix: Annotated[
        str, typer.Option(help="In a folder, only maps whose names end so, e.g. _margin.npy.")
    ] = "",
    subset: Annotated[
        bool, typer.Option("--subset", help="In a folder, pass over masks that have no map.")
    ] = False,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Resamples of the images for intervals; 0: none.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
) -> None:
    """Image AUROC, pixel AUROC, PRO and more, exact, of any model's anomaly maps."""
    if resize_masks and resize_maps:
        raise UserError("--resize-masks and --resize-maps: give one of them")
    try:
        rates = [float(text) for text in limits.split(",") if text.strip()]
    except ValueError:
        raise UserError(f"--limits {limits}: expected numbers like 0.3,0.01") from None
    from realnet.evaluation.measure import run

    run(
        json,
        curves,
        seed,
        scores=scores,
        masks=masks,
        labels=labels,
        image_scores=image_scores,
        pool=pool,
        pro_limit=pro_limit,
        limits=rates,
        logits=logits,
        compat=compat,
        resize="masks" if resize_masks else "maps" if resize_maps else None,
        suffix=suffix,
        subset=subset,
        resamples=bootstrap,
    )


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    params: Annotated[
        str, typer.Option(help="Parameter file, or JSON of experiment, variants and report.")
    ] = "params.yaml",
    metrics: Annotated[
        list[Path] | None, typer.Option(help="A metrics.json to report; repeat per file.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="A dash for what was not evaluated yet.")
    ] = False,
    group: Annotated[
        str | None, typer.Option(help="Only the table of this group of variants.")
    ] = None,
) -> None:
    """Tables and figures, rebuilt from result files alone."""
    from realnet.reporting import report as run
    from realnet.reporting.groups import report_group

    if group is not None:
        report_group(results, params, group, metrics or (), allow_missing)
    else:
        run(results, params, metrics or (), allow_missing)


@app.command()
def failures(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    params: Annotated[
        str, typer.Option(help="Parameter file, or JSON of experiment, variants and report.")
    ] = "params.yaml",
    stopped: Annotated[
        bool, typer.Option("--stopped", help="Without what was never started.")
    ] = False,
) -> None:
    """What of the matrix was not evaluated, where it stopped, and why.

    Exit status: 0 nothing, 1 something, 2 no such parameters.
    """
    from realnet.reporting.failures import failures as run

    text, count = run(results, params, stopped)
    print(text)
    raise typer.Exit(1 if count else 0)


@app.command()
def trace(
    target: Annotated[Path, typer.Argument(help="A table of the report, or a cell's folder.")],
    dataset: Annotated[str | None, typer.Option(help="Cells of this data set alone.")] = None,
    category: Annotated[str | None, typer.Option(help="Cells of this category.")] = None,
    seed: Annotated[int | None, typer.Option(help="Cells of this seed.")] = None,
    variant: Annotated[str | None, typer.Option(help="Cells of this variant.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with what is there now, by digests.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Every output, every parameter, every file of code.")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="File for all of it.")] = None,
    params: Annotated[
        str, typer.Option(help="Parameter file, for the matrix and what is asked for now.")
    ] = "params.yaml",
) -> None:
    """What a number was made from: inputs, parameters, seeds, code, packages; and if it holds.

    Exit status with --check: 0 all matches, 1 something does not, 2 no such file or parameters.
    """
    from realnet.tracing.command import run

    asked = {"dataset": dataset, "category": category, "seed": seed, "variant": variant}
    told, holds = run(target, params, asked, check, every, json)
    print(told)
    raise typer.Exit(0 if holds else 1)


@app.command()
def compare(
    results_a: Annotated[Path, typer.Argument(help="Folder of results.")],
    results_b: Annotated[Path, typer.Argument(help="Another, e.g. of another commit or machine.")],
    json: Annotated[Path | None, typer.Option("--json", help="File for all of it.")] = None,
    md: Annotated[Path | None, typer.Option("--md", help="File for the text shown.")] = None,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
) -> None:
    """Which cells moved from A to B, by how much against noise, and which inputs differ."""
    from realnet.reporting.compare_text import run

    print(run(results_a, results_b, level, json, md), end="")


@app.command()
def publish(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder to write, to commit.")] = Path(
        "results/published"
    ),
) -> None:
    """Copy the report's small files, with a page that shows them, to a folder to commit."""
    from realnet.reporting.publish import publish as run

    for name in run(results, out):
        print(f"{name}: too large to publish, left out", file=sys.stderr)
    print(f"{out}/README.md")


params_app = typer.Typer(no_args_is_help=True, help="Look at the parameters.")
app.add_typer(params_app, name="params")


@params_app.command("show")
def params_show(
    file: Annotated[Path, typer.Argument(help="Parameter file.")] = Path("params.yaml"),
    preset: Annotated[str | None, typer.Option(help="Preset instead of the file's own.")] = None,
    variant: VariantOption = "base",
) -> None:
    """Print the validated parameters, with the preset and a variant laid over them."""
    import yaml

    from realnet.params import load

    resolved = load(file, {"preset": preset} if preset else None).variant(variant)
    print(yaml.safe_dump(resolved.model_dump(), sort_keys=False), end="")


@params_app.command("schema")
def params_schema() -> None:
    """Print the JSON schema of params.yaml (workflow/schemas/params.schema.yaml), as YAML."""
    from realnet.params import schema

    print(schema(), end="")


@app.command()
def track(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    params: Annotated[
        str, typer.Option(help="Parameter file, or JSON of experiment and variants.")
    ] = "params.yaml",
    receipt: Annotated[
        Path | None, typer.Option(help="File to write: which run shows which cell.")
    ] = None,
    models: Annotated[
        Literal["all", "reference", "none"],
        typer.Option(help="Register the detectors of all variants, of the first one, or none."),
    ] = "reference",
    copy_limit: Annotated[
        float, typer.Option(min=0, help="MiB up to which a detector's files are copied.")
    ] = 256,
    later: Annotated[
        bool,
        typer.Option("--later", help="Without MLflow: a warning and a receipt for --pending."),
    ] = False,
    pending: Annotated[
        Path | None,
        typer.Option(help="A receipt of --later: do what it says; other options have no say."),
    ] = None,
) -> None:
    """Bring MLflow up to date with the results; MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    from realnet.tracking import track as run
    from realnet.tracking import track_pending

    if pending is not None:
        track_pending(pending)
    else:
        run(results, params, receipt, models, copy_limit, later)


@app.command()
def runs(
    experiment: Annotated[str | None, typer.Option(help="[the one tracked last]")] = None,
    dataset: Annotated[str | None, typer.Option(help="Runs on this data set alone.")] = None,
    variant: Annotated[str | None, typer.Option(help="Runs of this variant alone.")] = None,
    category: Annotated[str | None, typer.Option(help="Cells of this category.")] = None,
    sort: Annotated[str, typer.Option(help="Metric, the best first.")] = "image_auroc",
    limit: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 20,
    every: Annotated[
        bool, typer.Option("--all", help="Every category and seed, not the means of variants.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the rows with all metrics, fractions.")
    ] = None,
) -> None:
    """Leaderboard from MLflow: variants by their means (percent), or their cells."""
    from realnet.tracking.board import leaderboard

    print(leaderboard(experiment, dataset, variant, category, sort, limit, every, json))


@app.command()
def cost(
    preset: Annotated[
        list[str] | None, typer.Option(help="Preset to look at; repeat. [the file's own]")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size; repeat. [the preset's own]")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Steps measured, after one to warm up.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    count_only: Annotated[
        bool, typer.Option("--count-only", help="Parameters and MACs; measure nothing.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for cost.json and cost.md.")] = None,
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
) -> None:
    """What each part costs: parameters, MACs, images/s, seconds per training step, memory."""
    from realnet.cost import cost as run
    from realnet.params import read_yaml

    presets = preset or [read_yaml(params).get("preset", "demo")]
    run(presets, params, out, batch or [], repeats, device, not count_only)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2.

    So is what the machine does wrong (a full disk, say). After a signal: 128 + its number.
    """
    stopping.listen()
    try:
        app()
    except UserError as error:
        print(f"realnet: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except stopping.Stopped as stop:
        print(f"realnet: {stop}", file=sys.stderr)
        raise SystemExit(128 + stop.number) from None
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        print(f"realnet: {line}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
