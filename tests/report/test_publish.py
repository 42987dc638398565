"""`realnet publish`: copied files, errors, and protection of other files."""

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realnet.core.errors import UserError
from realnet.core.io import write_json, write_png, write_text
from realnet.report import publish as publishing
from realnet.report.publish import publish


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    for name in ("main", "verdicts", "ablation", "protocols", "sdas_check", "ablation_rrs"):
        write_text(root / f"tables/{name}.md", f"## {name}\n\n| a |\n| --- |\n| 1 |\n")
        write_text(root / f"tables/{name}.csv", "a\n1\n")
        write_text(root / f"tables/{name}.tex", "tabular")
    for name in ("small", "large"):
        (root / "figures").mkdir(exist_ok=True)
        (root / f"figures/{name}.png").write_bytes(b"p" * (10 if name == "small" else 500))
        (root / f"figures/{name}.svg").write_text("<svg/>")
    figures = [
        {"name": n, "title": n.title(), "caption": "Shows.", "files": [f"{n}.svg", f"{n}.png"]}
        for n in ("small", "large")
    ]
    write_json(root / "figures/index.json", {"figures": figures, "skipped": []})
    write_text(root / "report.html", "<!doctype html>")
    write_json(root / "metrics.json", {})
    record = {
        "git_commit": "abc" * 14,
        "device": "cpu",
        "finished": "2026-01-02T03",
        "wall_s": 60.0,
    }
    write_json(root / "evaluate/demo/nut/seed0/base/stage.json", record)
    write_json(root / "realnet/demo/nut/seed0/base/stage.json", record)
    return root


def test_report_tables_and_figures_are_shown_on_one_page(results: Path, monkeypatch):
    monkeypatch.setattr(publishing, "MAX_FIGURE", 100)
    out = results / "published"
    assert publish(results, out) == ["large.png"]
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert {
        "report.html",
        "tables/main.csv",
        "tables/ablation_rrs.md",
        "figures/small.png",
    } <= files
    assert not {"figures/large.png", "tables/main.tex"} & files
    page = (out / "README.md").read_text()
    assert "![Small](figures/small.png)" in page
    assert "large.png" not in page
    assert "## ablation_rrs" in page
    assert "1 evaluations, the last one finished 2026-01-02, on cpu; code at abcabcabcabc" in page


def test_publishing_again_removes_old_files(results: Path):
    out = results / "published"
    publish(results, out)
    (results / "tables/ablation_rrs.md").unlink()
    publish(results, out)
    assert not (out / "tables/ablation_rrs.md").exists()
    assert "ablation_rrs" not in (out / "README.md").read_text()


def test_a_folder_with_other_files_is_not_touched(results: Path, tmp_path: Path):
    mine = tmp_path / "mine"
    write_text(mine / "README.md", "# Mine\n")
    with pytest.raises(UserError, match="not made by"):
        publish(results, mine)
    assert (mine / "README.md").read_text() == "# Mine\n"


def test_without_a_report_or_too_large_nothing_is_written(results: Path, monkeypatch):
    monkeypatch.setattr(publishing, "MAX_TOTAL", 100)
    with pytest.raises(UserError, match="MB to publish"):
        publish(results, results / "published")
    (results / "report.html").unlink()
    with pytest.raises(UserError, match="make the report first"):
        publish(results, results / "published")
    assert not (results / "published").exists()


def test_pictures_are_made_smaller_also_inside_the_page(results: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    write_png(results / "figures/small.png", pixels)
    large = (results / "figures/small.png").read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(large).decode()
    write_text(results / "report.html", f"<img src='{uri}'><p>text</p>")
    publish(results, results / "published")
    copied = (results / "published/figures/small.png").read_bytes()
    assert len(copied) < len(large) / 2
    page = (results / "published/report.html").read_text()
    assert base64.b64encode(copied).decode() in page
    assert page.endswith("'><p>text</p>")
    again = np.asarray(Image.open(results / "published/figures/small.png").convert("RGB"))
    assert again.shape == pixels.shape
    assert np.abs(again.astype(int) - pixels).mean() < 30
