"""Results: metrics, reports, comparison, provenance, tracking, cost."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from realnet.cli.options import VariantOption
from realnet.core.errors import UserError

app = typer.Typer()
params_app = typer.Typer(no_args_is_help=True, help="Show the parameters.")
app.add_typer(params_app, name="params")


@app.command()
def metrics(
    scores: Annotated[
        Path,
        typer.Argument(
            help="Anomaly maps: .npy or .npz [N, H, W] (FILE.npz:NAME), a folder of"
            " DEFECT/IMAGE.tiff (.tif, .npy, .png), or a scores.npz without MASKS."
        ),
    ],
    masks: Annotated[
        Path | None,
        typer.Argument(
            help="Masks, > 0 is anomalous: .npy, .npz, or a folder of DEFECT/IMAGE_mask.png or"
            " DEFECT/IMAGE.png."
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
        str, typer.Option(help="False positive rate limits of PRO, the headline first.")
    ] = "0.3,0.01,0.05,0.1,1",
    pro_limit: Annotated[
        float | None, typer.Option(help="The headline limit, if not the first of --limits.")
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(min=1, help="Average N x N pixels before the image maximum. [1]"),
    ] = None,
    logits: Annotated[
        bool,
        typer.Option("--logits", help="The maps are logits: --pool and --compat use sigmoid."),
    ] = False,
    compat: Annotated[
        bool, typer.Option("--compat", help="Also the metrics of RealNet's official evaluation.")
    ] = False,
    resize_masks: Annotated[
        bool,
        typer.Option("--resize-masks", help="Resize masks to the maps, nearest pixel."),
    ] = False,
    resize_maps: Annotated[
        bool, typer.Option("--resize-maps", help="Resize maps to the masks, bilinear.")
    ] = False,
    suffix: Annotated[
        str,
        typer.Option(help="In a folder, only maps whose names have this suffix, e.g. _margin.npy."),
    ] = "",
    subset: Annotated[
        bool, typer.Option("--subset", help="In a folder, ignore masks that have no map.")
    ] = False,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Bootstrap resamples for the intervals; 0: no intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
) -> None:
    """Exact image AUROC, pixel AUROC, PRO and more for anomaly maps of any model."""
    if resize_masks and resize_maps:
        raise UserError("--resize-masks and --resize-maps: give one of them")
    try:
        rates = [float(text) for text in limits.split(",") if text.strip()]
    except ValueError:
        raise UserError(f"--limits {limits}: expected numbers like 0.3,0.01") from None
    from realnet.evaluation.maps import Request, run

    request = Request(
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
        seed=seed,
    )
    run(request, json, curves)


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    params: Annotated[
        str, typer.Option(help="Parameter file, or JSON of experiment, variants and report.")
    ] = "params.yaml",
    metrics: Annotated[
        list[Path] | None, typer.Option(help="A metrics.json to report; may be repeated.")
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Print a dash for runs without evaluation."),
    ] = False,
    group: Annotated[
        str | None, typer.Option(help="Write only the table of this group of variants.")
    ] = None,
) -> None:
    """Tables and figures, rebuilt from result files alone."""
    from realnet.report.report import report as run
    from realnet.tables.groups import report_group

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
        bool, typer.Option("--stopped", help="Omit runs that were never started.")
    ] = False,
) -> None:
    """List runs of the matrix that are not evaluated, where they stopped, and why.

    Exit status: 0 none, 1 some, 2 no such parameters.
    """
    from realnet.provenance.failures import failures as run

    text, count = run(results, params, stopped)
    print(text)
    raise typer.Exit(1 if count else 0)


@app.command()
def trace(
    target: Annotated[Path, typer.Argument(help="A table of the report, or the folder of a run.")],
    dataset: Annotated[str | None, typer.Option(help="Only runs on this dataset.")] = None,
    category: Annotated[str | None, typer.Option(help="Only runs of this category.")] = None,
    seed: Annotated[int | None, typer.Option(help="Only runs with this seed.")] = None,
    variant: Annotated[str | None, typer.Option(help="Only runs of this variant.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the current files, by digests.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show all outputs, parameters and code files.")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="File to write, as JSON.")] = None,
    params: Annotated[
        str, typer.Option(help="Parameter file, for the matrix and the current parameters.")
    ] = "params.yaml",
) -> None:
    """Trace a number to its inputs, parameters, seeds, code and packages, and check them.

    Exit status with --check: 0 all match, 1 a mismatch, 2 no such file or parameters.
    """
    from realnet.provenance.trace.command import run

    asked = {"dataset": dataset, "category": category, "seed": seed, "variant": variant}
    text, matches = run(target, params, asked, check, every, json)
    print(text)
    raise typer.Exit(0 if matches else 1)


@app.command()
def compare(
    results_a: Annotated[Path, typer.Argument(help="Folder of results.")],
    results_b: Annotated[Path, typer.Argument(help="Another, e.g. of another commit or machine.")],
    json: Annotated[Path | None, typer.Option("--json", help="File to write, as JSON.")] = None,
    md: Annotated[Path | None, typer.Option("--md", help="File to write: the text shown.")] = None,
    level: Annotated[float, typer.Option(help="Confidence level of the intervals.")] = 0.95,
) -> None:
    """Compare results A and B: changed runs, change against noise, differing inputs."""
    from realnet.provenance.compare_text import run

    print(run(results_a, results_b, level, json, md), end="")


@app.command()
def publish(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder to write and to commit.")] = Path(
        "results/published"
    ),
) -> None:
    """Copy the small files of the report, with a page that shows them, to a folder to commit."""
    from realnet.report.publish import publish as run

    for name in run(results, out):
        print(f"{name}: too large to publish, left out", file=sys.stderr)
    print(f"{out}/README.md")


@app.command()
def track(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    params: Annotated[
        str, typer.Option(help="Parameter file, or JSON of experiment and variants.")
    ] = "params.yaml",
    receipt: Annotated[
        Path | None, typer.Option(help="File to write: the MLflow run of each evaluation.")
    ] = None,
    models: Annotated[
        Literal["all", "reference", "none"],
        typer.Option(help="Register the detectors of all variants, of the first one, or none."),
    ] = "reference",
    copy_limit: Annotated[
        float, typer.Option(min=0, help="Copy the files of detectors up to this size, MiB.")
    ] = 256,
    later: Annotated[
        bool,
        typer.Option("--later", help="Without MLflow: a warning and a receipt for --pending."),
    ] = False,
    pending: Annotated[
        Path | None,
        typer.Option(help="Do what a receipt of --later lists; other options are ignored."),
    ] = None,
) -> None:
    """Update MLflow with the results; MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    from realnet.tracking import track as run
    from realnet.tracking import track_pending

    if pending is not None:
        track_pending(pending)
    else:
        run(results, params, receipt, models, copy_limit, later)


@app.command()
def runs(
    experiment: Annotated[str | None, typer.Option(help="[the one tracked last]")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only runs on this dataset.")] = None,
    variant: Annotated[str | None, typer.Option(help="Only runs of this variant.")] = None,
    category: Annotated[str | None, typer.Option(help="Only runs of this category.")] = None,
    sort: Annotated[str, typer.Option(help="Metric to sort by, best first.")] = "image_auroc",
    limit: Annotated[int, typer.Option(min=1, help="Largest number of rows.")] = 20,
    every: Annotated[
        bool, typer.Option("--all", help="Show each category and seed instead of the means.")
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="File to write: rows with all metrics, fractions."),
    ] = None,
) -> None:
    """Leaderboard from MLflow: means of variants, or single runs; percent."""
    from realnet.tracking.board import Filter, leaderboard

    only = Filter(dataset, variant, category)
    print(leaderboard(experiment, only, sort, limit, every, json))


@params_app.command("show")
def params_show(
    file: Annotated[Path, typer.Argument(help="Parameter file.")] = Path("params.yaml"),
    preset: Annotated[str | None, typer.Option(help="Preset instead of the file's own.")] = None,
    variant: VariantOption = "base",
) -> None:
    """Print the validated parameters, with the preset and a variant applied."""
    import yaml

    from realnet.config.params import load

    resolved = load(file, {"preset": preset} if preset else None).variant(variant)
    print(yaml.safe_dump(resolved.model_dump(), sort_keys=False), end="")


@params_app.command("schema")
def params_schema() -> None:
    """Print the JSON schema of params.yaml (workflow/schemas/params.schema.yaml), as YAML."""
    from realnet.config.params import schema

    print(schema(), end="")


@app.command()
def cost(
    preset: Annotated[
        list[str] | None, typer.Option(help="Preset; may be repeated. [that of the file]")
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Batch size; may be repeated. [the preset's]"),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Steps measured, after a warm-up step.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    count_only: Annotated[
        bool, typer.Option("--count-only", help="Only count parameters and MACs.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for cost.json and cost.md.")] = None,
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
) -> None:
    """Cost of each part: parameters, MACs, images/s, seconds per training step, memory."""
    from realnet.config.params import read_yaml
    from realnet.report.network_cost import cost as run

    presets = preset or [read_yaml(params).get("preset", "demo")]
    run(presets, params, out, batch or [], repeats, device, not count_only)
