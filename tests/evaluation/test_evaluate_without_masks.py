"""An own dataset without masks: every stage runs, and only image metrics are defined."""

import shutil

import numpy as np
import pytest
from builders import evaluate, make_backbone, params_for, prepare, select_features, train_realnet
from sklearn.metrics import roc_auc_score

from realnet.config.params import load
from realnet.core.io import read_csv, read_json
from realnet.datasets.demo.demo_dataset import make_demo
from realnet.datasets.items import read_manifest
from realnet.evaluation.assemble import COUNTS, PIXEL_METRICS
from realnet.evaluation.maps import Request, measure
from realnet.metrics import pixel_metrics
from realnet.plots.qualitative import ScoredImages, qualitative
from realnet.report.report import report
from realnet.tracking import cell_content

RUN = ("mine", "nut", 0)


def stage(name):
    return params_for(name, "texture")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`bare` has no masks, `full` has the same images with masks; trained on `bare`."""
    root = tmp_path_factory.mktemp("bare")
    make_demo(load(overrides={"preset": "smoke"}).data.demo, root / "demo")
    for name in ("bare", "full"):
        shutil.copytree(root / "demo/hex_nut", root / name / "raw/nut")
    shutil.rmtree(root / "bare/raw/nut/ground_truth")
    for name in ("bare", "full"):
        folder = root / name
        prepare("mine", "nut", folder / "raw", folder / "data")
    manifest = root / "bare/data/manifest.csv"
    make_backbone(stage("backbone"), root / "backbone")
    select_features(stage("afs"), manifest, root / "backbone", None, *RUN, root / "afs")
    inputs = manifest, root / "backbone", root / "afs", None
    train_realnet(stage("realnet"), *inputs, *RUN, root / "realnet")
    for name in ("bare", "full"):
        where = root / name / "results/evaluate/mine/nut/seed0/base"
        manifest = root / name / "data/manifest.csv"
        evaluate(stage("evaluate"), manifest, root / "realnet", *RUN, "base", where)
    return root


def results(made, name):
    return made / name / "results/evaluate/mine/nut/seed0/base"


def test_image_metrics_are_defined_and_pixel_metrics_are_null(made):
    bare, full = (read_json(results(made, name) / "metrics.json") for name in ("bare", "full"))
    assert (bare["has_masks"], full["has_masks"]) == (False, True)
    names = PIXEL_METRICS + COUNTS
    assert [bare[name] for name in names] == [None] * len(names)
    assert all(full[name] is not None for name in names)
    assert bare["image_auroc"] == full["image_auroc"] and bare["image_ap"] == full["image_ap"]
    scored = read_csv(results(made, "bare") / "images.csv")
    labels = [int(row["label"]) for row in scored]
    assert bare["counts"]["test_anomalous"] == sum(labels) > 0
    auroc = roc_auc_score(labels, [float(row["score"]) for row in scored])
    assert bare["image_auroc"] == pytest.approx(auroc, abs=1e-9)


def test_all_pixel_metrics_are_null():
    mask = np.arange(16).reshape(1, 4, 4) > 12
    assert {*pixel_metrics(mask.astype(np.float32), mask), "aupimo"} == {*PIXEL_METRICS, *COUNTS}


def test_scores_npz_has_labels_and_has_masks_is_false(made, capsys):
    with np.load(results(made, "bare") / "scores.npz") as bare:
        items = read_manifest(made / "bare/data/manifest.csv")
        labels = [item.label for item in items if item.split == "test"]
        assert not bare["has_masks"] and not bare["masks"].any()
        assert bare["labels"].tolist() == labels
        with np.load(results(made, "full") / "scores.npz") as full:
            assert full["has_masks"] and full["masks"].any()
            np.testing.assert_array_equal(bare["margins"], full["margins"])
    measured = measure(Request(results(made, "bare") / "scores.npz"))
    written = read_json(results(made, "bare") / "metrics.json")
    assert measured["image_auroc"] == written["image_auroc"]
    assert measured["pixel_auroc"] is None and measured["pro"] is None
    assert "undefined" in capsys.readouterr().err


def test_the_figure_orders_by_image_score_and_has_no_ground_truth():
    scores = np.array([0.1, 0.9, 0.2, 0.8, 0.7])
    labels = np.array([0, 1, 1, 1, 0])
    margins = np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32)
    images = np.zeros((5, 8, 8, 3), np.uint8)
    figure = qualitative(ScoredImages(images, None, margins, scores, labels, list("abcde")), 1)
    words = [text.get_text() for text in figure.texts]
    assert any("no masks" in word and "image score" in word for word in words)
    assert not any("sep." in word or "ground truth" in word for word in words)
    assert [word for word in words if len(word) == 1] == ["b", "d", "c", "e"]
    (sheet,) = (axes for axes in figure.axes if axes.images)
    assert len(sheet.images) == 2 * 4  # best, median, worst; nearest false alarm


def test_tables_and_overview_note_missing_masks(made, capsys):
    params = (
        '{"experiment": {"name": "t", "datasets": {"mine": ["nut"]}, "seeds": [0],'
        ' "variants": ["base"]}, "variants": {"base": {}},'
        ' "report": {"digits": 1, "bootstrap": 100, "level": 0.95}}'
    )
    report(made / "bare/results", params)
    table = (made / "bare/results/tables/mine.md").read_text()
    assert "n/a" in table and "no masks" in table and "mine/nut" in table
    assert (made / "bare/results/figures/overview.png").stat().st_size > 500
    assert not capsys.readouterr().err
    values = read_json(made / "bare/results/metrics.json")["mine"]["base"]["mean"]
    assert values["image_auroc"] is not None
    assert values["pixel_auroc"] is None and values["pro"] is None
    report(made / "full/results", params)
    assert "no masks" not in (made / "full/results/tables/mine.md").read_text()


def test_a_tracked_run_omits_undefined_metrics(made):
    identity = {"dataset": "mine", "category": "nut", "seed": 0, "variant": "base"}
    metrics = cell_content(results(made, "bare"), "key", identity).metrics
    assert "image_auroc" in metrics
    assert not {"pro", "pixel_auroc", "regions", "has_masks"} & set(metrics)
