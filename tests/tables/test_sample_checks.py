"""The table of diffusion models: one row per check, warnings and what was not checked below it."""

import json

import pytest
from result_files import matrix, rows_of, write_results

from realnet.core.errors import UserError
from realnet.report.report import report

MATRIX = matrix(datasets={"btad": ["01", "02"]}, variants=["base", "sdas"])


def write_check(results, category, seed, variant="base", **values):
    folder = results / f"sdas_check/btad/{category}/seed{seed}/{variant}"
    folder.mkdir(parents=True)
    measured = {"distance": 34.24, "halves": 0.312, "ratio": 109.74}
    found = {
        "images": 32,
        "warnings": [],
        "result": "ok",
        "distances": dict.fromkeys(("grey_levels", "spectrum", "features"), measured),
    }
    (folder / "check.json").write_text(json.dumps(found | values))


def made(results, params=MATRIX):
    write_results(results, {"btad": ["01", "02"]})
    report(results, params, allow_missing=True)
    return rows_of(results, "sdas_check")


def test_one_row_per_check_with_its_warnings_below(tmp_path):
    warning = "btad/01: s = 0 samples are not like normal images: they are darker"
    write_check(tmp_path, "01", 0, result="warning", warnings=[warning])
    write_check(tmp_path, "01", 0, "sdas")
    unchecked = {"result": "not checked", "reason": "sdas_check.images is 0", "images": 0}
    write_check(tmp_path, "02", 1, distances=None, **unchecked)
    path = tmp_path / "sdas_check/btad/02/seed1/base/check.json"
    values = json.loads(path.read_text())
    del values["distances"]
    path.write_text(json.dumps(values))
    rows = made(tmp_path)
    places = [(row["category"], row["seed"], row["variant"], row["result"]) for row in rows]
    assert places == [
        ("01", "0", "base", "warning"),
        ("01", "0", "sdas", "ok"),
        ("02", "1", "base", "not checked"),
    ]
    assert rows[0]["grey_levels"] == "34.2" and rows[0]["grey_levels_halves"] == "0.31"
    assert rows[0]["grey_levels_ratio"] == "109.7" and rows[2]["grey_levels"] == ""
    for name in ("tables/sdas_check.md", "tables/sdas_check.tex", "report.html"):
        text = (tmp_path / name).read_text()
        assert f"Warning (base, seed 0): {warning}." in text, name
        assert "sdas_check.images is 0" in text.replace("\\_", "_"), name


def test_without_checks_the_table_says_so(tmp_path):
    assert made(tmp_path) == []
    text = (tmp_path / "tables/sdas_check.md").read_text()
    assert "| Dataset |" in text and "No diffusion model was checked" in text
    assert "No diffusion model was checked" in (tmp_path / "report.html").read_text()


def test_a_malformed_check_is_one_line(tmp_path):
    write_check(tmp_path, "01", 0, distances={})
    with pytest.raises(UserError, match=r"01/seed0/base/check.json: not the result of a check"):
        made(tmp_path)
