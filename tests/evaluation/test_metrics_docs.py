"""The pages on metrics: their numbers come from the script, and their examples work."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from realnet.cli.results import app
from realnet.metrics import pixel_metrics

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "metric_pitfalls", PROJECT / "benchmarks/metric_pitfalls.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(page: str, name: str) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"<!-- table: {name} -->\n\n(.*?)\n\n<!-- end -->", text, re.DOTALL)
    return found


def assert_same(page: str, fresh: str) -> None:
    """Equal words, and numbers that differ by at most one in their last digit (integers by 0.1 %):
    Gaussian filters and sums of floats round differently on other processors."""
    assert NUMBER.sub("#", page) == NUMBER.sub("#", fresh)
    for old, new in zip(NUMBER.findall(page), NUMBER.findall(fresh), strict=True):
        values = [float(text.replace(",", "")) for text in (old, new)]
        digits = len(old.partition(".")[2])
        allowed = 1.5 * 10**-digits if digits else 1e-3 * abs(values[0])
        assert abs(values[0] - values[1]) <= allowed, (old, new)


NAMES = ("linear", "limit", "annulus", "connectivity", "flip", "sigmoid", "f1", "storage",
         "labels", "precision", "pooled", "summation")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_numbers_of_the_script(script, name):
    assert_same(shown("metrics_pitfalls.md", name), script.markdown(script.TABLES[name]()))


def test_every_table_is_on_the_page(script):
    text = (DOCS / "metrics_pitfalls.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- table: (\w+) -->", text)) == set(script.TABLES) == set(NAMES)


def test_the_comparison_detects_changed_numbers_and_words():
    assert_same("| a | 0.1234 |", "| a | 0.1235 |")
    for other in ("| a | 0.1236 |", "| b | 0.1234 |", "| a | 0.1234 | 1 |"):
        with pytest.raises((AssertionError, ValueError)):
            assert_same("| a | 0.1234 |", other)


def test_the_example_of_the_command(script):
    assert_same(shown("metrics.md", "example"), f"```\n{script.example()}\n```")


def test_the_claims_of_the_page_hold(script):
    """The sentences around the tables, in numbers."""
    linear = {row[0]: row[1:] for row in script.linear()[1:]}
    assert abs(float(linear["exact (ranks)"][-1])) <= 2e-4
    assert float(linear["200 linear thresholds, stretched"][-1]) < -0.12
    assert float(script.annulus()[1][2]) > 1 > float(script.annulus()[1][1])
    last_rates = [float(row[1]) for row in script.limit()[1:]]
    assert min(last_rates) < 0.1
    assert max(last_rates) > 0.29
    logits, _, confident = script.maps()
    assert (np.diff(confident.ravel()[np.argsort(logits.ravel())]) >= 0).all()


def test_the_worked_example_of_the_rank_form():
    scores = np.array([[[1, 2, 3, 4, 4, 2.5]]])
    mask = np.array([[[0, 0, 0, 0, 1, 1]]])
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    found = pixel_metrics(scores, mask)
    assert f"AUROC = (0.875 + 0.5) / 2 = {found['pixel_auroc']:g}" in text
    assert f"AU-PRO up to 0.3 = (0.175 + 0) / 2 / 0.3 = {found['pro']:.4f}" in text


def test_the_options_in_the_examples_exist():
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    used = set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", text))
    (command,) = [c.callback for c in app.registered_commands if c.callback.__name__ == "metrics"]
    known = {"--" + name.replace("_", "-") for name in command.__annotations__}
    assert used <= known | {"--write"}
    assert {"--compat", "--resize-masks", "--suffix"} <= used


@pytest.mark.parametrize("page", ["metrics.md", "metrics_pitfalls.md"])
def test_links_have_targets(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        linked = DOCS / file if file else DOCS / page
        assert linked.is_file(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, (target, slugs)
