"""`report.html`: small hand-made results, among them hostile, half-finished and large ones."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from realnet.core.errors import UserError
from realnet.core.io import write_json
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.provenance.failures import missing_runs
from realnet.provenance.lineage import trace
from realnet.provenance.stage_code import code_of
from realnet.report.page import prepare, render
from realnet.report.page.pictures import pictures
from realnet.report.report import report
from realnet.tables.formats import to_csv, to_markdown
from realnet.tables.result_tables import ablation_table, all_tables
from realnet.tables.runs import Results, collect, matrix_of
from realnet.tables.verdicts import Verdict, verdicts

VOID = {"meta", "br", "img", "input", "hr", "link"}
HOSTILE = "</script><script>alert(1)</script><b onmouseover='x'>\"&amp;"


class Checker(HTMLParser):
    """Checks balanced tags, unique ids and quoted attributes; collects what the page would load."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def params(datasets: dict, variants=("base", "sdas"), seeds=(0,), **more) -> str:
    overlays = {name: {} if name == "base" else {"training": {}} for name in variants}
    values = {
        "experiment": {
            "name": "test",
            "datasets": datasets,
            "seeds": list(seeds),
            "variants": list(variants),
        },
        "variants": overlays,
        "report": {"digits": 1, "bootstrap": 0, "level": 0.95},
        "preset": "smoke",
    }
    return json.dumps(values | more)


def put(path: Path, values: dict) -> None:
    """Without the fsync of :func:`write_json`, since there are thousands of files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def write_stage(results: Path, folder: str, stage: str, inputs: dict[str, str], **more) -> None:
    values = {
        "stage": stage,
        "params": {
            "data": {"root": "data/raw", "image_size": 64},
            stage: {"depth": {"of": [1, 2]}},
        },
        "inputs": {n: {"path": f"results/{p}", "sha256": "ab" * 32} for n, p in inputs.items()},
        "device": "cpu",
        "wall_s": 61.5,
        "peak_memory_mb": 512,
        "finished": "2026-01-02T03:04:05+00:00",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "python": "3.11.7",
        "versions": {"torch": "2.14.1"},
    }
    put(results / folder / "stage.json", values | more)


def write_run(results: Path, dataset: str, category: str, seed: int, variant: str, value=0.9):
    """An evaluation and its two upstream stages; all share the backbone."""
    place = f"{dataset}/{category}/seed{seed}/{variant}"
    metrics = {"image_auroc": value, "pixel_auroc": 0.5, "pro": None, "has_masks": True}
    identity = {"dataset": dataset, "category": category, "seed": seed, "variant": variant}
    put(results / "evaluate" / place / "metrics.json", metrics | identity)
    model = {"model": f"realnet/{place}/model.json", "manifest": "data/x/manifest.csv"}
    write_stage(results, f"evaluate/{place}", "evaluate", model)
    write_stage(results, f"realnet/{place}", "realnet", {"backbone": "backbone/base/b.json"})
    write_stage(results, "backbone/base", "backbone", {})


def verdict(**changes) -> Verdict:
    claim = Verdict("A beats B", "own", "pro", None, 1.0, None, None, "reproduced", "n", "claim")
    return replace(claim, **{"variants": ("base",)} | changes)


def found_in(results: Path, text: str) -> Results:
    return collect(results, matrix_of(text), allow_missing=True)


def page(results: Path, text: str, judged: list[Verdict] | None = None) -> str:
    found = found_in(results, text)
    judged = verdicts(found) if judged is None else judged
    return render(prepare(results, found, all_tables(found), judged, text), results)


def data_of(html: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.S).group(1))


@pytest.fixture
def small(tmp_path):
    """Two categories, two seeds, two variants; complete."""
    results = tmp_path / "results"
    for k, variant in enumerate(("base", "sdas")):
        for seed in (0, 1):
            for category in ("nut", "plate"):
                write_run(results, "own", category, seed, variant, 0.9 + 0.05 * k + 0.01 * seed)
    return results, params({"own": ["nut", "plate"]}, seeds=(0, 1))


# --- the page as a document ----------------------------------------------------------------------


def test_is_balanced_and_loads_nothing(small):
    html = page(*small)
    checker = Checker(html)
    assert len(checker.ids) == len(set(checker.ids))
    assert not checker.of("link") and not checker.of("iframe")
    assert all("src" not in attributes for attributes in checker.of("script"))
    assert all(a["src"].startswith("data:image/") for a in checker.of("img"))
    assert not re.search(r"https?://|@import|url\(", html)
    policy = next(a["content"] for a in checker.of("meta") if a.get("http-equiv"))
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_policy_allows_exactly_its_own_style_and_script(small):
    import hashlib

    html = page(*small)
    for kind, tag in (("style", "<style>"), ("script", "<script>")):
        body = html.split(tag)[1].split(f"</{kind}>")[0]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in html


def test_links_of_the_contents_lead_somewhere(small):
    checker = Checker(page(*small))
    targets = [a["href"][1:] for a in checker.of("a") if a["href"].startswith("#")]
    assert len(targets) > 8
    assert set(targets) <= set(checker.ids)


def test_same_files_same_bytes(small):
    assert page(*small) == page(*small)


def test_head_says_what_was_run(small):
    output = Checker(page(*small)).texts["dd"]
    assert "own (2 categories)" in output
    assert "8 of 8 runs" in output
    assert "smoke" in output
    assert "0123456789" in output
    assert "2026-01-02 03:04 UTC" in output
    # Eight evaluations, eight trainings and one backbone.
    assert "17 min 26 s" in output


# --- tables --------------------------------------------------------------------------------------


def rows_of(html: str, name: str) -> list[str]:
    section = html.split(f'id="t-{name}"')[1].split("</section>", maxsplit=1)[0]
    return re.findall(r"<tr.*?</tr>", section.split("</thead>")[1], re.S)


def test_best_is_marked_and_undefined_is_printed(small):
    base, sdas = rows_of(page(*small), "ablation")
    assert 'class="n best"' in sdas and 'class="n best"' not in base
    assert "n/a" in base  # PRO
    assert "± 0.7" in base  # of 90 and 91


def test_rows_have_the_address_of_their_runs(small):
    html = page(*small)
    rows = rows_of(html, "own")
    addresses = [json.loads(a["data-at"]) for t, a in Checker(html).tags if "data-at" in a]
    assert ["own", "nut", "base"] in addresses
    assert ["own", "mean", "sdas"] in addresses
    assert 'class="mean"' in rows[-1]
    shown = data_of(html)["shown"]
    of = re.findall(r'data-of="(\d+)"', rows[0])
    assert [shown[int(k)] for k in of][:1] == ["image_auroc"]


def test_table_of_a_group_is_found_and_rebuilt(small):
    results, _ = small
    text = params({"own": ["nut", "plate"]}, ("base", "sdas"), (0, 1))
    wide = found_in(results, text)
    narrow = json.loads(text)
    narrow["experiment"]["variants"] = ["base"]
    table = replace(ablation_table(wide), title="Synthesis & more")
    for suffix, write in ((".csv", to_csv), (".md", to_markdown)):
        path = results / "tables" / f"ablation_synthesis{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(write(table))
    html = page(results, json.dumps(narrow))
    assert "Synthesis &amp; more" in html
    assert len(rows_of(html, "ablation_synthesis")) == 2
    assert data_of(html)["variants"] == ["base", "sdas"]  # their records are included
    assert "4 of 4 runs" in html  # but they are not in the matrix


def test_notes_above_the_tables_hold_for_all_of_them(tmp_path):
    results = tmp_path / "results"
    for dataset in ("own", "other"):
        for variant in ("base", "sdas", "third"):
            write_run(results, dataset, "nut", 0, variant)
    text = params({"own": ["nut"], "other": ["nut"]}, ("base", "sdas", "third"))
    above = page(results, text).split('id="tables"')[1].split('class="table"')[0]
    assert "Best: bold" in above  # shared by the tables of variants and of variants by category
    assert "Variant base" not in above  # only in the tables of datasets


# --- hostile texts -------------------------------------------------------------------------------


def test_texts_of_files_never_become_markup(tmp_path):
    results = tmp_path / "results"
    # No slash in a folder's name.
    category = HOSTILE.replace("/", "_")
    write_run(results, "own", category, 0, "base")
    (results / "data/own/plate").mkdir(parents=True)
    write_stage(
        results,
        f"realnet/own/{category}/seed0/base",
        "realnet",
        {},
        device=HOSTILE,
        params={HOSTILE: HOSTILE},
    )
    log = results / "logs/evaluate/own/plate/seed0/base.log"
    log.parent.mkdir(parents=True)
    log.write_text(HOSTILE + "\n")
    write_json(
        results / "figures" / "index.json",
        {"figures": [], "skipped": [{"name": "f", "title": HOSTILE, "reason": HOSTILE}]},
    )
    hostile = verdict(claim=HOSTILE, verdict=HOSTILE, note=HOSTILE)
    # `all`: every folder that exists.
    html = page(results, params({"own": "all"}, ("base",)), [hostile])
    checker = Checker(html)
    assert len(checker.of("script")) == 2  # data and code
    assert not checker.of("b")
    assert not any("onmouseover" in a for _, a in checker.tags)
    assert HOSTILE in "".join(checker.texts["pre"])
    assert data_of(html)["datasets"] == [["own", [category, "plate"]]]


def test_names_of_figures_stay_inside_their_folder(tmp_path):
    results = tmp_path / "results"
    (tmp_path / "secret.png").write_bytes(b"secret")
    write_json(
        results / "figures" / "index.json",
        {"figures": [{"name": "f", "title": "F", "files": ["../../secret.png"]}], "skipped": []},
    )
    assert pictures(results)[0].data is None


# --- records -------------------------------------------------------------------------------------


def test_chain_has_causes_first_and_each_record_once(small):
    results, text = small
    found = found_in(results, text)
    traced = trace(results, dict.fromkeys(path.parent for path in found.files.values()))
    assert len(traced.records) == 17
    for chain in traced.chains.values():
        assert [traced.records[k]["stage"] for k in chain] == ["backbone", "realnet", "evaluate"]
    assert list(traced.by_stage()) == ["backbone", "realnet", "evaluate"]


def test_chain_is_followed_after_the_results_were_moved(small, tmp_path):
    results, text = small
    moved = results.rename(tmp_path / "elsewhere")
    data = data_of(page(moved, text))
    assert all(len(cell["chain"]) == 3 for cell in data["cells"])
    assert data["stages"][0]["folder"].split("/")[0] in ("evaluate", "realnet", "backbone")


def test_data_give_the_numbers_back(small):
    data = data_of(page(*small))
    cell = next(c for c in data["cells"] if c["at"] == [0, 1, 1, 1])  # plate, seed 1, sdas
    assert cell["values"][data["shown"].index("image_auroc")] == 0.96
    assert cell["values"][data["shown"].index("pro")] == ""  # undefined
    assert cell["values"][data["shown"].index("official_best/pro_official")] is None
    last = data["stages"][cell["chain"][-1]]
    assert last["folder"] == "evaluate/own/plate/seed1/sdas"
    assert data["pool"][last["facts"]]["device"] == "cpu"
    assert data["pool"][last["params"]["evaluate"]] == {"depth": {"of": [1, 2]}}
    name, path, digest = last["inputs"][0]
    assert (name, data["pool"][digest]) == ("model", "ab" * 32)
    assert data["pool"][path] == "results/realnet/own/plate/seed1/sdas/model.json"


def test_numbers_that_json_does_not_have(tmp_path):
    results = tmp_path / "results"
    write_run(results, "own", "nut", 0, "base")
    path = results / "evaluate/own/nut/seed0/base/stage.json"
    path.write_text(path.read_text().replace("61.5", "NaN"))
    (evaluated, *_) = data_of(page(results, params({"own": ["nut"]}, ("base",))))["stages"]
    assert evaluated["wall_s"] is None


def test_an_evaluation_without_record_is_no_error(small):
    results, text = small
    (results / "evaluate/own/nut/seed0/base/stage.json").unlink()
    chains = [cell["chain"] for cell in data_of(page(results, text))["cells"]]
    assert chains.count([]) == 1


def test_a_file_that_is_no_record_is_named(small):
    results, text = small
    path = results / "realnet/own/nut/seed0/base/stage.json"
    path.write_text("[]")
    with pytest.raises(UserError, match=re.escape(str(path))):
        page(results, text)


# --- half-finished runs --------------------------------------------------------------------------


def write_log(results: Path, name: str, text: str) -> None:
    path = results / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_missing_runs_by_the_stage_that_failed(tmp_path):
    results = tmp_path / "results"
    write_run(results, "own", "nut", 0, "base")
    # Stages that succeeded leave an empty log; `data` has no stage.json.
    put(results / "data/own/plate/manifest.csv", {})
    write_log(results, "data/own/plate", "")
    write_stage(results, "afs/own/plate/seed0/base", "afs", {})
    write_log(results, "afs/own/plate/seed0/base", "")
    bar = "\x1b[31mstep 1\rstep 2\n\x1b[0m"
    write_log(results, "realnet/own/plate/seed0/base", f"{bar}RuntimeError: out of memory\n\n")
    found = found_in(results, params({"own": ["nut", "plate", "disc"]}, ("base",)))
    first, last = missing_runs(results, found)
    assert (first.stage, first.message) == ("realnet", "RuntimeError: out of memory")
    assert first.log == "logs/realnet/own/plate/seed0/base.log"
    assert [cell.category for cell in first.runs] == ["plate"]
    assert (last.stage, [cell.category for cell in last.runs]) == ("", ["disc"])


def test_one_cause_for_all_runs_that_depend_on_it(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    write_log(results, "backbone/base", "realnet: no such file\n")
    found = found_in(results, params({"own": ["nut", "plate"]}, ("base", "sdas")))
    (gap,) = missing_runs(results, found)
    assert (gap.stage, len(gap.runs)) == ("backbone", 4)


def test_a_variants_own_failure_is_not_hidden_by_base(tmp_path):
    results = tmp_path / "results"
    write_run(results, "own", "nut", 0, "base")
    write_log(results, "realnet/own/nut/seed0/base", "fine\n")
    write_log(results, "realnet/own/nut/seed0/sdas", "step 3\rstep 4")
    (gap,) = missing_runs(results, found_in(results, params({"own": ["nut"]})))
    assert (gap.stage, gap.message) == ("realnet", "step 4")


def test_page_of_a_half_finished_run(tmp_path):
    results = tmp_path / "results"
    write_run(results, "own", "nut", 0, "base")
    write_log(results, "realnet/own/plate/seed0/base", "RuntimeError: <out> of memory\n")
    html = page(results, params({"own": ["nut", "plate"]}, ("base",)))
    checker = Checker(html)
    assert "1 of 2 evaluations are missing." in html
    assert "RuntimeError: <out> of memory" in "".join(checker.texts["pre"])
    data = data_of(html)
    (absent,) = [cell for cell in data["cells"] if "values" not in cell]
    assert data["gaps"][absent["gap"]][0] == "realnet"


def test_page_without_any_evaluation(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    html = page(results, params({"own": ["nut"]}, ("base",)))
    assert "1 of 1 evaluations are missing." in html
    Checker(html)


# --- figures -------------------------------------------------------------------------------------


def write_figures(results: Path, **changes) -> None:
    folder = results / "figures"
    folder.mkdir(parents=True)
    Image.new("RGB", (30, 20), "red").save(folder / "f.png")
    (folder / "f.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    entry = {
        "name": "f",
        "dataset": "own",
        "title": "A <figure>",
        "caption": "Three & more.",
        "files": ["f.svg", "f.png"],
        "width": 7.0,
        "height": 2.5,
    }
    skipped = {"name": "g", "dataset": "own", "title": "Gone", "reason": "no data"}
    write_json(folder / "index.json", {"figures": [entry | changes], "skipped": [skipped]})


def test_figures_are_embedded_with_captions(small):
    results, text = small
    write_figures(results)
    html = page(results, text)
    (image,) = Checker(html).of("img")
    assert image["src"].startswith("data:image/svg+xml;base64,")
    assert image["alt"] == "A <figure>. Three & more."
    assert (image["width"], image["height"]) == ("672", "240")
    assert "no data" in html


def test_a_figure_with_pictures_is_a_png(small):
    results, _ = small
    write_figures(results)
    (results / "figures/f.svg").write_text("<svg><image/></svg>")
    assert pictures(results)[0].data.startswith("data:image/png;base64,")


def test_figures_beyond_the_limit_are_named(small):
    results, _ = small
    write_figures(results)
    picture, _ = pictures(results, limit=10)
    assert picture.data is None and "15 MB" in picture.reason
    assert picture.files == ("figures/f.svg", "figures/f.png")


def test_report_without_index_shows_the_standard_figures(small):
    results, _ = small
    (results / "figures").mkdir()
    Image.new("RGB", (30, 20)).save(results / "figures/summary.png")
    (picture,) = pictures(results)
    assert picture.size == (30, 20) and picture.data


def test_malformed_index(small):
    results, _ = small
    write_json(results / "figures/index.json", ["f"])
    with pytest.raises(UserError, match=r"index\.json"):
        pictures(results)


# --- verdicts ------------------------------------------------------------------------------------


def test_verdicts_with_what_was_run_first(small):
    results, text = small
    run = verdict(ours=-0.04, interval=(-1.0, 0.5), variants=("sdas", "base"))
    rest = replace(run, ours=None, interval=None, verdict="not run", note="not in the experiment")
    html = page(results, text, [run, rest])
    row = next(a for t, a in Checker(html).tags if t == "tr" and a.get("data-against"))
    assert json.loads(row["data-at"]) == ["own", "mean", "sdas"]
    assert row["data-against"] == "base"
    assert "<span>0.0</span> <small>[−1.0, 0.5]</small>" in html  # and not -0.0
    assert "1 not run: reasons" in html
    assert "1 reproduced" in html


# --- size, and the whole command -----------------------------------------------------------------


def test_size_of_the_papers_whole_matrix(tmp_path):
    """All categories, 3 seeds and 8 variants: a few MB, from 1,700 records."""
    results = tmp_path / "results"
    variants = ("base", *(f"v{k}" for k in range(7)))
    datasets = {d: list(KNOWN_CATEGORIES[d]) for d in ("mvtec_ad", "mpdd", "btad", "visa")}
    assert sum(map(len, datasets.values())) == 36
    for dataset, categories in datasets.items():
        for category in categories:
            for seed in range(3):
                for variant in variants:
                    write_run(results, dataset, category, seed, variant)
    html = page(results, params(datasets, variants, range(3)))
    data = data_of(html)
    assert len(data["cells"]) == 864 and len(data["stages"]) == 2 * 864 + 1
    assert len(html) < 3_500_000
    Checker(html)


def test_report_writes_the_page(small):
    results, text = small
    report(results, text)
    html = (results / "report.html").read_text(encoding="utf-8")
    assert Checker(html).of("img")  # the figures that every report has


def test_style_script_and_template_count_as_code():
    page_files = {"template.html.j2", "style.css", "script.js"}
    wanted = {f"realnet/report/page/{name}" for name in page_files} | {"realnet.report.page.page"}
    assert wanted <= set(code_of("report"))
