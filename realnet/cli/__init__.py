"""The command `realnet`: each stage of the workflow as a command, and further tools."""

import sys
from typing import Annotated

import typer

from realnet import __version__
from realnet.cli import code, data, models, results, stages
from realnet.core import stopping
from realnet.core.environment_errors import explain
from realnet.core.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="RealNet-Bench: every stage by hand. The whole benchmark: snakemake --cores all",
)
app.add_typer(data.app, name="data")
for group in (stages, models, results, code):
    app.add_typer(group.app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"realnet-bench {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of `realnet` itself."""


def main() -> None:
    """Run the command line.

    A user's mistake, or a failure of the environment such as a full disk, is one line on stderr
    and exit status 2. After a signal the status is 128 + its number.
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
