"""`realnet <command>`: each stage of the workflow, and the tools around it, by hand."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from realnet.errors import UserError

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


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2."""
    try:
        app()
    except UserError as error:
        print(f"realnet: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
