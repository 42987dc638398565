"""Counted costs against the published ones; the measurement in a real process."""

import json

import pytest
from typer.testing import CliRunner

from realnet.cli import app
from realnet.config.params import PROJECT, load
from realnet.core.errors import UserError
from realnet.report.network_cost import cost, count_parts


def test_the_paper_preset_costs_what_the_official_model_does():
    parts = {row["part"]: row for row in count_parts(load(overrides={"preset": "paper"}))}
    whole = parts["RealNet, whole"]
    assert round(whole["parameters"] / 1e6, 1) == 590.9
    assert round(whole["macs"] / 1e9, 1) == 114.6
    macs = [round(row["macs"] / 1e9, 1) for name, row in parts.items() if "stage" in name]
    assert macs == [34.9, 32.2, 8.0, 0.5]
    assert round(parts["RRS and discriminator"]["macs"] / 1e9, 1) == 24.1
    assert parts["DDPM"]["parameters"] == 552_829_446


@pytest.mark.slow
def test_measured_tasks_and_files(tmp_path):
    report = cost(["smoke"], PROJECT / "params.yaml", tmp_path, [2], 1, "cpu")
    rows = report["presets"]["smoke"]["measured"]
    assert {row["task"] for row in rows} == {
        *("realnet_inference", "realnet_training", "ddpm_denoising", "ddpm_training"),
    }
    for row in rows:
        assert row["device"] == "cpu" and row["precision"] == "float32"
        assert row["images_per_s"] == pytest.approx(2 / row["seconds"])
        assert row["peak_memory_mb"] > 50
    assert json.loads((tmp_path / "cost.json").read_text()) == report
    assert "| DDPM: one denoising step | 2 |" in (tmp_path / "cost.md").read_text()


def test_a_wrong_preset_or_device_is_one_line():
    done = CliRunner().invoke(app, ["cost", "--preset", "papper", "--count-only"])
    assert isinstance(done.exception, UserError) and "papper" in str(done.exception)
    with pytest.raises(UserError, match=r"compute\.device"):
        cost(["smoke"], PROJECT / "params.yaml", None, [1], 1, "tpu")
