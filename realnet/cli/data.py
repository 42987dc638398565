"""`realnet data`: render, fetch, verify and show datasets."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from realnet.cli.options import (
    CategoryOption,
    DatasetOption,
    OutOption,
    ParamsOption,
)

app = typer.Typer(
    no_args_is_help=True, help="Datasets: render the demo dataset, fetch, verify, list."
)


@app.command("demo")
def data_demo(out: OutOption = Path("data/raw/demo"), params: ParamsOption = "params.yaml") -> None:
    """Render the embedded demo dataset in MVTec-AD layout, replacing an existing one."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import DemoParams
    from realnet.datasets.demo.demo_dataset import make_demo

    make_demo(stage_params(params, DemoParams).data.demo, out)


@app.command("fetch")
def data_fetch(
    dataset: Annotated[
        str, typer.Argument(help="mvtec_ad, mpdd, btad, visa, magnetic_tile, or dtd (textures).")
    ],
    given: Annotated[
        str | None, typer.Option("--from", help="File or http(s) address of the archive.")
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licence, which is shown.")
    ] = False,
    root: Annotated[Path, typer.Option(help="Folder of the datasets.")] = Path("data/raw"),
    sha256: Annotated[
        str | None, typer.Option(help="Hash of that archive, if it is not the published one.")
    ] = None,
    keep_archive: Annotated[
        bool, typer.Option("--keep-archive", help="Keep it, in ROOT/.archives.")
    ] = False,
) -> None:
    """Download a published dataset, check it and unpack it to ROOT/DATASET."""
    from realnet.datasets.fetch.fetch_dataset import Request, fetch

    ask = input if sys.stdin.isatty() else None
    fetch(dataset, root, Request(given, accept_licence, sha256, keep_archive), ask=ask)


@app.command("cache")
def data_cache(
    root: Annotated[Path, typer.Option(help="Folder of the DVC project.")] = Path("."),
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove corrupt files, for `dvc pull` to fetch again.")
    ] = False,
) -> None:
    """Hash every file of DVC's cache and report corrupt ones, which DVC itself does not notice.

    Exit status: 0 no corrupt file, 1 corrupt files, 2 no DVC project.
    """
    from realnet.datasets.dvc_cache import run

    text, sound = run(root, remove)
    print(text)
    raise typer.Exit(0 if sound else 1)


@app.command("verify")
def data_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET[/CATEGORY]", help="Default: all of experiment.datasets."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the datasets; default: data.root of the parameters."),
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
    """Read every file and report every problem.

    Exit status: 0 no errors (there may be warnings), 1 errors, 2 no such dataset or parameters.
    """
    from realnet.datasets.verify.verify_dataset import run

    if not run(names or (), params, root, manifests, json, workers, show):
        raise typer.Exit(1)


@app.command("foregrounds")
def data_foregrounds(
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="DATASET[/CATEGORY]", help="Repeat for several. [all that are there]"),
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder of the datasets.")] = Path("data/raw"),
    manifests: Annotated[
        Path, typer.Option(help="Folder of the manifests; preferred to the raw folders.")
    ] = Path("results/data"),
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path(
        "results/figures/foregrounds.png"
    ),
    params: ParamsOption = "params.yaml",
) -> None:
    """Draw the foreground rule of every category on a training image."""
    from realnet.plots.foreground_rules import run

    run(dataset or (), root, manifests, out, params)


@app.command("prepare")
def data_prepare(
    dataset: DatasetOption,
    category: CategoryOption,
    root: Annotated[Path, typer.Option(help="The dataset's folder: one folder per category.")],
    out: OutOption,
    params: ParamsOption = "params.yaml",
) -> None:
    """Check every image and mask of a category and list them in manifest.csv."""
    from realnet.config.params import stage_params
    from realnet.config.stage_params import DataParams
    from realnet.stages.data import run
    from realnet.stages.job import Job

    stage = stage_params(params, DataParams)
    run(Job(stage, out, dataset, (category,), inputs={"raw": root}))
