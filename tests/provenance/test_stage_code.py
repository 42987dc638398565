"""The code of each stage, and the files in workflow/code."""

import ast
import os
import shutil
from pathlib import Path

import pytest
import yaml
from edits import reword

from realnet.config.params import PROJECT
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.provenance.stage_code import FOLDER, closure, code_of, refresh
from realnet.registry import CODE, RESULTS, not_code

TRAININGS = ("backbone", "ddpm", "classifier", "realnet", "patchcore")
# The selection of a checkpoint on the test set computes the official metrics.
METRICS_OF_TRAINING = {
    "realnet": {"arrays", "image", "official", "pixel", "ranks", "regions", "sums"},
}


def test_the_committed_files_are_current():
    """`realnet code` writes them; Snakemake does, too."""
    assert refresh(write=False) == []


@pytest.mark.parametrize("stage", sorted(RESULTS))
def test_plots_and_reports_are_no_code_of_results(stage):
    modules = set(code_of(stage))
    assert CODE[stage] in modules
    outside = ("realnet.plots", "realnet.provenance", "realnet.config", "realnet.cli")
    outside += ("realnet.core.progress", "realnet.core.errors", "realnet.registry")
    assert not [name for name in modules if name.startswith(outside)]


@pytest.mark.parametrize("stage", TRAININGS)
def test_trainings_have_only_the_metrics_that_they_use(stage):
    metrics = {name for name in code_of(stage) if name.startswith("realnet.metrics")}
    allowed = {f"realnet.metrics.{name}" for name in METRICS_OF_TRAINING.get(stage, ())}
    assert metrics <= allowed, metrics - allowed


@pytest.mark.parametrize("stage", sorted(RESULTS))
def test_no_stage_draws(stage):
    """A picture is drawn in `realnet.plots`, which a stage imports inside the function that needs
    it: no code of a result imports matplotlib."""
    for name, path in closure(CODE[stage], not_code(stage)).items():
        assert not libraries(path) & {"matplotlib", "pylab"}, name


def libraries(path: Path) -> set[str]:
    """Top-level names of what a module imports, anywhere in it."""
    if path.suffix != ".py":
        return set()
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_the_report_depends_on_its_plots():
    assert "realnet.plots.summary" in code_of("report")


def test_a_table_is_code_of_the_modules_that_name_it():
    table = "realnet/datasets/published_counts.yaml"
    assert table in closure("realnet.stages.data")
    assert table not in closure("realnet.datasets.images")


PACKAGE = {
    "__init__.py": "",
    "a.py": "from p import b\ndef f():\n    import p.sub.c\n",
    "b.py": "import os\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.unused\n",
    "sub/__init__.py": "",
    "sub/c.py": "from ..d import g\nfrom . import e\nfrom p.table import one\n",
    "sub/e.py": "",
    "d.py": "g = 1\n",
    "table/__init__.py": "from p.table.first import one\nfrom p.table.second import two\n",
    "table/first.py": "one = 1\n",
    "table/second.py": "two = 2\n",
    "whole.py": "import p.table\n",
    "unused.py": "",
}


@pytest.fixture
def package(tmp_path):
    for name, text in PACKAGE.items():
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text(text)
    return tmp_path


def test_closure_of_every_kind_of_import(package):
    found = set(closure("p.a", root=package))
    assert found == {"p.a", "p.b", "p.d", "p.sub.c", "p.sub.e", "p.table.first"}


def test_a_package_that_is_imported_whole_is_all_that_it_exports(package):
    assert set(closure("p.whole", root=package)) == {"p.whole", "p.table.first", "p.table.second"}


def test_code_of_the_packages_above_a_module_is_its_code(package):
    (package / "p/sub/__init__.py").write_text("limit = 3\n")
    assert "p.sub" in closure("p.a", root=package)


def test_closure_leaves_out_excluded_modules(package):
    assert set(closure("p.a", ("p.sub",), package)) == {"p.a", "p.b"}
    with pytest.raises(UserError, match=r"p\.none"):
        closure("p.none", root=package)


# --- the files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A checkout of only the code."""
    root = tmp_path_factory.mktemp("code")
    for name in ("realnet", "workflow"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_comments_and_layout_change_no_file(copy):
    refresh(copy)
    paths = [path for path in (copy / "realnet").rglob("*.py")]
    texts = [path.read_text() for path in paths]
    for path in paths:
        reword(path)
    try:
        assert refresh(copy, write=False) == []
    finally:
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)


def test_only_stages_that_have_a_changed_module_get_another_file(copy):
    refresh(copy)
    unchanged = {path.name: path.stat().st_mtime_ns for path in (copy / FOLDER).glob("*.json")}
    scheduler = copy / "realnet/diffusion/scheduler.py"
    text = scheduler.read_text()
    scheduler.write_text("# A comment.\n" + text)
    assert refresh(copy) == []
    scheduler.write_text(text + "\nEXTRA = 1\n")
    stale = refresh(copy)
    codes = {name: read_json(copy / FOLDER / f"{name}.json") for name in CODE}
    has_it = {name for name, code in codes.items() if "realnet.diffusion.scheduler" in code}
    assert {os.path.basename(path) for path in stale} == {f"{name}.json" for name in has_it}
    assert has_it == {"ddpm", "classifier", "sdas", "sdas_check", "sia", "sia_shard"}
    for name, mtime in unchanged.items():
        kept = (copy / FOLDER / name).stat().st_mtime_ns == mtime
        assert kept == (name.removesuffix(".json") not in has_it), name
    scheduler.write_text(text)
    refresh(copy)


def test_a_file_of_no_stage_is_removed(copy):
    refresh(copy)
    (copy / FOLDER / "gone.json").write_text("{}")
    assert refresh(copy, write=False) == [f"{FOLDER}/gone.json"]
    refresh(copy)
    assert not (copy / FOLDER / "gone.json").exists()


def test_a_module_that_cannot_be_parsed_is_named(copy):
    path = copy / "realnet/stages/ddpm.py"
    text = path.read_text()
    path.write_text("def f(:\n")
    with pytest.raises(UserError, match=r"stages/ddpm\.py: cannot be parsed"):
        refresh(copy)
    path.write_text(text)


# --- DVC -----------------------------------------------------------------------------------------

LAYERS = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("layer", [name for name in LAYERS if name != "code"])
def test_dvc_depends_on_the_same_files_as_snakemake(layer):
    names = {"report": ("report", "track", "presets"), "sia": ("sia",)}.get(
        layer, (layer, "presets")
    )
    assert {f"{FOLDER}/{name}.json" for name in names} == {
        dep for dep in LAYERS[layer]["deps"] if not dep.startswith(("results/", "data/"))
    }
