"""Verdicts: the rules on hand-made cases, then on folders of results."""

import csv
import io
import json
import math

import numpy as np
import pytest
from small_runs import METRICS, params, write_run

from realnet.config.params import PROJECT, load
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.metrics import holm, two_sided_p
from realnet.report.report import report
from realnet.tables import published
from realnet.tables.resamples import difference_samples, with_interval
from realnet.tables.runs import collect, matrix_of
from realnet.tables.verdict_rules import (
    FAILED,
    IN_KIND,
    INFORMATION,
    NOISE,
    NOT_RUN,
    REPRODUCED,
    RULES,
    TOLERANCE,
    judge_claim,
    judge_number,
    next_run,
    rules_table,
    seed_interval,
    with_seeds,
)
from realnet.tables.verdicts import verdicts

BTAD = {"btad": list(KNOWN_CATEGORIES["btad"])}
PAPER = {"image_auroc": 0.961, "pixel_auroc": 0.979, "pro": 0.9}


# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "images", "another", "expected"),
    [
        (96.1, None, None, REPRODUCED),
        (96.1 + TOLERANCE, None, None, REPRODUCED),  # the tolerance is included
        (96.1 - TOLERANCE, None, None, REPRODUCED),
        (96.1 - TOLERANCE - 0.01, None, None, FAILED),
        (97.0, (96.2, 97.9), None, FAILED),
        (97.0, (96.1, 97.9), None, REPRODUCED),  # and so are the ends of the interval
        (95.0, (94.0, 96.1), None, REPRODUCED),
        (95.0, (94.0, 96.0), (93.9, 96.1), NOISE),
        (95.0, (94.0, 96.0), (94.2, 95.8), FAILED),
        (95.0, None, (93.0, 97.0), NOISE),
        (None, None, None, NOT_RUN),
        (math.nan, None, (90.0, 99.0), NOT_RUN),
    ],
)
def test_verdict_of_a_number(ours, images, another, expected):
    assert judge_number(96.1, ours, images, another) == expected


@pytest.mark.parametrize(
    ("difference", "p", "expected"),
    [
        (1.0, 0.01, REPRODUCED),
        (1.0, 0.05, REPRODUCED),
        (1.0, 0.0501, NOISE),
        (-1.0, 0.05, FAILED),
        (-1.0, 0.2, NOISE),
        (0.0, 1.0, NOISE),
        (1.0, math.nan, NOT_RUN),
        (1.0, None, NOT_RUN),
        (None, 0.01, NOT_RUN),
        (math.nan, 0.01, NOT_RUN),
    ],
)
def test_verdict_of_a_claim(difference, p, expected):
    assert judge_claim(difference, p, 0.95) == expected


def test_every_verdict_has_a_rule_and_every_rule_a_verdict():
    judged = {verdict for kind, verdict in RULES}
    assert judged == {REPRODUCED, NOISE, FAILED, NOT_RUN}
    assert set(IN_KIND) == judged - {NOT_RUN}
    assert not set(IN_KIND.values()) & judged


def test_student_intervals_by_hand():
    """Of 1, 2, 3: mean 2, std 1, and Student's t with 2 degrees of freedom is 4.30265 at 97.5 %."""
    low, high = seed_interval([1.0, 2.0, 3.0], 0.95)
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    low, high = next_run([1.0, 2.0, 3.0], 0.95)
    assert high - 2 == pytest.approx(4.30265 * (4 / 3) ** 0.5, abs=1e-4)
    assert 2 - low == pytest.approx(high - 2)
    assert seed_interval([1.0], 0.95) is None and next_run([1.0], 0.95) is None


def test_the_noise_of_the_training_widens_samples_and_moves_nothing():
    samples = np.random.default_rng(0).normal(0.02, 0.01, 2000)
    assert with_seeds(samples, [0.02], "x") is samples  # one seed: unknown
    same = with_seeds(samples, [0.02, 0.02, 0.02], "x")
    assert np.array_equal(same, samples)
    wide = with_seeds(samples, [0.01, 0.02, 0.03], "x")
    # The sum of normal noise and Student's t.
    half = np.diff(np.quantile(wide, [0.025, 0.975]))[0] / 2
    assert half == pytest.approx(math.hypot(0.01 / 3**0.5 * 4.30, 0.0196), rel=0.15)
    assert np.median(wide) == pytest.approx(np.median(samples), abs=0.001)
    assert np.array_equal(wide, with_seeds(samples, [0.01, 0.02, 0.03], "x"))
    assert not np.array_equal(wide, with_seeds(samples, [0.01, 0.02, 0.03], "y"))


def test_the_document_shows_the_rules():
    text = (PROJECT / "docs/verdicts.md").read_text()
    assert rules_table() in text
    for label in (*IN_KIND.values(), INFORMATION):
        assert label in text


# --- numbers --------------------------------------------------------------------------------------


def judged(tmp_path, text, **wanted):
    found = collect(tmp_path, matrix_of(text), allow_missing=True)
    fields = wanted.items()
    return [v for v in verdicts(found) if all(getattr(v, k) == value for k, value in fields)]


def btad(tmp_path, change: float, seeds=(0,), std: float = 0.0, pixel: float = 0.0):
    """All of BTAD with official numbers that differ from the paper's by ``change``."""
    for category in BTAD["btad"]:
        for seed in seeds:
            official = {m: v + change + std * (seed - 1) for m, v in PAPER.items()}
            official["pixel_auroc"] += pixel
            write_run(tmp_path, "btad", category, seed, official=official)
    return judged(tmp_path, params(BTAD, ["base"], seeds), kind="number", dataset="btad")


def test_a_number_near_the_papers_is_reproduced(tmp_path):
    image, pixel = btad(tmp_path, 0.005)
    assert (image.metric, pixel.metric) == ("image_auroc", "pixel_auroc")
    assert image.verdict == pixel.verdict == REPRODUCED
    assert image.paper == 96.1 and image.certainty == "certain"
    assert image.ours == pytest.approx(96.6) and image.difference == pytest.approx(0.5)
    assert image.interval[0] < 96.6 < image.interval[1]
    assert "one seed" in image.note


def test_the_interval_of_a_number_is_that_of_the_exact_metric_shifted(tmp_path):
    image = btad(tmp_path, 0.005)[0]
    found = collect(tmp_path, matrix_of(params(BTAD, ["base"])))
    exact = with_interval(found, "btad", "base", "mean", "image_auroc")
    for end, of in zip(image.interval, exact.interval, strict=True):
        assert end - image.ours == pytest.approx(100 * (of - exact.value))


def test_a_number_far_from_the_papers_is_not(tmp_path):
    image, pixel = btad(tmp_path, 0.0, pixel=-0.2)
    assert image.verdict == REPRODUCED and pixel.verdict == FAILED
    assert pixel.difference == pytest.approx(-20)


def test_higher_than_the_paper_by_more_than_the_noise_is_noted(tmp_path):
    published_value = published.number("btad", "mean", "pixel_auroc").value
    for category in BTAD["btad"]:
        write_run(tmp_path, "btad", category, shift=6.0, official=dict.fromkeys(METRICS, 0.999))
    pixel = judged(tmp_path, params(BTAD, ["base"]), kind="number", dataset="btad")[1]
    assert pixel.ours > published_value + TOLERANCE
    assert pixel.verdict == FAILED and "ours is higher" in pixel.note


def test_within_what_one_more_training_may_give(tmp_path):
    """Three seeds 10 points apart: their mean is off by 20, within the noise of training."""
    for std, expected in ((0.1, NOISE), (0.001, FAILED)):
        pixel = btad(tmp_path, 0.0, seeds=(0, 1, 2), std=std, pixel=-0.2)[1]
        assert pixel.verdict == expected
        assert "one more training" in pixel.note and "one seed" not in pixel.note


def test_without_all_categories_there_is_no_verdict(tmp_path):
    for category in BTAD["btad"]:
        write_run(tmp_path, "btad", category, official=PAPER)
    found = judged(tmp_path, params({"btad": ["01", "02"]}, ["base"]), kind="number")
    assert {v.verdict for v in found} == {NOT_RUN}
    assert [v.note for v in found if v.dataset == "btad"] == ["only 2 of 3 categories"] * 2
    assert {v.note for v in found if v.dataset == "visa"} == {"dataset not in the experiment"}


def test_missing_runs_or_protocols_are_not_run(tmp_path):
    text = params(BTAD, ["base"])
    for category in BTAD["btad"][:2]:
        write_run(tmp_path, "btad", category, official=PAPER)
    assert {v.verdict for v in judged(tmp_path, text, dataset="btad", kind="number")} == {NOT_RUN}
    write_run(tmp_path, "btad", "03")  # evaluated without protocols
    (note,) = {v.note for v in judged(tmp_path, text, dataset="btad", kind="number")}
    assert note == "not evaluated under the paper's protocol"


def test_every_published_number_has_one_verdict(tmp_path):
    write_run(tmp_path, "own", "nut")
    found = judged(tmp_path, params({"own": ["nut"]}, ["base"]), kind="number")
    known = {
        (dataset, metric)
        for dataset in published.paper()["datasets"]
        for metric in METRICS
        if published.number(dataset, "mean", metric)
    }
    assert {(v.dataset, v.metric) for v in found} == known and len(found) == len(known)


# --- claims ---------------------------------------------------------------------------------------

MAX = "Ranking residuals by maximum and mean beats ranking them by their maximum alone."


def claimed(tmp_path, shift, seeds=(0,), datasets=BTAD, noise=0.3, **wanted):
    """The claim that base beats rrs_max, with base better by ``shift``."""
    for dataset, categories in datasets.items():
        for category in categories:
            for seed in seeds:
                where = (dataset, category, seed)
                write_run(tmp_path, *where, "base", shift=max(shift, 0), noise=noise)
                write_run(tmp_path, *where, "rrs_max", shift=max(-shift, 0), noise=noise)
    text = params(datasets, ["base", "rrs_max"], seeds, bootstrap=400)
    return judged(tmp_path, text, kind="claim", claim=MAX, **wanted)


@pytest.mark.parametrize(("shift", "expected"), [(1.5, REPRODUCED), (-1.5, FAILED), (0.0, NOISE)])
def test_a_direction_is_judged_by_the_paired_difference(tmp_path, shift, expected):
    found = claimed(tmp_path, shift)
    assert [(v.dataset, v.metric) for v in found] == [
        ("btad", "image_auroc"),
        ("btad", "pixel_auroc"),
    ]
    for verdict in found:
        assert verdict.verdict == expected
        assert verdict.variants == ("base", "rrs_max")
        assert verdict.paper is None and verdict.difference is None
        inside = verdict.interval[0] <= 0 <= verdict.interval[1]
        assert inside == (expected == NOISE)
        assert "one seed" in verdict.note


def test_p_values_are_corrected_over_the_claims_of_the_dataset(tmp_path):
    raw = {v.metric: v.p for v in claimed(tmp_path, 0.05)}
    for category in BTAD["btad"]:  # two more claims on BTAD, one of them with two equal metrics
        for variant, shift in (("rrs_mean", 0.0), ("two_blocks", 0.4)):
            write_run(tmp_path, "btad", category, variant=variant, shift=shift, noise=0.3)
    text = params(BTAD, ["base", "rrs_max", "rrs_mean", "two_blocks"], bootstrap=400)
    found = [v for v in judged(tmp_path, text, kind="claim") if v.p is not None]
    assert len(found) == 5
    assert all("5 claims tested here" in v.note for v in found)
    results = collect(tmp_path, matrix_of(text))
    alone = [
        two_sided_p(difference_samples(results, "btad", *v.variants, "mean", v.metric))
        for v in found
    ]
    assert [v.p for v in found] == pytest.approx(holm(alone))
    for v in found:
        if v.claim == MAX:
            assert v.p >= raw[v.metric]


def test_seeds_that_disagree_make_a_claim_within_noise(tmp_path):
    """Networks of each seed differ clearly, but in opposite directions, so seeds disagree."""
    for category in BTAD["btad"]:
        for seed, better in enumerate((2.0, 0.0, 0.6)):
            write_run(tmp_path, "btad", category, seed, "base", shift=better)
            write_run(tmp_path, "btad", category, seed, "rrs_max", shift=0.3)
    text = params(BTAD, ["base", "rrs_max"], (0, 1, 2), bootstrap=400)
    several = judged(tmp_path, text, claim=MAX, metric="pixel_auroc")[0]
    first = judged(
        tmp_path, params(BTAD, ["base", "rrs_max"], (0,), bootstrap=400), claim=MAX,
        metric="pixel_auroc",
    )[0]  # fmt: skip
    assert first.verdict == REPRODUCED and several.verdict == NOISE
    assert several.ours > 0 and several.interval[0] < 0
    assert "one seed" not in several.note


def test_the_papers_difference_is_printed_beside_ours(tmp_path):
    datasets = {"mpdd": list(KNOWN_CATEGORIES["mpdd"])}
    for category in datasets["mpdd"]:
        write_run(tmp_path, "mpdd", category, variant="sdas", shift=1.5)
        write_run(tmp_path, "mpdd", category, variant="dtd")
    text = params(datasets, ["sdas", "dtd"])
    (found,) = judged(tmp_path, text, kind="claim", verdict=REPRODUCED)
    assert found.paper == 2.88 and found.certainty == "medium"
    assert found.difference == pytest.approx(found.ours - 2.88)


def test_without_a_variant_sdas_the_base_is_it(tmp_path):
    """As in the preset `paper`, whose base is trained only on SDAS images."""
    datasets = {"mpdd": list(KNOWN_CATEGORIES["mpdd"])}
    for category in datasets["mpdd"]:
        write_run(tmp_path, "mpdd", category, variant="base", shift=1.5)
        write_run(tmp_path, "mpdd", category, variant="dtd")
    statement = "Training on SDAS images beats training on DTD textures."
    (found,) = judged(tmp_path, params(datasets, ["base", "dtd"]), claim=statement)
    assert found.variants == ("base", "dtd") and found.verdict == REPRODUCED
    text = params(
        datasets, ["base", "dtd"], declared=["sdas"]
    )  # `sdas` is declared, but was not run
    (found,) = judged(tmp_path, text, claim=statement)
    assert found.verdict == NOT_RUN and "variant sdas" in found.note


def test_own_data_get_in_kind_verdicts_with_their_own_labels(tmp_path):
    found = claimed(tmp_path, 1.5, datasets={"own": ["nut", "pcb"]}, dataset="own")
    assert [v.verdict for v in found] == ["in kind: holds"] * 2
    paper = claimed(tmp_path, 1.5, datasets={"own": ["nut", "pcb"]}, dataset="any")
    assert [v.verdict for v in paper] == [NOT_RUN] * 2
    labels = {
        v.verdict
        for shift in (0.0, -1.5)
        for v in claimed(tmp_path, shift, datasets={"own": ["nut", "pcb"]}, dataset="own")
    }
    assert labels == {"in kind: within seed noise", "in kind: does not hold"}


def test_in_kind_verdicts_name_substitute_variants(tmp_path):
    for variant, shift in (("base", 1.5), ("texture", 0.0)):
        write_run(tmp_path, "own", "nut", variant=variant, shift=shift)
    text = params({"own": ["nut"]}, ["base", "texture"], declared=["sdas", "dtd"])
    (found,) = judged(tmp_path, text, kind="claim", dataset="own")
    assert found.variants == ("base", "texture")
    assert "base stands in for sdas" in found.note and "texture stands in for dtd" in found.note
    # Not for verdicts on the paper.
    for category in KNOWN_CATEGORIES["mpdd"]:
        for variant in ("base", "texture"):
            write_run(tmp_path, "mpdd", category, variant=variant)
    text = params({"mpdd": "all"}, ["base", "texture"], declared=["sdas", "dtd"])
    assert {v.verdict for v in judged(tmp_path, text, kind="claim")} == {NOT_RUN}


def test_variants_outside_the_experiment_count_once_they_are_evaluated(tmp_path):
    """As `snakemake ablations` evaluates them; ignored if files are listed."""
    text = params({"own": ["nut"]}, ["base"], declared=["rrs_max"])
    listed = [write_run(tmp_path, "own", "nut") / "metrics.json"]
    assert not judged(tmp_path, text, dataset="own", kind="claim")
    write_run(tmp_path, "own", "nut", variant="rrs_max", shift=1.5)
    found = judged(tmp_path, text, dataset="own", kind="claim")
    assert {v.verdict for v in found} == {"in kind: does not hold"}
    results = collect(tmp_path, matrix_of(text), listed)
    assert not [v for v in verdicts(results) if v.dataset == "own" and v.kind == "claim"]


def test_without_statistics_of_images_a_claim_is_not_run(tmp_path):
    claimed(tmp_path, 1.5)
    for path in tmp_path.glob("evaluate/btad/02/*/base/per_image.npz"):
        path.unlink()
    text = params(BTAD, ["base", "rrs_max"])
    for found in judged(tmp_path, text, claim=MAX):
        assert found.verdict == NOT_RUN and "no per-image statistics" in found.note


def test_claims_name_existing_variants():
    for preset in ("demo", "paper"):
        declared = {*load(PROJECT / "params.yaml", {"preset": preset}).variants, "sdas"}
        for claim in published.paper()["claims"]:
            assert len(claim["variants"]) == 2
            assert {*claim["variants"], *claim["stand_ins"].values()} <= declared
            assert set(claim["stand_ins"]) <= set(claim["variants"])
            assert set(claim["metrics"]) <= set(METRICS)


# --- the choice on the test set, and the files ----------------------------------------------------


def test_the_effect_of_the_choice_has_an_interval_over_seeds(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path, "own", "nut", seed, official=PAPER)
    found = judged(tmp_path, params({"own": ["nut"]}, ["base"], (0, 1, 2)), kind="selection")
    assert {v.verdict for v in found} == {INFORMATION}
    exact, official = found[0], found[3]
    assert "exact" in exact.claim and "official" in official.claim
    # 1, 2 and 3 points by small_runs; the official ones always 0.2.
    assert exact.ours == pytest.approx(2) and official.ours == pytest.approx(0.2)
    assert exact.interval == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    one = judged(tmp_path, params({"own": ["nut"]}, ["base"], (0,)), kind="selection")
    assert one[0].interval is None and "one seed" in one[0].note


def test_files_have_one_line_for_each_verdict(tmp_path):
    text = params({"own": ["nut"], **BTAD}, ["base", "rrs_max"])
    claimed(tmp_path, 1.5, datasets={"own": ["nut"], **BTAD})
    report(tmp_path, text)
    table = tmp_path / "tables/verdicts.csv"
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    found = verdicts(collect(tmp_path, matrix_of(text)))
    assert [row["verdict"] for row in rows] == [v.verdict for v in found]
    for row, verdict in zip(rows, found, strict=True):
        assert row["claim"] == verdict.claim and row["kind"] == verdict.kind
        for key in ("paper", "ours", "p"):
            value = getattr(verdict, key)
            assert row[key] == ("" if value is None else f"{value:.6g}")
        assert (row["low"] == "") == (verdict.interval is None)
    written = (tmp_path / "tables/verdicts.md").read_text()
    for rule in RULES.values():
        assert rule in written
    assert "in kind: holds" in written and "rrs_max" in written
    assert (tmp_path / "tables/verdicts.tex").read_text().startswith("% Verdicts.")
    assert json.loads((tmp_path / "metrics.json").read_text())
