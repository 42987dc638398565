"""Which libraries the commands import: each costs every job seconds of startup time."""

import json
import subprocess
import sys

import pytest

from realnet.config.params import PROJECT

HEAVY = {"torch", "torchvision", "timm", "diffusers", "mlflow", "pandas", "sklearn", "matplotlib"}
LOADED = "import json, sys; print(json.dumps(sorted(n for n in sys.modules if '.' not in n)))"


def loaded(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{LOADED}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return HEAVY & set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("realnet.cli, realnet.config.params, realnet.compute.gpu", set()),
        (
            "realnet.stages.data, realnet.datasets.demo.demo_dataset,"
            " realnet.datasets.fetch.fetch_dataset",
            set(),
        ),
        (
            "realnet.datasets.verify.verify_dataset, realnet.datasets.dvc_cache, realnet.tracking",
            set(),
        ),
        ("realnet.report.report, realnet.provenance.trace.command", {"matplotlib", "pandas"}),
    ],
)
def test_commands_without_networks_import_no_torch(module, needed):
    assert loaded(f"import {module}") == needed


def test_stages_import_only_the_libraries_that_they_use():
    stages = "realnet.stages.ddpm, realnet.stages.sdas"
    assert loaded(f"import {stages}") - {"torchvision"} == {"torch", "diffusers"}
    stages = "realnet.stages.afs, realnet.stages.realnet, realnet.stages.patchcore"
    assert loaded(f"import {stages}") == {"torch", "torchvision", "timm"}


def test_help_imports_no_heavy_library():
    code = "from typer.testing import CliRunner; from realnet.cli import app\n"
    code += "assert CliRunner().invoke(app, ['train', '--help']).exit_code == 0"
    assert loaded(code) == set()
