"""What the Snakefile asks of workflow/scripts/dag.py."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from realnet.errors import UserError
from realnet.params import PROJECT, load

SPEC = importlib.util.spec_from_file_location("dag", PROJECT / "workflow/scripts/dag.py")
dag = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(dag)


def test_overrides_keep_their_types():
    """Snakemake hands nested values of --config over as text."""
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    given = {"training": {"steps": "5", "grad_clip": "null"}, "preset": "smoke"}
    params = dag.settings(values, given)
    assert (params.training.steps, params.training.grad_clip) == (5, None)


def test_all_is_spelt_out():
    assert dag.matrix(load(PROJECT / "params.yaml"))["demo"] == (
        *("circuit_board", "hex_nut", "woven_fabric"),
    )


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ({"demo": ["nut"]}, "one of circuit_board, hex_nut"),
        ({"nowhere": "all"}, "data/raw/nowhere"),
    ],
)
def test_an_unknown_category_or_data_set(datasets, said):
    params = load(PROJECT / "params.yaml", {"experiment": {"datasets": datasets}})
    with pytest.raises(UserError, match=said):
        dag.matrix(params)


def test_closure_follows_imports_and_leaves_the_command_line_out():
    files = dag.closure("realnet.training.loop")
    assert "realnet/training/loop.py" in files and "realnet/seeds.py" in files
    assert "realnet/synthesis/foreground.yaml" in files  # a table that the code reads
    assert not {"realnet/cli.py", "realnet/params.py"} & set(files)


def test_closure_of_every_kind_of_import(tmp_path):
    package = tmp_path / "p"
    (package / "sub").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "a.py": "from p import b\ndef f():\n    import p.sub.c\n",
        "b.py": "import os\n",
        "sub/__init__.py": "",
        "sub/c.py": "from ..d import g\nfrom . import e\n",
        "sub/e.py": "",
        "d.py": "g = 1\n",
        "unused.py": "",
    }.items():
        (package / name).write_text(text)
    found = set(dag.closure("p.a", tmp_path))
    assert found == {
        *("p/__init__.py", "p/a.py", "p/b.py", "p/d.py"),
        *("p/sub/__init__.py", "p/sub/c.py", "p/sub/e.py"),
    }
    with pytest.raises(UserError, match=r"p\.none"):
        dag.closure("p.none", tmp_path)


def test_dvc_depends_on_all_code_that_snakemake_reads():
    """Otherwise `dvc status` would call a layer current that Snakemake makes again."""
    stages = yaml.safe_load(Path(PROJECT, "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        needed = dag.closure(dag.CODE[name])
        if name == "report":
            needed += dag.closure(dag.CODE["track"])
        missing = [
            path
            for path in needed
            if not any(path == d or path.startswith(f"{d}/") for d in stage["deps"])
        ]
        assert not missing, f"dvc.yaml, stage {name}: deps lack {missing}"
        assert "workflow/rules/common.smk" in stage["deps"]


def test_dvc_keeps_every_output_in_place():
    stages = yaml.safe_load(Path(PROJECT, "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]:
            assert next(iter(out.values()))["persist"] is True


def test_a_category_named_01_survives_the_command_line():
    overrides = {"experiment": {"datasets": {"btad": ["01"]}}, "sdas": {"steps": "7"}}
    found = dag.settings(yaml.safe_load((PROJECT / "params.yaml").read_text()), overrides)
    assert found.experiment.datasets["btad"] == ["01"] and found.sdas.steps == 7
