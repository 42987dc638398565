"""The figures of the report, from small hand-made result files, also incomplete ones."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from realnet.core.io import write_csv, write_json, write_png
from realnet.evaluation.assemble import Resampling, assemble
from realnet.evaluation.details import write_curves
from realnet.evaluation.stored import save_per_image
from realnet.metrics import image_score, image_separation, per_image, pixel_metrics
from realnet.plots import (
    ablation,
    against_paper,
    channels,
    cost,
    curves,
    losses,
    panels,
    residual_maps,
    scores,
    strength,
    style,
    synthesis,
)
from realnet.plots.chain import chain
from realnet.plots.gallery import make_figures, write_figures
from realnet.plots.made import Drawn, Skipped
from realnet.plots.overview import _strips, overview
from realnet.plots.summary import summary
from realnet.tables.runs import collect, matrix_of

SIZE = 16
CATEGORIES = ("left_half", "a_rather_long_category_name")
VARIANTS = ("base", "sdas")  # one has the name of a stage
TYPES = ("good", "scratch", "a_very_long_kind_of_defect")
GROUPS = {"synthesis": ("Where anomalies come from", VARIANTS)}
FIGURES = (
    *("intervals", "differences", "cost", "panels", "curves", "scores"),
    *("strength", "synthesis", "channels", "residuals", "losses"),
)


def parameters(**experiment) -> str:
    matrix = {"name": "t", "datasets": {"bolts": list(CATEGORIES)}, "seeds": [0, 1]}
    values = {
        "experiment": matrix | {"variants": list(VARIANTS)} | experiment,
        "variants": {
            "base": {},
            "sdas": {"synthesis": {"foreground": "none"}},
            "patchcore": {"method": {"name": "patchcore"}},
        },
        "report": {"digits": 1, "bootstrap": 50, "level": 0.95},
    }
    return json.dumps(values)


def record(folder: Path, stage: str, **inputs: str) -> None:
    """As `realnet.provenance.record` writes it, in short; 10 seconds each."""
    entries = {name: {"path": path, "sha256": "0"} for name, path in inputs.items()}
    content = {"stage": stage, "inputs": entries, "wall_s": 10.0, "peak_memory_mb": 512}
    write_json(folder / "stage.json", content | {"device": "cpu", "params": {}})


def evaluation(folder: Path, images: Path, where: tuple, seed: int, model: str) -> None:
    rng = np.random.default_rng(seed)
    labels = np.array([0] * 4 + [1] * 8, np.uint8)
    defects = [TYPES[0]] * 4 + [TYPES[1]] * 4 + [TYPES[2]] * 4
    masks = np.zeros((12, SIZE, SIZE), bool)
    masks[4:, 3:9, 4:10] = True
    margins = (rng.normal(size=masks.shape) + 1.5 * masks).astype(np.float32)
    found = image_score(margins, 4)
    folder.mkdir(parents=True)
    for number in range(12):
        if not (images / f"{number}.png").is_file():
            write_png(images / f"{number}.png", rng.integers(0, 255, (20, 20, 3), np.uint8))
    paths = [images / f"{number}.png" for number in range(12)]
    np.savez_compressed(
        folder / "scores.npz", margins=margins, masks=masks, has_masks=np.array(True),
        image_scores=found, labels=labels, paths=np.array([str(p) for p in paths]),
        defects=np.array(defects),
    )  # fmt: skip
    rows = [
        {"path": p, "label": int(y), "defect": k, "score": float(s)}
        for p, y, k, s in zip(paths, labels, defects, found, strict=True)
    ]
    write_csv(folder / "images.csv", rows, ["path", "label", "defect", "score"])
    write_curves(folder / "curves.npz", margins, masks, found, labels)
    np.savez_compressed(folder / "residuals.npz", **residuals(rng))
    statistics = per_image(margins, masks, found, labels, defects)
    save_per_image(folder / "per_image.npz", statistics)
    values = assemble(None, statistics, Resampling(where[1])).intervals
    pixels = pixel_metrics(margins, masks)
    identity = dict(zip(("dataset", "category", "seed", "variant"), where, strict=True))
    write_json(
        folder / "metrics.json",
        values | identity | pixels | {"image_auroc": 0.9, "image_ap": 0.8, "has_masks": True},
    )
    record(folder, "evaluate", model=model)


def residuals(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """As `realnet.evaluation.residuals` counts them: 6 maps of two layers, 2 slots by each rule."""
    maps = rng.normal(size=(2, 4, 8, 8)).astype(np.float16)
    maps[:, 3] = np.nan  # only three were dropped
    return {
        "kept_max": np.array([[4, 4, 0, 0, 0, 0], [0, 8, 8, 0, 0, 0]]),
        "kept_mean": np.array([[0, 0, 4, 4, 0, 0], [0, 0, 0, 8, 8, 0]]),
        "counted": np.array([4, 8]),
        "layers": np.array([0, 0, 1, 1, 1, 1]),
        "examples": np.array([4, 9]),
        "pictures": rng.integers(0, 255, (2, SIZE, SIZE, 3), np.uint8),
        "kept_maps": np.abs(maps[:, :3]).repeat(2, 1)[:, :4],
        "dropped_maps": maps,
    }


def training(results: Path, category: str, seed: int, variant: str) -> str:
    """The folders of one training and the stages before it; returns the path of its model."""
    rng = np.random.default_rng(7)
    place = f"bolts/{category}/seed{seed}"
    backbone = "elsewhere/results/backbone/base/backbone.json"
    record(results / "backbone/base", "backbone")
    ddpm, sdas = results / f"ddpm/{place}/base", results / f"sdas/{place}/base"
    record(ddpm, "ddpm", manifest="elsewhere/results/data/bolts/manifest.csv")
    history = [{"step": k, "loss": 1 / (k + 1)} for k in range(40)]
    write_csv(ddpm / "history.csv", history, ["step", "loss"])
    record(sdas, "sdas", ddpm=f"elsewhere/results/ddpm/{place}/base/config.json")
    normal = rng.integers(0, 255, (3, SIZE, SIZE, 3), np.uint8)
    np.savez(
        sdas / "grid.npz", normal=normal, strengths=np.array([0.0, 0.5, 1.0]),
        images=rng.integers(0, 255, (3, 3, SIZE, SIZE, 3), np.uint8),
    )  # fmt: skip
    afs = results / f"afs/{place}/{variant}"
    record(afs, "afs", backbone=backbone)
    values = rng.random((2, 12))
    kept = [sorted(np.argsort(row)[:4].tolist()) for row in values]
    layers = [{"indices": k, "scores": row.tolist()} for k, row in zip(kept, values, strict=True)]
    write_json(afs / "afs.json", {"selection": "afs", "layers": layers})
    realnet = results / f"realnet/{place}/{variant}"
    above = {"afs": f"elsewhere/results/afs/{place}/{variant}/afs.json", "backbone": backbone}
    if variant == "base":
        above["sdas"] = f"elsewhere/results/sdas/{place}/base/manifest.csv"
    record(realnet, "realnet", **above)
    source = "sdas" if variant == "base" else "texture"
    masks = np.zeros((2, SIZE, SIZE), bool)
    masks[:, 2:5, 2:9] = True
    np.savez(
        realnet / "anomalies.npz", normal=normal[:2], anomalous=normal[1:], masks=masks,
        sources=np.array([source] * 2), items=np.array([0, 2]),
    )  # fmt: skip
    loss = [
        {"step": k, "loss_segmentation": 1 / (k + 1), "loss_reconstruction": 2 / (k + 1)}
        for k in range(40)
    ]
    write_csv(realnet / "history.csv", loss, list(loss[0]))
    return f"elsewhere/results/realnet/{place}/{variant}/model.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("figures")
    results = root / "results"
    for c, category in enumerate(CATEGORIES):
        for seed in (0, 1):
            for v, variant in enumerate(VARIANTS):
                model = training(results, category, seed, variant)
                where = ("bolts", category, seed, variant)
                folder = results / "evaluate" / Path(*map(str, where[:2])) / f"seed{seed}/{variant}"
                evaluation(folder, root / "images", where, 10 * c + 2 * seed + v, model)
    return results


def found_in(results: Path, **experiment):
    return collect(results, matrix_of(parameters(**experiment)), (), allow_missing=True)


def draw(results: Path, **experiment) -> dict[str, Drawn | Skipped]:
    found = found_in(results, **experiment)
    return {entry.name: entry for entry in make_figures(found, results, GROUPS)}


@pytest.fixture(scope="module")
def drawn(made):
    return draw(made)


@style.styled
def problems(figure) -> list[str]:
    """Words that leave the figure, overlap each other, or are smaller than the style's smallest."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, page = canvas.get_renderer(), figure.bbox
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    hidden = not_drawn(figure)
    boxes = [(t, t.get_window_extent(renderer)) for t in texts if id(t) not in hidden]
    wrong = [f"small: {t.get_text()!r}" for t, _ in boxes if t.get_fontsize() < style.SMALL]
    for text, box in boxes:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > page.x1 + 1 or box.y1 > page.y1 + 1:
            wrong.append(f"outside: {text.get_text()!r}")
    for (a, one), (b, other) in itertools.combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        along = min(one.y1, other.y1) - max(one.y0, other.y0)
        if across > 1.5 and along > 1.5:
            wrong.append(f"overlap: {a.get_text()!r}, {b.get_text()!r}: {across:.1f} x {along:.1f}")
    return wrong


def not_drawn(figure) -> set[int]:
    """Labels of ticks beyond the limits of their axes."""
    labels = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        ticks = [*axis.majorTicks, *axis.minorTicks]
        hidden = {id(tick) for tick in ticks} - {id(tick) for tick in axis._update_ticks()}
        labels |= {
            id(t) for tick in ticks if id(tick) in hidden for t in (tick.label1, tick.label2)
        }
    return labels


# --- all of them ---------------------------------------------------------------------------------


def test_all_figures_are_drawn_with_legible_text(drawn):
    assert set(drawn) == {f"{name}_bolts" for name in FIGURES}
    for entry in drawn.values():
        assert isinstance(entry, Drawn), entry
        assert entry.caption.endswith(".") and len(entry.caption) > 80 and "bolts" in entry.title
        assert entry.figure.get_size_inches()[0] <= style.WIDTH
        assert problems(entry.figure) == [], entry.name


def test_summary_and_overview_share_the_style(made):
    found = found_in(made)
    picture, absent = overview(found)
    assert absent == []
    for figure in (summary(found), picture):
        assert figure.get_size_inches()[0] <= style.WIDTH and problems(figure) == []


def test_files_are_reproducible_and_listed_in_the_index(drawn, tmp_path):
    chosen = [drawn[f"{name}_bolts"] for name in ("differences", "scores", "strength")]
    gone = Skipped("curves_bolts", "Curves", "no curves.npz", "bolts")
    first = write_figures([*chosen, gone], tmp_path / "a")
    again = draw_again(chosen, tmp_path / "b", gone)
    assert first == again == json.loads((tmp_path / "a/index.json").read_text())
    assert first["skipped"] == [
        {"name": "curves_bolts", "dataset": "bolts", "title": "Curves", "reason": "no curves.npz"}
    ]
    names = {file.name for file in (tmp_path / "a").iterdir()}
    assert names == {"index.json"} | {n for f in first["figures"] for n in f["files"]}
    for name in names:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes() and b"dc:date" not in content
    assert first["figures"][1]["files"] == ["scores_bolts.svg", "scores_bolts.png"]
    assert first["figures"][1]["caption"] == chosen[1].caption


def draw_again(chosen, folder, gone):
    """Draw over the files of an earlier state, of which two figures are gone."""
    write_figures([*chosen, Drawn("old", "Old", "Old.", chosen[0].figure)], folder)
    (folder / "curves_bolts.png").write_bytes(b"of an earlier version")
    assert (folder / "old.svg").is_file()
    return write_figures([*chosen, gone], folder)


# --- parts that are missing ----------------------------------------------------------------------


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "results"))


def test_figures_of_metrics_need_only_metrics_json(copy):
    for file in copy.rglob("*"):
        if file.is_file() and file.name != "metrics.json":
            file.unlink()
    entries = draw(copy)
    shown = {name for name, entry in entries.items() if isinstance(entry, Drawn)}
    assert shown == {"intervals_bolts", "differences_bolts"}
    reasons = {name: e.reason for name, e in entries.items() if isinstance(e, Skipped)}
    assert set(reasons) == {f"{n}_bolts" for n in FIGURES} - shown and all(reasons.values())
    assert "evaluate again" in reasons["curves_bolts"]
    for name in shown:
        assert "interval over" not in entries[name].caption and problems(entries[name].figure) == []


def test_one_category_one_variant_one_seed(made):
    entries = draw(made, datasets={"bolts": [CATEGORIES[0]]}, seeds=[1], variants=["base"])
    assert [n for n, e in entries.items() if isinstance(e, Skipped)] == ["differences_bolts"]
    assert entries["differences_bolts"].reason == "there is only one variant"
    for entry in entries.values():
        assert isinstance(entry, Skipped) or problems(entry.figure) == [], entry.name
    assert "Jaccard" not in entries["channels_bolts"].caption


def test_a_category_with_a_missing_run_is_omitted(copy):
    shutil.rmtree(copy / f"evaluate/bolts/{CATEGORIES[1]}")
    entries = draw(copy)
    assert isinstance(entries["differences_bolts"], Skipped)  # no mean over half of the categories
    assert "1 category." in entries["intervals_bolts"].caption
    rest = [e for e in entries.values() if isinstance(e, Drawn)]
    assert len(rest) == len(FIGURES) - 1
    for entry in rest:
        assert problems(entry.figure) == [], entry.name


def test_a_dataset_without_masks(copy):
    for folder in (copy / "evaluate").rglob("seed*/*"):
        values = json.loads((folder / "metrics.json").read_text())
        values |= {"has_masks": False, "pro": None, "pixel_auroc": None, "pixel_ap": None}
        values["intervals"] |= {"pro": None, "pixel_auroc": None}
        write_json(folder / "metrics.json", values)
        with np.load(folder / "scores.npz") as file:
            data = dict(file)
        data["masks"][:] = False
        np.savez(folder / "scores.npz", **data | {"has_masks": np.array(False)})
        defects = data["defects"].tolist()
        given = (data["margins"], None, data["image_scores"], data["labels"])
        write_curves(folder / "curves.npz", *given)
        save_per_image(folder / "per_image.npz", per_image(*given, defects))
    entries = draw(copy)
    assert all(isinstance(entry, Drawn) for entry in entries.values())
    assert "no masks" in entries["panels_bolts"].caption
    for entry in entries.values():
        assert problems(entry.figure) == [], entry.name
    words = {t.get_text() for t in entries["curves_bolts"].figure.findobj(Text)}
    assert "undefined" in words


def test_images_without_ground_truth_have_no_mask(copy):
    kept = {}
    for path in (copy / "evaluate").rglob("scores.npz"):
        with np.load(path) as file:
            data = dict(file)
        data["masks"][-2:] = False
        data["pixel_labelled"] = np.arange(12) < 10
        np.savez(path, **data)
        kept[path] = data
    found = found_in(copy)
    (entry,) = panels.make(found, copy, "bolts")
    assert "the defective image without mask" in entry.caption
    words = [text.get_text() for text in entry.figure.findobj(Text)]
    assert words.count("no mask") == len(CATEGORIES)
    assert problems(entry.figure) == []
    path, data = next(iter(kept.items()))
    strips = _strips(path, "bolts", "m8", (0.0, 0.5, 1.0))
    assert len(strips) == 3 and all(strip.mask.any() for strip, _ in strips)
    order = image_separation(data["margins"], data["masks"], data["pixel_labelled"])
    worst = data["margins"][np.nanargmin(order)]
    np.testing.assert_array_equal(strips[0][0].margin, worst)


def test_a_method_without_selection_of_features_and_residuals(copy):
    for category in CATEGORIES:
        for seed in (0, 1):
            place = f"bolts/{category}/seed{seed}"
            old, new = (copy / f"evaluate/{place}/{v}" for v in ("base", "patchcore"))
            shutil.copytree(old, new)
            (new / "residuals.npz").unlink()
            values = json.loads((new / "metrics.json").read_text()) | {"variant": "patchcore"}
            write_json(new / "metrics.json", values)
            backbone = "results/backbone/base/backbone.json"
            record(copy / f"patchcore/{place}/patchcore", "patchcore", backbone=backbone)
            record(new, "evaluate", model=f"results/patchcore/{place}/patchcore/model.json")
    entries = draw(copy, variants=["patchcore", "base"])
    skipped = {name for name, entry in entries.items() if isinstance(entry, Skipped)}
    assert skipped == {"channels_bolts", "residuals_bolts"}
    assert "no stage afs" in entries["channels_bolts"].reason
    assert problems(entries["cost_bolts"].figure) == []


# --- single figures ------------------------------------------------------------------------------


def test_chains_do_not_depend_on_the_folder_of_the_computation(made):
    folder = made / "evaluate/bolts/left_half/seed0/sdas"
    stages = chain(made, folder)
    assert list(stages) == ["backbone", "afs", "realnet", "evaluate"]
    assert stages["realnet"] == made / "realnet/bolts/left_half/seed0/sdas"
    base = chain(made, made / "evaluate/bolts/left_half/seed0/base")
    assert list(base) == ["backbone", "ddpm", "sdas", "afs", "realnet", "evaluate"]
    assert base["sdas"] == made / "sdas/bolts/left_half/seed0/base"


def test_costs_count_a_shared_stage_once(made):
    found = found_in(made)
    folders = [
        chain(made, found.files[cell].parent) for cell in found.runs if cell.variant == "base"
    ]
    counted = cost._cost(found, "bolts", "base", folders)
    assert counted.cells == 4 and counted.memory == 512
    assert counted.seconds["backbone"] == pytest.approx(10 / 4)
    assert counted.seconds["ddpm"] == counted.seconds["realnet"] == pytest.approx(10)
    assert counted.total == pytest.approx(2.5 + 5 * 10)


def test_markers_of_equal_cost_are_separated_in_order():
    apart = cost._apart({"a": 100.0, "b": 50.0, "c": 100.5, "d": 0.0}, 2.0)
    assert apart == {"d": 0.0, "b": 50.0, "a": 100.0, "c": 102.0}


def test_best_median_worst_then_one_of_each_defect_type():
    order = np.array([np.nan, 0.9, 0.8, 0.7, 0.6, 0.5, np.nan])
    defects = ["good", "cut", "cut", "hole", "cut", "hole", "good"]
    assert panels.chosen(order, defects) == [
        ("best: cut", 1),
        ("median: hole", 3),
        ("worst: hole", 5),
        ("cut", 2),
    ]
    assert panels.chosen(order[:2], defects[:2]) == [("best: cut", 1)]
    assert panels.chosen(order[:1], defects[:1]) == []


def test_overlap_of_kept_channels():
    sets = [frozenset({0, 1, 2}), frozenset({1, 2, 3}), frozenset()]
    found = channels.jaccard(sets)
    assert found.tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    assert channels.chance(64, 64) == 1 and channels.chance(100, 50) == pytest.approx(1 / 3)


def test_the_mean_curve_over_seeds_keeps_its_ends():
    one = (np.array([0.0, 0.5, 1.0]), np.array([0.5, 1.0, 1.0]))
    other = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    x, y = curves.mean_curve([one, other], rate=True)
    assert (x[0], x[-1], y[-1]) == (0, 1, 1)
    assert np.interp(0.5, x, y) == pytest.approx(0.75) and (np.diff(y) > -1e-12).all()
    assert curves.mean_curve([(np.empty(0), np.empty(0))], rate=True) is None


def test_a_shortened_loss_has_the_range_and_the_mean_of_the_raw_one():
    steps = np.arange(1000.0)
    values = np.where(steps % 2 == 0, 1.0, 3.0)
    short = losses.shortened(steps, values)
    assert len(short.steps) == losses.POINTS and (short.low == 1).all() and (short.high == 3).all()
    assert np.abs(short.smooth - 2).max() < 0.1
    tiny = losses.shortened(np.arange(2.0), np.array([4.0, np.nan]))
    assert tiny.smooth.tolist() == [4.0]


def test_the_curves_of_one_run_are_written_beside_its_results(tmp_path):
    rows = [{"step": k, "loss": 1 / (k + 1), "other": 2.0} for k in range(200)]
    panels = {"loss": "cross-entropy", "other": "reconstruction"}
    for name in ("a.png", "b.png"):
        losses.write_training_curves(tmp_path / name, "bolts, seed 0", rows, panels, {0: 1, 9: 0.5})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    one = losses.shortened(np.arange(1.0), np.array([2.0]))
    figure = losses.training_curves("bolts, seed 0", {"loss": one}, {0: 1, 9: 0.5})
    assert [axes.get_title() for axes in figure.axes] == ["loss", "training accuracy"]
    assert problems(figure) == []


def test_each_group_has_its_own_reference(made):
    found = found_in(made)
    blocks = ablation.blocks_of(found, "bolts", GROUPS)
    assert [b.heading for b in blocks] == ["Where anomalies come from – against base"]
    pro = blocks[0].rows["sdas"]["pro"]
    mean = {v: found.stat("bolts", v, "mean", "pro").value for v in VARIANTS}
    assert pro.difference == pytest.approx(100 * (mean["sdas"] - mean["base"]))
    assert pro.low <= pro.difference <= pro.high and 0 < pro.p <= 1
    assert [b.heading for b in ablation.blocks_of(found, "bolts", {})] == [
        "Variants – against base"
    ]


def test_many_categories_and_variants():
    """36 categories with long names, from synthetic data."""
    names = [f"category_number_{k:02}" for k in range(36)]
    variants = [f"variant_{k}" for k in range(8)]
    rng = np.random.default_rng(0)
    rows = {n: {m: against_paper.Value(97.2, 93.0, 99.1, 98.0, 99.65)
                for m in ("image_auroc", "pixel_auroc", "pro")} for n in names}  # fmt: skip
    x = np.linspace(0, 1, 20)
    curve = {v: {key: [(x, x**0.1)] for key, *_ in curves.PANELS} for v in variants}
    ranked = [channels.Ranked(rng.random(64), frozenset(range(24))) for _ in range(4)]
    cells = {n: {v: {p[2]: [losses.shortened(np.arange(90.0), rng.random(90) + 0.01)]
                     for p in losses.PANELS} for v in variants} for n in names[:6]}  # fmt: skip
    figures = {
        "bars": against_paper.bars(rows),
        "curves": curves.curve_grid({n: curve for n in names[:6]}, variants, {}),
        "channels": channels.channel_ranking({n: ranked for n in names}),
        "losses": losses.loss_grid(cells, variants),
        "residuals": residual_maps.kept_residuals({n: residuals(rng) for n in names}),
        "scores": scores.score_panels(
            {n: {"normal": rng.random(9)} | {f"kind_{k}_of_defect": rng.random(3) for k in range(8)}
             for n in names[:6]}
        ),
        "strength": strength.strength_grid(
            {n: strength.Grid(np.zeros((1, 6, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8),
                              np.arange(6.0)) for n in names[:9]}
        ),
        "synthesis": synthesis.synthesis_methods(
            [(n, {"sdas": synthesis.Anomaly(*[np.zeros((8, 8, 3), np.uint8)] * 3)})
             for n in names[:12]],
            list(synthesis.ORDER),
        ),
    }  # fmt: skip
    for name, figure in figures.items():
        assert problems(figure) == [], name
        assert figure.get_size_inches()[1] <= style.PAGE + 0.3, name


def test_legends_are_as_wide_as_the_page_allows():
    assert style.columns_for(["base"]) == 1
    assert style.columns_for([f"v{k}" for k in range(8)]) == 8
    assert 1 <= style.columns_for(["x" * 40] * 8) <= 2
    assert style.fitted("bracket_black", 0.6, 7) == "bracket_\nblack"
    assert style.fitted("toothbrush", 0.3, 7).endswith("…")
    assert style.pages(list("abcdefg"), 3) == [("a", "b", "c"), ("d", "e", "f"), ("g",)]
