"""The report: numbers against hand-made result files, tables against golden files.

After an intended change of the tables: `REGOLD=1 pytest tests/report/test_report.py`, then read
the diff.
"""

import csv
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from result_files import CATEGORIES, METRICS, matrix, rows_of, write_results, write_run

from realnet.config.params import PROJECT, load
from realnet.core.errors import UserError
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.report.report import report
from realnet.tables.formats import Column, Delta, Table, to_csv, to_latex, to_markdown
from realnet.tables.runs import Results, collect, matrix_of

GOLDEN = Path(__file__).parents[1] / "golden" / "report"


def outputs(results: Path) -> dict[str, str]:
    paths = [results / "metrics.json", *results.glob("tables/*"), *results.glob("figures/*")]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_tables_equal_the_golden_files(tmp_path: Path):
    write_results(tmp_path)
    report(tmp_path, matrix())
    produced = sorted((tmp_path / "tables").iterdir())
    assert len(produced) == 3 * (6 + len(CATEGORIES)) + 1
    if os.environ.get("REGOLD"):
        for path in produced:
            (GOLDEN / path.name).write_bytes(path.read_bytes())
    assert sorted(p.name for p in GOLDEN.iterdir()) == [p.name for p in produced]
    for path in produced:
        assert path.read_text() == (GOLDEN / path.name).read_text(), path.name


def test_metrics_json_has_means_over_seeds_then_categories(tmp_path: Path):
    write_results(tmp_path)
    report(tmp_path, matrix())
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert list(values) == ["mpdd", "btad", "bolts_m8"]
    assert list(values["mpdd"]) == ["base", "sdas", "plain"]
    assert list(values["mpdd"]["base"]) == ["connector", "tubes", "mean"]
    assert list(values["btad"]["base"]) == ["01", "02", "03", "mean"]
    for dataset, categories in CATEGORIES.items():
        for variant in ("base", "sdas"):
            for metric in METRICS:
                means = []
                for category in categories:
                    folder = tmp_path / "evaluate" / dataset / category
                    cells = [folder / f"seed{k}" / variant / "metrics.json" for k in (0, 1)]
                    read = [json.loads(cell.read_text())[metric] for cell in cells]
                    means.append(statistics.fmean(read))
                    found = values[dataset][variant][category][metric]
                    assert found == pytest.approx(means[-1], abs=1e-15)
                mean = values[dataset][variant]["mean"][metric]
                assert mean == pytest.approx(statistics.fmean(means), abs=1e-15)
        assert values[dataset]["plain"] == values[dataset]["base"]  # a shared evaluation


def test_std_of_the_mean_is_over_seeds_not_categories(tmp_path: Path):
    write_results(tmp_path)
    found = collect(tmp_path, matrix_of(matrix()))
    per_seed = [
        statistics.fmean(
            json.loads(
                (tmp_path / f"evaluate/mpdd/{c}/seed{k}/base/metrics.json").read_text()
            )["pro"]
            for c in CATEGORIES["mpdd"]
        )
        for k in (0, 1)
    ]  # fmt: skip
    stat = found.stat("mpdd", "base", "mean", "pro")
    assert stat.std == pytest.approx(statistics.stdev(per_seed))
    assert stat.seeds == 2


def test_paper_and_difference_beside_the_mean_over_all_categories(tmp_path: Path):
    write_results(tmp_path)
    report(tmp_path, matrix())
    for table, key in (("btad", "category"), ("main", "dataset")):
        filled = [row for row in rows_of(tmp_path, table) if row["paper_image_auroc"]]
        assert [row[key] for row in filled] == ["mean" if table == "btad" else "btad"]
        (row,) = filled
        assert (row["paper_image_auroc"], row["paper_pixel_auroc"], row["paper_pro"]) == (
            *("96.1", "97.9", ""),
        )
        assert row["paper_image_auroc_certainty"] == "certain"
        assert float(row["delta_image_auroc"]) == pytest.approx(
            float(row["official_image_auroc"]) - 96.1, abs=0.1
        )
        assert row["delta_pro"] == ""


def test_a_part_of_a_dataset_is_not_compared_with_the_papers_mean(tmp_path: Path):
    write_results(tmp_path)
    report(tmp_path, matrix())
    assert not any(row["paper_image_auroc"] for row in rows_of(tmp_path, "mpdd"))
    for table in ("mpdd", "main"):
        text = (tmp_path / f"tables/{table}.md").read_text()
        assert "MPDD: 2 of 6 categories" in text


def test_the_last_row_of_main_is_the_unweighted_mean_over_datasets(tmp_path: Path):
    datasets = {name: list(KNOWN_CATEGORIES[name]) for name in ("btad", "mpdd")}
    write_results(tmp_path, datasets)
    report(tmp_path, matrix(datasets=datasets))
    rows = rows_of(tmp_path, "main")
    assert [row["dataset"] for row in rows] == ["mpdd", "btad", "mean"]
    assert [row["categories"] for row in rows] == ["6", "3", ""]
    for key in (*METRICS, "paper_image_auroc", "paper_pixel_auroc"):
        half = (float(rows[0][key]) + float(rows[1][key])) / 2
        assert float(rows[2][key]) == pytest.approx(half, abs=0.1), key
    assert rows[2]["paper_pro"] == ""
    per_seed = []
    for seed in (0, 1):
        found = collect(tmp_path, matrix_of(matrix(datasets=datasets, seeds=[seed])))
        per_seed.append(found.overall("base", "pro").value)
    both = collect(tmp_path, matrix_of(matrix(datasets=datasets))).overall("base", "pro")
    assert both.value == pytest.approx(statistics.fmean(per_seed))
    assert both.std == pytest.approx(statistics.stdev(per_seed))


def test_one_dataset_has_one_row_and_no_mean_over_datasets(tmp_path: Path):
    write_results(tmp_path)
    report(tmp_path, matrix(datasets={"btad": "all"}))
    assert [row["dataset"] for row in rows_of(tmp_path, "main")] == ["btad"]
    assert "datasets" not in (tmp_path / "tables/main.md").read_text()


@pytest.mark.parametrize("name", ["main", "ablation", "cells"])
def test_a_dataset_cannot_have_the_name_of_a_table(tmp_path: Path, name: str):
    write_results(tmp_path, {name: ["part"]})
    with pytest.raises(UserError, match=f"{name}: name reserved for a table"):
        report(tmp_path, matrix(datasets={name: ["part"]}))


@pytest.mark.slow
def test_listed_files_give_the_same_report_as_found_ones(tmp_path: Path):
    files = write_results(tmp_path)
    report(tmp_path, matrix())
    first = outputs(tmp_path)
    for extra in ("0", "1"):  # the order and files of another matrix do not matter
        write_run(tmp_path, "mpdd", "tubes", 7, "other" + extra, image_auroc=0.1)
    report(tmp_path, matrix(), files[::-1])
    assert outputs(tmp_path) == first
    report(tmp_path, matrix())
    assert outputs(tmp_path) == first


def test_all_means_the_categories_of_the_listed_files(tmp_path: Path):
    files = write_results(tmp_path)
    everything = matrix_of(matrix(datasets=dict.fromkeys(CATEGORIES, "all")))
    found = collect(tmp_path, everything, files)
    assert found.categories == {
        "mpdd": ("connector", "tubes"),  # in the order of realnet.datasets.categories
        "btad": ("01", "02", "03"),
        "bolts_m8": ("left_half", "right_half"),
    }
    with pytest.raises(UserError, match="bracket_black"):  # without a list: all known categories
        collect(tmp_path, everything)
    (tmp_path / "data" / "bolts_m8" / "third_part").mkdir(parents=True)
    with pytest.raises(UserError, match="third_part"):
        collect(tmp_path, matrix_of(matrix(datasets={"bolts_m8": "all"})))


def test_the_parameter_file_itself_is_a_matrix():
    expected = load(PROJECT / "params.yaml")
    found = matrix_of(str(PROJECT / "params.yaml"))
    assert found.variants == tuple(expected.experiment.variants)
    assert found.digits == expected.report.digits
    assert found == matrix_of(expected.section_json("report"))


# --- missing, undefined, wrong --------------------------------------------------------------------


def test_a_missing_run_names_the_file_and_the_target(tmp_path: Path):
    files = write_results(tmp_path)
    files[0].unlink()
    with pytest.raises(UserError) as caught:
        report(tmp_path, matrix())
    message = str(caught.value)
    assert "\n" not in message
    assert f"snakemake --cores all {files[0]}" in message
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "tables").exists()


def test_allow_missing_prints_dashes_and_no_mean_of_a_part(tmp_path: Path):
    files = write_results(tmp_path)
    for file in files:
        if "left_half" in file.parts and "sdas" in file.parts:
            file.unlink()
    report(tmp_path, matrix(), allow_missing=True)
    values = json.loads((tmp_path / "metrics.json").read_text())["bolts_m8"]["sdas"]
    assert values["left_half"] == dict.fromkeys(METRICS)
    assert values["mean"] == dict.fromkeys(METRICS)
    assert values["right_half"]["pro"] is not None
    text = (tmp_path / "tables" / "ablation.md").read_text()
    (line,) = [row for row in text.splitlines() if "bolts_m8" in row and "sdas" in row]
    fields = [field.strip() for field in line.split("|")]
    assert fields[3:6] == ["–", "", fields[5]] and fields.count("–") == 3
    assert "--" in (tmp_path / "tables" / "ablation.tex").read_text()


def test_undefined_stays_undefined_in_every_mean(tmp_path: Path):
    write_results(tmp_path)
    metrics = {"image_auroc": 0.9, "pixel_auroc": None, "pro": None}
    write_run(tmp_path, "mpdd", "tubes", 1, "base", **metrics)
    report(tmp_path, matrix())
    values = json.loads((tmp_path / "metrics.json").read_text())["mpdd"]["base"]
    assert values["tubes"]["pro"] is None
    assert values["mean"]["pro"] is None
    assert values["mean"]["image_auroc"] is not None
    assert "n/a" in (tmp_path / "tables" / "main.md").read_text()


def test_a_mean_over_categories_some_of_which_have_no_masks_is_undefined(tmp_path: Path):
    write_results(tmp_path)
    nothing = {"pixel_auroc": None, "pro": None, "has_masks": False}
    for seed in (0, 1):
        write_run(tmp_path, "bolts_m8", "left_half", seed, "base", image_auroc=0.9, **nothing)
    report(tmp_path, matrix())
    means = {row["category"]: row for row in rows_of(tmp_path, "bolts_m8")}
    assert means["right_half"]["pro"] and not means["mean"]["pro"]
    assert means["mean"]["image_auroc"]
    for table in ("bolts_m8", "main", "per_category", "ablation"):
        text = (tmp_path / f"tables/{table}.md").read_text()
        assert "n/a: no masks in bolts_m8/left_half" in text
    assert "no masks" not in (tmp_path / "tables/btad.md").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        ('{"image_auroc": 0.9, "pixel_auroc": 0.9}', "pro is missing"),
        ('{"image_auroc": 97.1, "pixel_auroc": 0.9, "pro": 0.8}', "expected a fraction"),
        ('{"image_auroc": "x", "pixel_auroc": 0.9, "pro": 0.8}', "expected a fraction"),
        ('{"image_auroc": NaN, "pixel_auroc": 0.9, "pro": 0.8}', "expected a fraction"),
        ('{"image_auroc": 1, "pixel_auroc": 1, "pro": 1, "seed": 4}', "but 0 in its path"),
    ],
)
def test_a_malformed_metrics_file_is_named(tmp_path: Path, content: str, message: str):
    files = write_results(tmp_path)
    files[0].write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        report(tmp_path, matrix())
    assert str(files[0]) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("{", "neither a file nor valid JSON"),
        ('{"report": {"digits": 1}}', "experiment"),
        (matrix().replace('"level": 0.95', '"level": 1'), "level"),
        (matrix(seeds=["x"]), r"seeds\.0"),
        (matrix(variants=["base", "nosuch"]), "nosuch"),
        ("nosuch.yaml", "no such file"),
    ],
)
def test_wrong_params_are_one_line(params: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        matrix_of(params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["metrics.json", "a/b/c/d/metrics.json", "d/c/seedx/v/metrics.json"]
)
def test_a_listed_file_with_an_unexpected_path_is_refused(tmp_path: Path, path: str):
    with pytest.raises(UserError, match="seed"):
        collect(tmp_path, matrix_of(matrix()), [Path(path)])


def test_command_line(tmp_path: Path):
    files = write_results(tmp_path)
    listed = [argument for file in files for argument in ("--metrics", str(file))]
    command = [sys.executable, "-m", "realnet", "report", "--results", str(tmp_path)]
    done = subprocess.run(
        [*command, "--params", matrix(), *listed], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figures" / "summary.png").is_file()
    files[0].unlink()
    done = subprocess.run(
        [*command, "--params", matrix()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(files[0]) in done.stderr


# --- formats --------------------------------------------------------------------------------------


def test_markdown_rows_are_aligned_and_csv_is_rectangular(tmp_path: Path):
    write_results(tmp_path)
    report(tmp_path, matrix())
    for path in (tmp_path / "tables").glob("*.md"):
        rows = [line for line in path.read_text().splitlines() if line.startswith("|")]
        assert len({len(row) for row in rows}) == 1
        assert "****" not in path.read_text()
    for path in (tmp_path / "tables").glob("*.csv"):
        assert len({len(row) for row in csv.reader(path.open())}) == 1


def test_latex_is_escaped_and_balanced(tmp_path: Path):
    write_results(tmp_path)
    report(tmp_path, matrix())
    for path in (tmp_path / "tables").glob("*.tex"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("%")]
        body = [line for line in lines if line.endswith(r"\\")]
        alignment = re.sub(r"p{[^}]*}", "l", lines[0].removeprefix(r"\begin{tabular}"))
        columns = len(alignment.strip("{}"))
        spans = re.compile(r"\\multicolumn{(\d+)}")
        for line in body:
            cells = [spans.match(cell.strip()) for cell in line.split(" & ")]
            assert sum(int(cell[1]) if cell else 1 for cell in cells) == columns, line
        text = "\n".join(lines)
        assert text.count("{") == text.count("}")
        assert text.isascii()
        assert "_" not in text.replace(r"\_", "")
        assert text.count("$") % 2 == 0


def test_every_special_character_of_latex_is_escaped():
    column = Column("name", "Name", "text")
    table = Table("t", [column], [[[r"a_b%c&d#e$f{g}h~i^j\k"]]], [], 1)
    assert (
        r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k \\"
        in to_latex(table)
    )


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0001, "0.0"), (0.0001, "0.0"), (0.0149, "+1.5"), (-0.02, "-2.0")]
)
def test_differences_have_a_sign_but_zero_has_none(value: float, text: str):
    table = Table("t", [Column("d", "Δ", "delta")], [[[Delta(value)]]], [], 1)
    assert f" {text} |" in to_markdown(table)
    assert to_csv(table).splitlines()[1] == text.removeprefix("+")


# --- figures --------------------------------------------------------------------------------------


def write_scores(metrics_file: Path, images: Path | None) -> None:
    generator = np.random.default_rng(0)
    masks = np.zeros((6, 16, 16), bool)
    masks[2:, 4:9, 5:9] = True
    paths = []
    for index in range(6):
        path = (images or Path("/nonexistent")) / f"{index}.png"
        if images:
            images.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
        paths.append(str(path))
    np.savez_compressed(
        metrics_file.with_name("scores.npz"),
        margins=(generator.normal(size=masks.shape) + 2 * masks).astype(np.float32),
        masks=masks,
        image_scores=np.linspace(0, 1, 6),
        labels=masks.any(axis=(1, 2)).astype(np.uint8),
        paths=np.array(paths),
        defects=np.array(["good", "good", "bent", "bent", "cut", "cut"]),
    )


def first_runs(files: list[Path]) -> list[Path]:
    return [f for f in files if f.parts[-3:-1] == ("seed0", "base")]


@pytest.mark.slow
def test_report_repeats_byte_for_byte_figures_included(tmp_path: Path):
    files = write_results(tmp_path)
    for number, file in enumerate(first_runs(files)):
        write_scores(file, tmp_path / "raw" / str(number))
    report(tmp_path, matrix())
    first = outputs(tmp_path)
    assert {"summary.png", "overview.png", "metrics.json", "main.md"} <= set(first)
    report(tmp_path, matrix())
    assert outputs(tmp_path) == first


def test_missing_images_are_reported_but_not_fatal(tmp_path: Path, capsys):
    files = write_results(tmp_path)
    for file in first_runs(files):
        write_scores(file, None)
    report(tmp_path, matrix())
    assert "overview.png is incomplete" in capsys.readouterr().err
    assert (tmp_path / "figures" / "overview.png").is_file()


def test_without_scores_no_overview_and_no_stale_one(tmp_path: Path, capsys):
    write_results(tmp_path)
    stale = tmp_path / "figures" / "overview.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    report(tmp_path, matrix())
    assert "no overview.png" in capsys.readouterr().err
    assert not stale.exists()


def test_corrupt_scores_are_named(tmp_path: Path):
    files = write_results(tmp_path)
    scores = first_runs(files)[0].with_name("scores.npz")
    scores.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"scores\.npz"):
        report(tmp_path, matrix())


def test_a_missing_run_is_none_not_zero(tmp_path: Path):
    found: Results = collect(tmp_path, matrix_of(matrix()), allow_missing=True)
    stat = found.stat("mpdd", "base", "mean", "pro")
    assert (stat.value, stat.std, stat.seeds) == (None, None, 0)
