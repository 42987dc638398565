"""Results: metrics, reports, comparison, provenance, tracking, cost."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from realnet.cli.options import (
    VariantOption,
)
from realnet.core.errors import UserError

app = typer.Typer()
params_app = typer.Typer(no_args_is_help=True, help="Look at the parameters.")
app.add_typer(params_app, name="params")


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
        str,
        typer.Option(help="In a folder, only maps whose names end with this, e.g. _margin.npy."),
    ] = "",
    subset: Annotated[
        bool, typer.Option("--subset", help="In a folder, ignore masks that have no map.")
    ] = False,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Bootstrap resamples for the intervals; 0: no intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
) -> None:
    """Image AUROC, pixel AUROC, PRO and more, exact, of any model's anomaly maps."""
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
    from realnet.report.groups import report_group
    from realnet.report.report import report as run

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
    from realnet.provenance.failures import failures as run

    text, count = run(results, params, stopped)
    print(text)
    raise typer.Exit(1 if count else 0)


@app.command()
def trace(
    target: Annotated[Path, typer.Argument(help="A table of the report, or a cell's folder.")],
    dataset: Annotated[str | None, typer.Option(help="Cells of this dataset alone.")] = None,
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
    from realnet.provenance.trace.command import run

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
    from realnet.provenance.compare_text import run

    print(run(results_a, results_b, level, json, md), end="")


@app.command()
def publish(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder to write, to commit.")] = Path(
        "results/published"
    ),
) -> None:
    """Copy the report's small files, with a page that shows them, to a folder to commit."""
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
    dataset: Annotated[str | None, typer.Option(help="Runs on this dataset alone.")] = None,
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


@params_app.command("show")
def params_show(
    file: Annotated[Path, typer.Argument(help="Parameter file.")] = Path("params.yaml"),
    preset: Annotated[str | None, typer.Option(help="Preset instead of the file's own.")] = None,
    variant: VariantOption = "base",
) -> None:
    """Print the validated parameters, with the preset and a variant laid over them."""
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
    from realnet.config.params import read_yaml
    from realnet.report.network_cost import cost as run

    presets = preset or [read_yaml(params).get("preset", "demo")]
    run(presets, params, out, batch or [], repeats, device, not count_only)
