"""One target per group of variants: it runs only the missing jobs of its variants."""

import csv

import pytest

pytestmark = pytest.mark.pipeline


def test_a_group_is_one_target_with_a_table(finished):
    runs = 2  # categories, one seed
    planned = finished.planned("--", "ablation_score")
    new = {"train_realnet": runs, "evaluate_detector": runs, "make_ablation": 1}
    assert planned == new | {"ablation_score": 1}
    finished.snakemake("--", "ablation_score")
    with (finished.root / "results/tables/ablation_score.csv").open() as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["base", "score_max"]
    assert finished.planned("--", "ablation_score") == {}
    assert "make_report" not in finished.planned("--", "ablation_synthesis")


def test_groups_are_built_only_on_request(finished):
    planned = finished.planned("--", "ablations")
    assert planned["make_ablation"] >= 1 and planned["ablations"] == 1
    assert "make_ablation" not in finished.planned("--forceall")


def test_requirements_of_a_variant_are_checked_only_where_it_is_requested(finished):
    group = "groups={textures: {title: Textures, variants: [base, dtd]}}"
    dtd = "variants={dtd: {synthesis: {sources: {normal: 0.5, dtd: 0.5}, dtd_root: nowhere}}}"
    assert finished.planned("--config", group, dtd, "--", "evaluate") == {}
    options = "--dry-run", "--config", group, dtd, "--", "ablation_textures"
    output = finished.snakemake(*options, ok=False)
    assert "synthesis.dtd_root: nowhere: no such folder" in output and "Traceback" not in output
    output = finished.snakemake("--dry-run", "results/tables/ablation_odd.csv", ok=False)
    assert "no group of variants 'odd'" in output and "Traceback" not in output
