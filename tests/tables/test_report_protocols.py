"""Protocols side by side in the tables, and the paper's numbers as data."""

import csv
import json
import sys

import pytest
import yaml
from result_files import METRICS, matrix, protocols, rows_of, write_results, write_run

from realnet.config.params import PROJECT
from realnet.core.errors import UserError
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.report.report import report
from realnet.tables import published
from realnet.tables.formats import Column, Table, to_csv, to_latex, to_markdown
from realnet.tables.published import Number
from realnet.tables.runs import collect, matrix_of

sys.path.insert(0, str(PROJECT / "workflow/scripts"))
import dag

WHOLE = {name: list(KNOWN_CATEGORIES[name]) for name in ("mvtec_ad", "btad")}


def text(results, table):
    return (results / f"tables/{table}.md").read_text()


def header(results, table):
    line = next(row for row in text(results, table).splitlines() if row.startswith("|"))
    return [field.strip() for field in line.strip("|").split("|")]


def rewritten(files, change):
    """Every metrics file with ``change`` applied to its contents."""
    for file in files:
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))


# --- tables --------------------------------------------------------------------------------------


def test_the_effect_of_selection_is_best_minus_last_of_one_metric(tmp_path):
    write_results(tmp_path, WHOLE)
    report(tmp_path, matrix(datasets=WHOLE))
    rows = rows_of(tmp_path, "protocols")
    assert len(rows) == 2 * 3 * 3  # datasets, variants, metrics
    for row in rows:
        worth = 1.4 if row["metric"] == "pro" else 0.4
        assert float(row["best_minus_last"]) == pytest.approx(worth, abs=0.051)
        strict, official = float(row["strict_last"]), float(row["official_last"])
        shift = 10 if row["metric"] == "pro" else 0
        assert official - strict == pytest.approx(shift, abs=0.051)


def test_the_papers_numbers_are_beside_the_reference_in_their_protocol(tmp_path):
    write_results(tmp_path, WHOLE)
    report(tmp_path, matrix(datasets=WHOLE))
    for row in rows_of(tmp_path, "protocols"):
        known = published.number(row["dataset"], "mean", row["metric"])
        if row["variant"] != "base" or known is None:
            assert not row["paper"] and not row["official_minus_paper"]
            continue
        assert float(row["paper"]) == known.value
        difference = float(row["official_best"]) - known.value
        assert float(row["official_minus_paper"]) == pytest.approx(difference, abs=0.051)
    mean = rows_of(tmp_path, "mvtec_ad")[-1]
    assert float(mean["delta_pro"]) == pytest.approx(float(mean["official_pro"]) - 93.07, abs=0.051)
    for table in ("main", "mvtec_ad", "protocols"):
        assert "best on the test set" in text(tmp_path, table)


def test_uncertain_numbers_have_a_dagger_and_a_note(tmp_path):
    write_results(tmp_path, WHOLE)
    report(tmp_path, matrix(datasets=WHOLE))
    for table in ("main", "mvtec_ad", "protocols"):
        written = text(tmp_path, table)
        assert "99.65†" in written and "93.07†" in written
        assert "† paper, MVTec-AD PRO 93.07: medium certainty" in written
        tex = (tmp_path / f"tables/{table}.tex").read_text()
        assert r"93.07$^\dagger$" in tex
    assert "96.1 " in text(tmp_path, "main") and "96.1†" not in text(tmp_path, "main")
    assert "†" not in text(tmp_path, "btad")
    rows = {row["dataset"]: row for row in rows_of(tmp_path, "main")}
    assert rows["mvtec_ad"]["paper_pro"] == "93.07"  # in the CSV: a number and its certainty
    assert rows["mvtec_ad"]["paper_pro_certainty"] == "medium"
    assert rows["btad"]["paper_image_auroc_certainty"] == "certain"
    # A mean is as certain as the least certain of its parts, and needs all of them.
    assert rows["mean"]["paper_image_auroc_certainty"] == "high"
    assert float(rows["mean"]["paper_image_auroc"]) == pytest.approx((99.65 + 96.1) / 2, abs=0.051)
    assert rows["mean"]["paper_pro"] == rows["mean"]["paper_pro_certainty"] == ""


def test_without_a_choice_the_official_column_is_of_the_last_checkpoint_and_says_so(tmp_path):
    files = write_results(tmp_path, WHOLE)
    rewritten(files, lambda values: values.update(protocols=protocols(values, False)))
    report(tmp_path, matrix(datasets=WHOLE))
    for row in rows_of(tmp_path, "main"):
        assert row["official_image_auroc"] == row["image_auroc"]
        assert float(row["official_pro"]) == pytest.approx(float(row["pro"]) + 10, abs=0.051)
    assert "but on the last checkpoint" in text(tmp_path, "main")
    assert "No checkpoint was chosen on the test set (" in text(tmp_path, "protocols")
    assert "Strict, best" not in header(tmp_path, "protocols")
    assert "Official, last" in header(tmp_path, "protocols")
    for row in rows_of(tmp_path, "protocols"):  # the CSV keeps all columns
        assert row["strict_best"] == row["best_minus_last"] == row["official_best"] == ""


def test_categories_without_a_choice_are_named(tmp_path):
    files = write_results(tmp_path, WHOLE)
    some = [file for file in files if "02" in file.parts]
    rewritten(some, lambda values: values.update(protocols=protocols(values, False)))
    report(tmp_path, matrix(datasets=WHOLE))
    assert "on the last one in btad/02 and in means with it" in text(tmp_path, "btad")
    assert "on the last one" not in text(tmp_path, "mvtec_ad")
    btad = [row for row in rows_of(tmp_path, "protocols") if row["dataset"] == "btad"]
    assert all(row["official_best"] == "" and row["official_last"] for row in btad)


def test_results_without_protocols_still_make_tables(tmp_path):
    files = write_results(tmp_path, WHOLE)
    rewritten(files, lambda values: values.pop("protocols"))
    report(tmp_path, matrix(datasets=WHOLE))
    assert "official" not in header(tmp_path, "main")
    assert "paper" in header(tmp_path, "main")
    assert rows_of(tmp_path, "protocols")[0]["strict_last"]
    assert not any(row["delta_image_auroc"] for row in rows_of(tmp_path, "main"))


def test_undefined_under_a_protocol_is_not_missing(tmp_path):
    write_results(tmp_path)
    bare = {"image_auroc": 0.9, "pixel_auroc": None, "pro": None}
    official = {f"{m}_official": None for m in METRICS}
    found = {
        "strict_last": {"checkpoint": "last", "step": 5, **bare},
        "official_last": {"checkpoint": "last", "step": 5, **official},
        "strict_best": None,
        "official_best": None,
    }
    for seed in (0, 1):
        content = bare | {"has_masks": False, "protocols": found}
        write_run(tmp_path, "bolts_m8", "left_half", seed, "base", **content)
    report(tmp_path, matrix())
    line = next(row for row in text(tmp_path, "bolts_m8").splitlines() if "left_half" in row)
    assert [field.strip() for field in line.split("|")[2:-1]] == ["90.0 ± 0.0", *["n/a"] * 5]


def test_every_run_has_its_protocols_in_cells_csv(tmp_path):
    files = write_results(tmp_path)
    report(tmp_path, matrix())
    with (tmp_path / "tables/cells.csv").open() as source:
        rows = {(r["category"], r["seed"], r["variant"]): r for r in csv.DictReader(source)}
    for file in files:
        values = json.loads(file.read_text())
        row = rows[values["category"], str(values["seed"]), values["variant"]]
        for protocol in ("strict_best", "official_last", "official_best"):
            measured = values["protocols"][protocol] or {}
            for metric in METRICS:
                name = f"{metric}_official" if protocol.startswith("official") else metric
                assert row[f"{protocol}/{name}"] == str(measured.get(name, ""))
        assert row["official_best/step"] == ("" if "bolts_m8" in file.parts else "300")


def test_protocols_without_their_metrics_are_refused(tmp_path):
    files = write_results(tmp_path)
    rewritten(files[:1], lambda values: values["protocols"]["official_last"].pop("pro_official"))
    with pytest.raises(UserError, match=r"protocols\.official_last has no pro_official") as error:
        report(tmp_path, matrix())
    assert str(files[0]) in str(error.value) and "\n" not in str(error.value)


def test_claims_of_the_papers_ablations_are_printed_below_ours(tmp_path):
    write_results(tmp_path)
    report(tmp_path, matrix())
    assert "paper, MPDD: SDAS against DTD textures, image AUROC +2.88† points" in text(
        tmp_path, "ablation"
    )
    report(tmp_path, matrix(datasets={"btad": "all"}))
    assert "DTD" not in text(tmp_path, "ablation")


def test_a_table_for_each_name_that_the_workflow_expects(tmp_path):
    write_results(tmp_path)
    report(tmp_path, matrix())
    made = {path.stem for path in (tmp_path / "tables").iterdir()} - {"cells"}
    assert made == {*dag.TABLES, "mpdd", "btad", "bolts_m8"}


# --- the data ------------------------------------------------------------------------------------


def test_every_published_number_has_a_source_and_a_certainty():
    paper = published.paper()
    assert list(paper["datasets"]) == ["mvtec_ad", "mpdd", "btad", "visa"]
    for dataset, entry in paper["datasets"].items():
        assert set(entry["categories"]) <= set(KNOWN_CATEGORIES[dataset])
        for category in ("mean", *entry["categories"]):
            for metric in METRICS:
                found = published.number(dataset, category, metric)
                if found is not None:
                    assert found.certainty in published.CERTAINTIES
                    assert 90 < found.value < 100 and published.source(found.source)
    for claim in paper["claims"]:
        found = Number(**claim["difference"])
        assert found.certainty in published.CERTAINTIES and published.source(found.source)
        assert (found.value is not None) == (claim["dataset"] != "any")
        assert len(claim["metrics"]) == 1 or found.value is None


def test_unknown_numbers_are_empty():
    assert published.number("mpdd", "mean", "pro") is None
    assert published.number("mvtec_ad", "bottle", "image_auroc") is None
    assert published.number("demo", "mean", "image_auroc") is None
    assert published.title("demo") == "demo" and published.title("visa") == "VisA"


def test_numbers_of_others_name_their_protocols():
    ader = published.others()["ader"]
    for epochs in ("epochs_100", "epochs_300"):
        assert set(ader[epochs]) == set(published.paper()["datasets"])
    for dataset, found in ader["last_and_best"].items():
        for metric, (last, best) in found.items():
            assert ader["epochs_100"][dataset][metric] == last < best
    for block in published.others().values():
        assert block["source"]


def test_files_are_plain_yaml():
    for name in ("paper", "others"):
        path = PROJECT / f"realnet/tables/{name}.yaml"
        assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize(
    ("found", "shown", "machine"),
    [
        (Number(99.65, "high", "x"), "99.65†", "99.65,high"),
        (Number(96.0, "certain", "x"), "96.0", "96.0,certain"),
        (None, "", ","),
    ],
)
def test_a_published_number_is_printed_as_its_source_prints_it(found, shown, machine):
    columns = [Column("name", "Name", "text"), Column("p", "Paper", "published")]
    table = Table("t", columns, [[["a", found], ["b", Number(1.5, "medium", "x")]]], [], 1)
    row = to_markdown(table).splitlines()[4]
    assert row.split("|")[2].strip() == shown
    assert to_csv(table).splitlines()[:2] == ["name,p,p_certainty", f"a,{machine}"]
    assert r"1.5$^\dagger$" in to_latex(table)


def test_a_mean_of_seeds_first_then_of_categories(tmp_path):
    """For each protocol, and only if all runs have it."""
    files = write_results(tmp_path)
    found = collect(tmp_path, matrix_of(matrix()))
    stat = found.stat("mpdd", "base", "mean", "official_best/pro_official")
    headline = found.stat("mpdd", "base", "mean", "pro")
    assert stat.value == pytest.approx(headline.value + 0.1142)
    assert stat.std == pytest.approx(headline.std) and stat.seeds == 2
    one = [file for file in files if file.parts[-5:-1] == ("mpdd", "tubes", "seed1", "base")]
    rewritten(one, lambda values: values.update(protocols=protocols(values, False)))
    found = collect(tmp_path, matrix_of(matrix()))
    assert found.stat("mpdd", "base", "mean", "official_best/pro_official").seeds == 1
