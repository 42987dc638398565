"""The command `realnet code`: the code files of each stage, and the results that are outdated."""

import os
import subprocess
import sys
from typing import Annotated

import typer

from realnet.core.errors import UserError

app = typer.Typer()
ACCEPT = "REALNET_ACCEPT_CODE"  # read in workflow/rules/common.smk


@app.command()
def code(
    targets: Annotated[
        list[str] | None, typer.Argument(help="With --accept: rules or files. [everything]")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit status 1 if a file is stale.")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Mark results as made by the present code.")
    ] = False,
) -> None:
    """Write workflow/code: for each stage, fingerprints of the code that its result depends on.

    A stage is rerun when its file changes. Comments, formatting, docstrings and messages do not
    change it. Snakemake writes these files when it starts.

    If you know that a change of code changes no result, `realnet code --accept` marks the results
    as current without computing anything. It refuses where parameters or data have changed too.
    """
    from realnet.provenance.stage_code import PROJECT, refresh

    if (check and accept) or (targets and not accept):
        raise UserError("realnet code: give either --check, or --accept with targets")
    stale = refresh(write=not check)
    for name in stale:
        print(f"{name}: {'out of date; run `realnet code`' if check else 'written'}")
    if check and stale:
        raise typer.Exit(1)
    if accept:
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all"]
        done = subprocess.run(
            [*command, "--rerun-incomplete", "--", *(targets or [])],
            cwd=PROJECT,
            env=os.environ | {ACCEPT: "1"},
            check=False,
        )
        raise typer.Exit(done.returncode)
