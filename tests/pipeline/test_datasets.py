"""The whole DAG at smoke scale on each published dataset and two own ones."""

import json
import shutil

import pytest
from conftest import copy_project
from trees import make_tree

from realnet.core.io import read_csv, read_json

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

PUBLISHED = {"mvtec_ad": "toothbrush", "mpdd": "connector", "btad": "03", "visa": "cashew"}
OWN = {"bolts": "m8", "plates": "plates"}
LAYOUTS = {
    "plates": {
        "train": "fine/*.png",
        "test_good": "checked/ok/*.png",
        "test_defective": "checked/{defect}/*.png",
    }
}
DATASETS = {name: [category] for name, category in (PUBLISHED | OWN).items()}
CONFIG = [
    "experiment=" + json.dumps({"datasets": DATASETS, "variants": ["base"]}),
    "prepare=" + json.dumps({"layouts": LAYOUTS}),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A copy of the project with one category of each dataset, after `snakemake`."""
    copy = copy_project(tmp_path_factory.mktemp("datasets"))
    raw = copy.root / "data/raw"
    for dataset, category in PUBLISHED.items():
        make_tree(dataset, raw / dataset, [category])
    # Own data: one dataset in MVTec-AD layout, one without masks in a custom layout.
    made = make_tree("mvtec_ad", copy.root / "data/made", ["metal_nut"], counts=6)
    shutil.copytree(made / "metal_nut", raw / "bolts/m8")
    for source, target in {
        "train/good": "fine",
        "test/good": "checked/ok",
        "test/bent": "checked/bent",
        "test/color": "checked/stain",
    }.items():
        shutil.copytree(made / "metal_nut" / source, raw / "plates" / target)
    copy.snakemake("--config", *CONFIG)
    return copy


@pytest.mark.parametrize("dataset", PUBLISHED | OWN)
def test_every_dataset_is_evaluated(run, dataset):
    category = DATASETS[dataset][0]
    metrics = read_json(run.root / f"results/evaluate/{dataset}/{category}/seed0/base/metrics.json")
    summary = read_json(run.root / f"results/data/{dataset}/{category}/summary.json")
    counts = metrics["counts"]
    assert counts["test_normal"] == summary["test_good"]
    assert counts["test_anomalous"] == summary["test_defective"]
    assert 0 <= metrics["image_auroc"] <= 1
    assert summary["differs_from_published"] == ([] if dataset in PUBLISHED else None)
    without_masks = dataset == "plates"
    assert (metrics["pixel_auroc"] is None) == (metrics["pro"] is None) == without_masks


def test_every_dataset_has_its_table(run):
    tables = run.root / "results/tables"
    for dataset, (category,) in DATASETS.items():
        text = (tables / f"{dataset}.md").read_text()
        assert category in text
        assert ("masks" in text) == (dataset == "plates")
    rows = read_csv(tables / "main.csv")
    assert {row["dataset"] for row in rows} >= set(DATASETS)


def test_one_run_is_planned_by_its_path(run):
    target = "results/evaluate/visa/cashew/seed0/base/metrics.json"
    (run.root / target).unlink()
    assert run.planned("--config", *CONFIG, "--", target) == {"evaluate_detector": 1}
    run.snakemake("--config", *CONFIG)


def test_data_verify_accepts_every_dataset(run):
    names = [f"{dataset}/{category}" for dataset, category in PUBLISHED.items()]
    output = run.run("realnet", "data", "verify", *names).stdout
    assert "error" in output.lower()  # the column, with zeros
    victim = next((run.root / "data/raw/btad/03/test/ko").glob("*.bmp"))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-40])
    try:
        done = run.run("realnet", "data", "verify", "btad/03", ok=False)
        assert done.returncode == 1 and victim.name in done.stdout
    finally:
        victim.write_bytes(whole)


def test_a_missing_image_stops_its_category_and_is_counted(run):
    lost = run.root / "data/raw/mpdd/connector/train/good"
    victim = sorted(lost.iterdir())[-1]
    kept = victim.read_bytes()
    victim.unlink()
    try:
        output = run.snakemake("--config", *CONFIG, "--", "data", ok=False)
        assert "train/good 127 instead of 128" in output and "allow_partial" in output
        partial = "prepare=" + json.dumps({"layouts": LAYOUTS, "allow_partial": True})
        run.snakemake("--config", CONFIG[0], partial, "--", "data")
        summary = read_json(run.root / "results/data/mpdd/connector/summary.json")
        assert summary["differs_from_published"] == ["train/good 127 instead of 128"]
    finally:
        victim.write_bytes(kept)
