"""Intervals, paired differences and p-values in the tables, against a bootstrap in the test."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from small_runs import METRICS, params, write_run

from realnet.core.io import write_json
from realnet.evaluation.stored import load_per_image
from realnet.metrics import (
    bootstrap,
    holm,
    interval,
    mean_samples,
    two_sided_p,
)
from realnet.tables import resamples, result_tables
from realnet.tables.differences import Difference, paired_differences
from realnet.tables.formats import (
    Column,
    Delta,
    Table,
    ranks,
    to_csv,
    to_latex,
    to_markdown,
)
from realnet.tables.resamples import lacking, samples, with_interval
from realnet.tables.runs import Results, Stat, collect, matrix_of

OWN = {"own": ["nut", "pcb"]}
SEEDS, VARIANTS = (0, 1), ["base", "near", "far"]
SHIFTS = {"base": 0.5, "near": 0.52, "far": 0.0}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    for category in OWN["own"]:
        for seed in SEEDS:
            for variant in VARIANTS:
                where = ("own", category, seed, variant)
                write_run(root, *where, shift=SHIFTS[variant], noise=0.3)
    return root


def gather(results: Path, **changes) -> Results:
    given = {"datasets": OWN, "variants": VARIANTS, "seeds": SEEDS} | changes
    return collect(results, matrix_of(params(**given)), allow_missing=True)


def stats(results: Path, category: str, variant: str):
    folder = results / "evaluate/own" / category
    return [load_per_image(folder / f"seed{k}/{variant}/per_image.npz") for k in SEEDS]


# --- samples --------------------------------------------------------------------------------------


def test_the_interval_of_a_category_is_that_of_the_mean_over_seeds(results):
    found = gather(results)
    for metric in METRICS:
        both = [bootstrap(s, metric, 200, name="nut") for s in stats(results, "nut", "base")]
        expected = interval(np.mean(both, axis=0))
        stat = with_interval(found, "own", "base", "nut", metric)
        assert stat.interval == pytest.approx(expected, abs=1e-12)
        assert stat.interval[0] < stat.value < stat.interval[1]
        assert (stat.value, stat.std) == (
            found.stat("own", "base", "nut", metric).value,
            found.stat("own", "base", "nut", metric).std,
        )


def test_the_interval_of_a_mean_is_that_of_mean_samples(results):
    found = gather(results)
    groups = {category: stats(results, category, "far") for category in OWN["own"]}
    for metric in METRICS:
        expected = interval(mean_samples(groups, metric, 200))
        assert with_interval(found, "own", "far", "mean", metric).interval == pytest.approx(
            expected
        )


def test_one_seed_has_the_interval_that_its_evaluation_wrote(results):
    """The same resamples as realnet.evaluation.details, whose seed is the category's name."""
    found = gather(results, seeds=(0,), bootstrap=1000)
    stat = with_interval(found, "own", "base", "nut", "pro")
    expected = bootstrap(stats(results, "nut", "base")[0], "pro", 1000, name="nut")
    assert stat.interval == interval(expected) and stat.std is None


def test_means_over_datasets_count_each_once(tmp_path):
    datasets = {"own": ["nut", "pcb"], "other": ["cap"]}
    for dataset, categories in datasets.items():
        for category in categories:
            write_run(tmp_path, dataset, category)
    found = gather(tmp_path, datasets=datasets, variants=["base"], seeds=(0,))
    means = [samples(found, dataset, "base", "mean", "pro") for dataset in datasets]
    assert np.array_equal(samples(found, None, "base", "mean", "pro"), np.mean(means, axis=0))
    overall = with_interval(found, None, "base", "mean", "pro")
    assert overall.value == found.overall("base", "pro").value and overall.interval


def test_files_are_read_once_for_all_metrics(results, monkeypatch):
    read = []
    monkeypatch.setattr(
        resamples, "load_per_image", lambda path: read.append(path) or load_per_image(path)
    )
    found = gather(results)
    result_tables.ablation_table(found)
    result_tables.per_category_table(found)
    assert len(read) == len(set(read)) == 12


def test_no_interval_without_statistics(results, tmp_path):
    assert with_interval(gather(results, bootstrap=0), "own", "base", "nut", "pro").interval is None
    found = gather(results)
    assert (
        samples(found, "own", "base", "nut", "strict_best/pro") is None
    )  # no per-image statistics
    missing = gather(results, seeds=(0, 1, 7))  # a mean over the existing seeds
    assert with_interval(missing, "own", "base", "nut", "pro").interval
    assert with_interval(gather(results, seeds=(7,)), "own", "base", "nut", "pro") == Stat(
        None, None, 0
    )


def test_seeds_with_other_test_images_have_no_common_interval(tmp_path):
    from dataclasses import replace

    from realnet.evaluation.stored import save_per_image

    for seed in SEEDS:
        folder = write_run(tmp_path, "own", "nut", seed)
    old = load_per_image(folder / "per_image.npz")
    save_per_image(folder / "per_image.npz", replace(old, strata=np.full(len(old.strata), "x")))
    found = gather(tmp_path, datasets={"own": ["nut"]}, variants=["base"])
    assert with_interval(found, "own", "base", "nut", "pro").interval is None
    assert with_interval(found, "own", "base", "nut", "pro").value is not None


def test_undefined_metrics_have_no_interval(tmp_path):
    from realnet.evaluation.stored import save_per_image
    from realnet.metrics import per_image

    folder = write_run(tmp_path, "own", "nut")
    labels = [0, 1] * 4
    bare = per_image(None, None, np.arange(8.0), labels, ["good", "bad"] * 4)
    save_per_image(folder / "per_image.npz", bare)
    found = gather(tmp_path, datasets={"own": ["nut"]}, variants=["base"], seeds=(0,))
    assert with_interval(found, "own", "base", "nut", "pixel_auroc").interval is None
    assert with_interval(found, "own", "base", "nut", "image_auroc").interval is not None
    (row,) = paired_differences(found, ["base", "base"], "pro", "own")
    assert row.low is None and row.p_holm is None


# --- differences ----------------------------------------------------------------------------------


def test_differences_are_paired_and_p_values_corrected_over_the_variants(results):
    found = gather(results)
    for metric in METRICS:
        groups = {v: {c: stats(results, c, v) for c in OWN["own"]} for v in ("base", "near", "far")}
        drawn = {v: mean_samples(groups[v], metric, 200) for v in groups}
        rows = paired_differences(found, VARIANTS, metric, "own")
        assert [row.variant for row in rows] == ["near", "far"]
        raw = [two_sided_p(drawn[row.variant] - drawn["base"]) for row in rows]
        for row, p in zip(rows, holm(raw), strict=True):
            assert (row.low, row.high) == pytest.approx(
                interval(drawn[row.variant] - drawn["base"])
            )
            assert row.p_holm == pytest.approx(p)
            value = found.stat("own", row.variant, "mean", metric).value
            base = found.stat("own", "base", "mean", metric).value
            assert row.difference == pytest.approx(value - base)


def test_pairing_makes_the_interval_narrower_than_those_of_the_two(results):
    found = gather(results)
    base = with_interval(found, "own", "base", "mean", "pixel_auroc").interval
    near = paired_differences(found, ["base", "near"], "pixel_auroc", "own")[0]
    assert near.high - near.low < (base[1] - base[0]) * 0.9


def test_holm_by_hand():
    """0.01, 0.03, 0.04 of three: 3 x 0.01; 2 x 0.03; and at least the previous one."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]


def test_a_shared_evaluation_is_no_comparison(results):
    text = params(OWN, ["base", "far", "plain"], SEEDS).replace(
        '"plain": {"synthesis": {"foreground": "none"}}', '"plain": {}'
    )
    found = collect(results, matrix_of(text))
    far, plain = paired_differences(found, ["base", "far", "plain"], "pro", "own")
    assert plain == Difference("plain", 0.0, 0.0, 0.0, None)
    alone = paired_differences(found, ["base", "far"], "pro", "own")[0]
    assert far == alone  # and is not counted in the correction


def test_differences_over_all_datasets_and_with_missing_runs(results):
    found = gather(results)
    own = paired_differences(found, VARIANTS, "pro", "own")
    assert paired_differences(found, VARIANTS, "pro") == own  # there is but one dataset
    partial = gather(results, seeds=(0, 1, 7))
    assert paired_differences(partial, VARIANTS, "pro")[0].low is not None
    absent = gather(results, variants=["base", "nosuch"])
    assert paired_differences(absent, ["base", "nosuch"], "pro", "own") == [
        Difference("nosuch", None)
    ]


def test_variants_with_other_seeds_are_no_pairs(results, tmp_path):
    for seed in SEEDS:
        write_run(tmp_path, "own", "nut", seed, "base")
    write_run(tmp_path, "own", "nut", 0, "far")
    found = gather(tmp_path, datasets={"own": ["nut"]}, variants=["base", "far"])
    (row,) = paired_differences(found, ["base", "far"], "pro", "own")
    assert row.difference is not None and row.low is None and row.p_holm is None


# --- tables ---------------------------------------------------------------------------------------


def rows_of(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def test_the_table_of_variants_has_all_of_it(results):
    found = gather(results)
    table = result_tables.ablation_table(found)
    rows = {row["variant"]: row for row in rows_of(table)}
    assert list(rows) == VARIANTS
    for metric in METRICS:
        for row in paired_differences(found, VARIANTS, metric, "own"):
            fields = rows[row.variant]
            assert float(fields[f"delta_{metric}_low"]) == pytest.approx(100 * row.low, abs=0.05)
            assert float(fields[f"delta_{metric}_high"]) == pytest.approx(100 * row.high, abs=0.05)
            assert float(fields[f"p_{metric}"]) == pytest.approx(row.p_holm, rel=1e-3)
        assert rows["base"][f"delta_{metric}"] == rows["base"][f"p_{metric}"] == ""
        low, high = with_interval(found, "own", "far", "mean", metric).interval
        assert float(rows["far"][f"{metric}_low"]) == pytest.approx(100 * low, abs=0.051)
        assert float(rows["far"][f"{metric}_high"]) == pytest.approx(100 * high, abs=0.051)
    text = to_markdown(table)
    assert "95 % interval over the choice of test images (200 resampled" in text
    assert "corrected by Holm" in text and "docs/verdicts.md" in text
    assert "(see ±)" in text


def test_every_table_of_exact_metrics_has_intervals(results):
    found = gather(results)
    for table in (
        result_tables.main_table(found),
        result_tables.dataset_table(found, "own"),
        result_tables.per_category_table(found),
    ):
        for row in rows_of(table):
            for metric in METRICS:
                value = float(row[metric])
                assert float(row[f"{metric}_low"]) <= value <= float(row[f"{metric}_high"])
    one = gather(results, seeds=(0,))
    assert "(unknown with one seed)" in to_markdown(result_tables.main_table(one))


def test_the_effect_of_the_choice_has_an_interval_over_seeds(tmp_path):
    for seed in SEEDS:
        write_run(tmp_path, "own", "nut", seed, official=dict.fromkeys(METRICS, 0.9))
    found = gather(tmp_path, datasets={"own": ["nut"]}, variants=["base"])
    row = rows_of(result_tables.protocols_table(found))[0]
    # 1 and 2 points; Student's t with one degree of freedom is 12.706.
    assert float(row["best_minus_last"]) == pytest.approx(1.5, abs=0.05)
    half = 12.706 * 0.5
    assert float(row["best_minus_last_low"]) == pytest.approx(1.5 - half, abs=0.06)
    assert float(row["best_minus_last_high"]) == pytest.approx(1.5 + half, abs=0.06)


def test_results_without_statistics_have_no_intervals_and_a_note(tmp_path):
    folders = [
        write_run(tmp_path, "own", category, variant=variant)
        for category in OWN["own"]
        for variant in ("base", "far")
    ]
    (folders[0] / "per_image.npz").unlink()
    found = gather(tmp_path, variants=["base", "far"], seeds=(0,))
    assert lacking(found) == [folders[0]]
    text = to_markdown(result_tables.per_category_table(found))
    assert f"No interval for {folders[0]}: no per_image.npz; rerun the evaluation." in text
    rows = {
        (r["variant"], r["category"]): r for r in rows_of(result_tables.per_category_table(found))
    }
    assert rows["base", "nut"]["pro_low"] == rows["base", "mean"]["pro_low"] == ""
    assert rows["base", "pcb"]["pro_low"] and rows["far", "mean"]["pro_low"]
    for folder in folders[1:]:
        (folder / "per_image.npz").unlink()
    text = to_markdown(result_tables.ablation_table(found_again := gather(tmp_path, seeds=(0,))))
    assert "No intervals: the evaluations have no per_image.npz" in text
    assert "corrected" not in text and lacking(found_again)


def test_bootstrap_0_leaves_all_of_it_out(results):
    text = to_markdown(result_tables.ablation_table(gather(results, bootstrap=0)))
    assert "[" not in text and "interval" not in text and "| p" not in text.replace("PRO", "")


# --- formats --------------------------------------------------------------------------------------


def small_table(**changes) -> Table:
    columns = [
        Column("variant", "Variant", "text"),
        Column("x", "X", "percent", interval=True),
        Column("d", "Δ", "delta", interval=True),
        Column("p", "p", "p"),
    ]
    rows = [
        ["a", Stat(0.914, 0.004, 2, (0.851, 0.957)), None, None],
        ["b", Stat(0.9301, None, 1), Delta(-0.021, (-0.06, 0.013)), 0.0421],
        ["c", Stat(0.9141, None, 1, (0.9, 0.95)), Delta(0.004), 0.0004],
        ["e", Stat(0.8, None, 1), Delta(-0.3, (-0.31, -0.29)), 1.0],
    ]
    return Table("T", columns, [rows], ["Note."], 1, **changes)


def test_golden_text_of_a_table_with_intervals():
    assert to_markdown(small_table(ranked=("none",))) == (
        "### T\n"
        "\n"
        "| Variant |                       X |                    Δ |       p |\n"
        "| ------- | ----------------------: | -------------------: | ------: |\n"
        "| a       | 91.4 ± 0.4 [85.1, 95.7] |                      |         |\n"
        "| b       |                    93.0 |     -2.1 [-6.0, 1.3] |   0.042 |\n"
        "| c       |       91.4 [90.0, 95.0] |                 +0.4 | < 0.001 |\n"
        "| e       |                    80.0 | -30.0 [-31.0, -29.0] |   1.000 |\n"
        "\n"
        "Note.\n"
    )
    assert to_csv(small_table()) == (
        "variant,x,x_std,x_low,x_high,d,d_low,d_high,p\n"
        "a,91.4,0.4,85.1,95.7,,,,\n"
        "b,93.0,,,,-2.1,-6.0,1.3,0.0421\n"
        "c,91.4,,90.0,95.0,0.4,,,0.0004\n"
        "e,80.0,,,,-30.0,-31.0,-29.0,1\n"
    )
    lines = to_latex(small_table()).splitlines()
    assert r"b & 93.0 & $-2.1$ {\scriptsize [$-6.0$, 1.3]} & 0.042 \\" in lines
    assert r"c & 91.4 {\scriptsize [90.0, 95.0]} & $+0.4$ & $<$ 0.001 \\" in lines
    assert r"a & 91.4 $\pm$ 0.4 {\scriptsize [85.1, 95.7]} &  &  \\" in lines


def test_best_is_bold_and_second_underlined():
    table = small_table()
    groups = [[["same", *row[1:]] for row in table.groups[0]]]
    ranked = Table("T", table.columns, groups, [], 1, ("variant",))
    assert [row[1] for row in ranks(ranked)] == [2, 1, 2, 0]  # printed alike, placed alike
    body = to_markdown(ranked).splitlines()[4:8]
    assert "*91.4 ± 0.4* [85.1, 95.7]" in body[0] and "**91.4" not in body[0]
    assert " **93.0** |" in body[1] and "*91.4* [90.0, 95.0]" in body[2]
    assert "*80.0*" not in body[3]
    tex = to_latex(ranked)
    assert r"\textbf{93.0}" in tex and r"\underline{91.4} {\scriptsize" in tex
    assert tex.count(r"\underline") == 2 and tex.count(r"\textbf") == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.9], [0]),
        ([0.9, 0.9], [0, 0]),  # equal values have no rank
        ([0.9, 0.8], [1, 0]),  # the worst of two is no second
        ([0.9, 0.8, 0.7], [1, 2, 0]),
        ([None, 0.8, float("nan"), 0.9, 0.7], [0, 2, 0, 1, 0]),
        ([0.9004, 0.9, 0.8, 0.7], [1, 1, 2, 0]),
    ],
)
def test_ranks(values, expected):
    columns = [Column("k", "K", "text"), Column("x", "X", "percent")]
    rows = [["k", Stat(value, None, 1)] for value in values]
    table = Table("T", columns, [rows], [], 1, ("k",))
    assert [row[1] for row in ranks(table)] == expected


def test_a_mean_row_of_a_ranked_table_is_bold_in_its_name_alone():
    columns = [Column("k", "K", "text"), Column("x", "X", "percent")]
    rows = [["mean", Stat(0.9, None, 1)], ["mean", Stat(0.8, None, 1)]]
    body = to_markdown(Table("T", columns, [rows], [], 1, ("k",))).splitlines()[4:]
    assert body[0].startswith("| **mean** | **90.0** |") and "|     80.0 |" in body[1]


def test_excluded_images_are_named_below_the_tables(results):
    path = results / "data/own/nut/summary.json"
    excluded = [{"path": f"data/raw/own/{n}.png", "reason": "out of focus"} for n in range(7)]
    image_only = [{"path": "data/raw/own/9.png", "reason": "its mask marks nothing"}]
    write_json(path, {"excluded": excluded, "image_only": image_only})
    first = ", ".join(f"{n}.png" for n in range(5))
    line = f"own/nut: 7 images excluded (out of focus): {first} and 2 more."
    other = "own/nut: 1 image in image metrics only (its mask marks nothing): 9.png."
    for name in ("main", "own", "per_category", "ablation"):
        table = to_markdown(result_tables.all_tables(gather(results))[name])
        assert line in table and other in table
    path.unlink()
    assert "excluded" not in to_markdown(result_tables.main_table(gather(results)))
