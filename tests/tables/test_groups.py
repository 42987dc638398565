"""Groups of variants: the table of a group, and checks before it is built."""

import csv
import importlib.util
import json

import pytest
from typer.testing import CliRunner

from realnet.cli import app
from realnet.config.params import PROJECT, load
from realnet.core.errors import UserError
from realnet.tables.groups import report_group

SPEC = importlib.util.spec_from_file_location("dag", PROJECT / "workflow/scripts/dag.py")
dag = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(dag)

CATEGORIES = ["bolt", "nut"]
# pixel AUROC of each category.
FOUND = {"base": (0.8, 0.9), "deep": (0.85, 0.95), "plain": (0.5, 0.6), "idle": (0.1, 0.2)}


def sections(**changes):
    """Four variants: two are the group, one shares the evaluations of base."""
    overlay = {"training": {"lr": 1.0}}
    values = {
        "experiment": {
            "name": "test",
            "datasets": {"mine": CATEGORIES},
            "seeds": [0],
            "variants": ["base", "idle"],
        },
        "variants": {"base": {}, "deep": overlay, "plain": overlay, "idle": overlay},
        "report": load().report.model_dump(),
        "groups": {"depth": {"title": "How deep", "variants": ["deep", "base", "plain"]}},
    }
    return json.dumps(values | changes)


@pytest.fixture
def results(tmp_path):
    for variant, values in FOUND.items():
        for category, value in zip(CATEGORIES, values, strict=True):
            folder = tmp_path / "evaluate/mine" / category / "seed0" / variant
            folder.mkdir(parents=True)
            identity = {"dataset": "mine", "category": category, "seed": 0, "variant": variant}
            metrics = {"image_auroc": value, "pixel_auroc": value, "pro": value}
            text = json.dumps(identity | metrics | {"has_masks": True})
            (folder / "metrics.json").write_text(text)
    return tmp_path


def rows(results):
    with (results / "tables/ablation_depth.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_variants_of_the_group_the_first_as_reference(results):
    report_group(results, sections(), "depth")
    found = {row["variant"]: row for row in rows(results)}
    assert list(found) == ["deep", "base", "plain"]
    assert float(found["deep"]["pixel_auroc"]) == pytest.approx(90.0)
    delta = next(name for name in found["base"] if name.startswith("delta_pixel_auroc"))
    assert not found["deep"][delta]
    assert float(found["base"][delta]) == pytest.approx(-5.0)
    assert float(found["plain"][delta]) == pytest.approx(-35.0)
    assert "How deep" in (results / "tables/ablation_depth.md").read_text()
    assert sorted(p.name for p in (results / "tables").iterdir()) == [
        f"ablation_depth.{suffix}" for suffix in ("csv", "md", "tex")
    ]


def test_a_missing_evaluation_is_named_or_left_out(results):
    path = results / "evaluate/mine/nut/seed0/plain/metrics.json"
    path.unlink()
    with pytest.raises(UserError, match="nut/seed0/plain"):
        report_group(results, sections(), "depth")
    assert not (results / "tables").exists()
    report_group(results, sections(), "depth", allow_missing=True)
    assert not next(row for row in rows(results) if row["variant"] == "plain")["pixel_auroc"]
    assert next(row for row in rows(results) if row["variant"] == "deep")["pixel_auroc"]


@pytest.mark.parametrize(
    ("changes", "group", "message"),
    [
        ({}, "breadth", "--group breadth: no such group of variants; params.yaml has: depth"),
        ({"groups": None}, "depth", "section groups is missing"),
        ({"groups": {"depth": {"title": "x"}}}, "depth", "groups.depth"),
        ({"groups": {"depth": {"title": "x", "variants": ["odd"]}}}, "depth", "'odd'"),
    ],
)
def test_mistakes_are_one_line(results, changes, group, message):
    with pytest.raises(UserError) as error:
        report_group(results, sections(**changes), group)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_command_writes_only_that_table(results):
    command = ["report", "--results", str(results), "--params", sections(), "--group", "depth"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert rows(results) and not (results / "metrics.json").exists()


# --- checks of the workflow -----------------------------------------------------------------------


def test_files_are_checked_for_the_selected_variants_only(tmp_path, monkeypatch):
    monkeypatch.setattr(dag, "PROJECT", tmp_path)
    params, cells = load(), {"demo": ("hex_nut",)}
    assert params.variants["dtd"]["synthesis"]["dtd_root"] == "data/raw/dtd"
    dag.check_files(params, cells)  # the variants of the matrix need no such file
    dag.check_files(params, cells, ["base", "cutpaste", "nsa"])
    with pytest.raises(UserError, match=r"synthesis\.dtd_root: data/raw/dtd: no such folder"):
        dag.check_files(params, cells, ["base", "dtd"])
    (tmp_path / "data/raw/dtd").mkdir(parents=True)
    dag.check_files(params, cells, ["base", "dtd"])


def test_guidance_is_checked_for_the_selected_variants_only():
    guided = {"guided": {"sdas": {"guidance_scale": 1.0}}}
    params = load(overrides={"ddpm": {"scope": "dataset"}, "variants": guided})
    one, two = {"demo": ("hex_nut",)}, {"demo": ("hex_nut", "woven_fabric")}
    dag.check_guidance(params, one, ["base"])
    dag.check_guidance(params, two, ["base", "guided"])
    with pytest.raises(
        UserError, match=r"variant guided, but demo has only one category \(hex_nut\)"
    ):
        dag.check_guidance(params, one, ["base", "guided"])


def test_no_dataset_has_the_name_of_a_groups_table():
    params = load(overrides={"experiment": {"datasets": {"ablation_afs": "all"}}})
    with pytest.raises(UserError, match="ablation_afs is the name of a table"):
        dag.matrix(params)
