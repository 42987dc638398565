"""Missing runs and their causes: as text, as a table, and as an exit status."""

import pytest
from small_runs import params, write_run
from typer.testing import CliRunner

from realnet.cli import app
from realnet.core.errors import UserError
from realnet.core.io import read_csv
from realnet.provenance.failures import failures
from realnet.report.report import report

MATRIX = params({"own": ["nut", "plate", "disc"]}, ["base", "texture"])


@pytest.fixture
def results(tmp_path):
    """nut is evaluated, the model of plate failed, disc was never started."""
    folder = tmp_path / "results"
    for variant in ("base", "texture"):
        write_run(folder, "own", "nut", 0, variant)
    log = folder / "logs/ddpm/own/plate/seed0/base.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "ddpm: 3/6\rrealnet: No space left on device; free some space\nslurmstepd: done\n"
    )
    return folder


def command(results, *more):
    words = ["failures", "--results", str(results), "--params", MATRIX, *more]
    return CliRunner().invoke(app, words)


def test_one_entry_for_all_runs_that_wait_for_a_stage(results):
    result = command(results)
    assert result.exit_code == 1
    assert result.output.split("\n\n") == [
        "4 of 6 runs not evaluated",
        "ddpm failed or is still running, 2 runs: own/plate/seed0/base, own/plate/seed0/texture\n"
        f"  {results}/logs/ddpm/own/plate/seed0/base.log:\n"
        "  realnet: No space left on device; free some space",
        "not started, 2 runs: own/disc/seed0/base, own/disc/seed0/texture\n",
    ]
    assert "disc" not in command(results, "--stopped").output


def test_nothing_is_missing(results):
    (results / "logs/ddpm/own/plate/seed0/base.log").unlink()
    assert failures(results, MATRIX, stopped=True)[0].startswith("2 of 6 runs evaluated")
    for category in ("plate", "disc"):
        for variant in ("base", "texture"):
            write_run(results, "own", category, 0, variant)
    result = command(results)
    assert (result.exit_code, result.output) == (0, "6 of 6 runs evaluated, no stage failed\n")


def test_the_table_exists_while_runs_are_missing(results):
    report(results, MATRIX, allow_missing=True)
    rows = read_csv(results / "tables/missing.csv")
    assert [(row["stage"], row["category"], row["variant"]) for row in rows] == [
        ("ddpm", "plate", "base"),
        ("ddpm", "plate", "texture"),
        ("", "disc", "base"),
        ("", "disc", "texture"),
    ]
    assert rows[0]["reason"] == "realnet: No space left on device; free some space"
    assert rows[0]["log"] == "logs/ddpm/own/plate/seed0/base.log"
    for category in ("plate", "disc"):
        for variant in ("base", "texture"):
            write_run(results, "own", category, 0, variant)
    report(results, MATRIX)
    assert not (results / "tables/missing.csv").exists()


def test_no_such_parameters(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml"):
        failures(tmp_path, str(tmp_path / "none.yaml"))
