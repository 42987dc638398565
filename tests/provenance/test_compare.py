"""`realnet compare` on two small folders of results with one known difference."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from realnet.cli import app
from realnet.core.errors import UserError
from realnet.evaluation.stored import load_per_image, save_per_image
from realnet.metrics import (
    bootstrap,
    image_auroc,
    interval,
    per_image,
    pixel_metrics,
)
from realnet.provenance.compare import BEYOND, SAME, UNKNOWN, WITHIN, compare, means
from realnet.provenance.compare_inputs import Change, changes
from realnet.provenance.compare_text import to_text
from realnet.provenance.lineage import moved, records

METRICS = ("image_auroc", "pixel_auroc", "pro")
CATEGORIES, SEEDS, VARIANTS = ("nut", "pcb"), (0, 1), ("base", "texture")
IMAGES, SIDE = 24, 12


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(root: Path, category: str, change: str = "") -> None:
    path = root / "data/own" / category / "manifest.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["path,split,label,defect,sha256,mask_sha256", f"t.png,train,0,good,t{change},"]
    rows += [f"{k}.png,test,{k % 2},{'hole' if k % 2 else 'good'},i{k},m{k}" for k in range(IMAGES)]
    path.write_text("\n".join(rows) + "\n")


def record(folder: Path, stage: str, inputs: dict[str, str], params: dict, **facts) -> None:
    """As realnet.provenance.record writes it, with paths of a former results folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "stage": stage,
        "dataset": "own",
        "category": folder.parts[-3],
        "params": params,
        "inputs": {
            name: {"path": f"elsewhere/results/{path}", "sha256": digest(path)}
            for name, path in inputs.items()
        },
        "device": "cpu",
        "git_commit": "a" * 40,
        "python": "3.11.7",
        "versions": {"torch": "2.14.1"},
    }
    (folder / "stage.json").write_text(json.dumps(content | facts))


def write_run(
    root: Path, category: str, seed: int, variant: str, shift: float = 0.0, noise: int = 0
) -> Path:
    """Scores that are better by ``shift`` on the defects; equal ones for equal arguments."""
    where = [CATEGORIES.index(category), seed, VARIANTS.index(variant)]
    draw = np.random.default_rng([*where, noise])
    masks = np.zeros((IMAGES, SIDE, SIDE), bool)
    masks[1::2, 2:6, 3:8] = True
    margins = draw.normal(size=masks.shape).astype(np.float32) + (0.5 + shift) * masks
    labels = np.arange(IMAGES) % 2
    scores = margins.mean((1, 2)) + 0.1 * shift * labels
    kinds = ["hole" if label else "good" for label in labels]
    place = f"own/{category}/seed{seed}/{variant}"
    folder = root / "evaluate" / place
    folder.mkdir(parents=True, exist_ok=True)
    save_per_image(folder / "per_image.npz", per_image(margins, masks, scores, labels, kinds))
    with (folder / "scores.npz").open("wb") as target:
        np.savez(target, margins=margins)
    values = {"image_auroc": image_auroc(scores, labels)} | pixel_metrics(margins, masks)
    values |= {"dataset": "own", "category": category, "seed": seed, "variant": variant}
    (folder / "metrics.json").write_text(json.dumps(values))

    manifest = {"manifest": f"data/own/{category}/manifest.csv"}
    compute = {"compute": {"threads": 1, "device": "auto"}}
    record(root / "backbone/base", "backbone", {}, {"backbone": {"arch": "resnet18"}} | compute)
    model = {"backbone": "backbone/base/backbone.json", **manifest}
    training = {"training": {"steps": 500, "loss": {"kind": "ce"}}} | compute
    record(root / f"realnet/{place}", "realnet", model, training, processes=1)
    sources = {"model": f"realnet/{place}/model.json", **manifest}
    record(folder, "evaluate", sources, {"evaluate": {"pool": 4}} | compute)
    return folder


def write(root: Path) -> Path:
    for category in CATEGORIES:
        write_manifest(root, category)
        for seed in SEEDS:
            for variant in VARIANTS:
                write_run(root, category, seed, variant)
    return root


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pristine") / "results")


@pytest.fixture
def both(pristine, tmp_path):
    """(A, B): the same results in two places."""
    for name in "ab":
        shutil.copytree(pristine, tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def rewrite(root: Path, pattern: str, change) -> None:
    """Every record of that stage, with ``change`` applied."""
    paths = sorted(root.glob(f"{pattern}/stage.json"))
    assert paths
    for path in paths:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def inputs_of(a: Path, b: Path) -> dict[Change, int]:
    """Each difference with the number of runs that have it."""
    return {change: len(cells) for change, cells in compare(a, b).inputs.items()}


# --- inputs ---------------------------------------------------------------------------------------


def test_equal_results_in_two_places_are_identical(both):
    found = compare(*both)
    assert len(found.runs) == 8 and not found.only_a and not found.only_b
    assert found.inputs == {}
    for cell in found.runs:
        assert cell.same_scores and cell.paired
        assert {move.moved for move in cell.moves.values()} == {SAME}
    text = to_text(found)
    assert "8 unchanged (8 with identical scores of every pixel)" in text
    assert text.rstrip().endswith("None.")


def test_the_chain_is_followed_in_a_moved_results_folder(both):
    folder = both[0] / "evaluate/own/nut/seed1/base"
    assert set(records(both[0], folder)) == {"evaluate", "realnet", "backbone"}
    model = "/any/results/realnet/own/nut/seed1/base/model.json"
    assert moved(both[0], model) == both[0] / "realnet/own/nut/seed1/base"
    assert moved(both[0], "data/weights/backbone.pth") is None


def test_a_parameter_of_an_early_stage_is_one_line_for_all_runs(both):
    def other(content):
        content["params"]["backbone"]["arch"] = "resnet50"

    rewrite(both[1], "backbone/*", other)
    assert inputs_of(*both) == {Change("params", "backbone.arch", '"resnet18"', '"resnet50"'): 8}
    text = to_text(compare(*both))
    assert text.count("backbone.arch") == 1
    assert '- backbone.arch: "resnet18" → "resnet50"\n' in text


def test_a_parameter_of_some_runs_names_them(both):
    def longer(content):
        content["params"]["training"] |= {"steps": 900, "loss": {"kind": "ce", "gamma": 2.0}}

    rewrite(both[1], "realnet/own/nut/seed*/texture", longer)
    assert inputs_of(*both) == {
        Change("params", "training.loss.gamma", "(none)", "2.0"): 2,
        Change("params", "training.steps", "500", "900"): 2,
    }
    text = to_text(compare(*both))
    assert "training.steps: 500 → 900 (own/nut/seed0/texture, own/nut/seed1/texture)" in text


def test_a_parameter_that_all_stages_read_is_one_difference(both):
    def threads(content):
        content["params"]["compute"]["threads"] = 4

    for pattern in ("backbone/*", "realnet/*/*/*/*", "evaluate/*/*/*/*"):
        rewrite(both[1], pattern, threads)
    assert inputs_of(*both) == {Change("params", "compute.threads", "1", "4"): 8}


def test_code_packages_device_and_processes(both):
    def elsewhere(content):
        content |= {"git_commit": "b" * 40 + "+dirty", "device": "cuda", "processes": 4}
        content["versions"] = {"torch": "2.15.0", "timm": "1.0.31"}
        content["python"] = "3.13.1"

    rewrite(both[1], "realnet/*/*/*/*", elsewhere)
    assert inputs_of(*both) == {
        Change("code", "realnet", "a" * 10, "b" * 10 + "+dirty"): 8,
        Change("packages", "python", "3.11.7", "3.13.1"): 8,
        Change("packages", "timm", "(none)", "1.0.31"): 8,
        Change("packages", "torch", "2.14.1", "2.15.0"): 8,
        Change("device", "realnet", "cpu", "cuda"): 8,
        Change("processes", "realnet", "1", "4"): 8,
    }


def test_stages_with_the_same_two_commits_are_one_line(both):
    for pattern in ("backbone/*", "realnet/*/*/*/*"):
        rewrite(both[1], pattern, lambda content: content.update(git_commit="c" * 40))
    assert "- backbone, realnet: aaaaaaaaaa → cccccccccc\n" in to_text(compare(*both))


def test_other_training_images_are_data_and_the_test_images_stay_paired(both):
    for name in ("realnet", "evaluate"):
        rewrite(
            both[1],
            f"{name}/own/pcb/*/*",
            lambda content: content["inputs"]["manifest"].update(sha256="f" * 64),
        )
    write_manifest(both[1], "pcb", "other")
    (change,) = inputs_of(*both).items()
    assert change[0].kind == "data" and change[0].name == "manifest of own/pcb" and change[1] == 4
    assert all(cell.paired for cell in compare(*both).runs)
    (both[1] / "data/own/pcb/manifest.csv").unlink()  # the manifests can no longer be compared
    paired = {cell.run.category: cell.paired for cell in compare(*both).runs}
    assert paired == {"nut": True, "pcb": False}


def test_a_result_that_differs_without_a_cause_is_reported(both):
    rewrite(
        both[1],
        "evaluate/own/nut/seed0/base",
        lambda content: content["inputs"]["model"].update(sha256="e" * 64),
    )
    (change,) = inputs_of(*both)
    assert (change.kind, change.name, change.b) == ("results", "realnet", "e" * 12)
    # With a cause it is a consequence, and not reported.
    rewrite(both[1], "realnet/own/nut/seed0/base", lambda c: c["params"].update(more=1))
    assert [change.kind for change in inputs_of(*both)] == ["params"]


def test_weights_from_outside_are_inputs(both):
    for root, sha in zip(both, ("1" * 64, "2" * 64), strict=True):
        weights = {"path": "data/weights/resnet.pth", "sha256": sha}
        rewrite(root, "backbone/*", lambda c, w=weights: c["inputs"].update(weights=w))
    assert inputs_of(*both) == {Change("inputs", "weights", "1" * 12, "2" * 12): 8}


def test_a_stage_in_one_chain_alone(both):
    shutil.rmtree(both[1] / "backbone")
    found = inputs_of(*both)
    assert found[Change("params", "stage backbone", "present", "(none)")] == 8


# --- runs -----------------------------------------------------------------------------------------


def test_another_seed_is_another_run(both):
    shutil.move(both[1] / "evaluate/own/nut/seed1", both[1] / "evaluate/own/nut/seed7")
    for path in (both[1] / "evaluate/own/nut/seed7").glob("*/metrics.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 7}))
    found = compare(*both)
    assert len(found.runs) == 6
    assert [cell.seed for cell in found.only_a] == [1, 1]
    assert [(c.category, c.seed, c.variant) for c in found.only_b] == [
        ("nut", 7, "base"),
        ("nut", 7, "texture"),
    ]
    text = to_text(found)
    assert "2 only in A, 2 only in B" in text
    assert "### Only in B\n\nown/nut/seed7/base, own/nut/seed7/texture" in text


def test_changes_are_compared_with_the_paired_bootstrap(both):
    folder = write_run(both[1], "nut", 0, "base", shift=1.0)
    write_run(both[1], "pcb", 1, "texture", noise=1)  # equally good, on other pixels
    cells = {tuple(c.run)[1:]: c for c in compare(*both).runs}
    far, near = cells["nut", 0, "base"], cells["pcb", 1, "texture"]
    assert far.moves["pixel_auroc"].moved == BEYOND and far.same_scores is False
    assert near.moves["pixel_auroc"].moved == WITHIN
    assert near.moves["pixel_auroc"].difference != 0
    assert sum(cell.moves["pixel_auroc"].moved != SAME for cell in cells.values()) == 2

    old = load_per_image(both[0] / folder.relative_to(both[1]) / "per_image.npz")
    new = load_per_image(folder / "per_image.npz")
    pairs = [bootstrap(stats, "pixel_auroc", name="nut") for stats in (old, new)]
    move = far.moves["pixel_auroc"]
    assert (move.low, move.high) == interval(pairs[1] - pairs[0])
    assert move.low < move.difference < move.high
    assert "1 changed beyond noise, 1 within noise, 6 unchanged" in to_text(compare(*both))
    assert re.search(r"own/nut/seed0/base +\| Pixel AUROC", to_text(compare(*both)))


def test_other_test_images_give_a_wider_unpaired_interval(both):
    write_run(both[1], "nut", 0, "base", shift=0.3)
    narrow = compare(*both).runs[0].moves["pixel_auroc"]
    for root, sha in zip(both, ("1" * 64, "2" * 64), strict=True):
        rewrite(
            root,
            "evaluate/own/nut/seed0/base",
            lambda content, s=sha: content["inputs"]["manifest"].update(path="x.csv", sha256=s),
        )
    first = compare(*both).runs[0]
    wide = first.moves["pixel_auroc"]
    assert first.paired is False
    assert wide.difference == narrow.difference
    assert wide.high - wide.low > narrow.high - narrow.low
    assert "different test images" in to_text(compare(*both))


def test_without_statistics_of_images_the_noise_is_unknown(both):
    folder = write_run(both[1], "nut", 0, "base", shift=1.0)
    (folder / "per_image.npz").unlink()
    found = compare(*both)
    assert found.runs[0].moves["pro"].moved == UNKNOWN
    assert found.runs[0].moves["pro"].low is None
    assert "Noise unknown" in to_text(found)
    assert "Noise unknown" not in to_text(compare(both[0], both[0]))


def test_means_over_runs_have_their_own_interval(both):
    for category in CATEGORIES:
        for seed in SEEDS:
            write_run(both[1], category, seed, "base", shift=0.5)
    moves = means(compare(*both))
    assert list(moves) == [("own", "base"), ("own", "texture")]
    mean = moves["own", "base"]["pixel_auroc"]
    cells = [c.moves["pixel_auroc"] for c in compare(*both).runs if c.run.variant == "base"]
    assert mean.difference == pytest.approx(np.mean([c.difference for c in cells]))
    assert mean.moved == BEYOND
    assert mean.high - mean.low < max(c.high - c.low for c in cells)
    assert moves["own", "texture"]["pro"].moved == SAME


def test_undefined_in_both_is_no_change(both):
    for root in both:
        path = root / "evaluate/own/nut/seed0/base/metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pro": None}))
    move = compare(*both).runs[0].moves["pro"]
    assert (move.a, move.b, move.difference, move.moved) == (None, None, None, SAME)
    assert "n/a" in to_text(compare(*both))


# --- the command ----------------------------------------------------------------------------------


def test_command_writes_what_it_shows(both, tmp_path):
    write_run(both[1], "nut", 0, "base", shift=1.0)
    rewrite(both[1], "realnet/*/*/*/*", lambda c: c["params"]["training"].update(steps=900))
    files = ["--json", str(tmp_path / "c.json"), "--md", str(tmp_path / "c.md")]
    done = CliRunner().invoke(app, ["compare", *map(str, both), *files])
    assert done.exit_code == 0
    assert (tmp_path / "c.md").read_text() == done.output
    values = json.loads((tmp_path / "c.json").read_text())
    assert len(values["cells"]) == 8 and values["only_in_a"] == []
    assert values["cells"][0]["metrics"]["pro"]["moved"] == BEYOND
    (change,) = values["inputs"]
    assert (change["name"], change["a"], change["b"]) == ("training.steps", "500", "900")
    assert len(change["cells"]) == 8
    assert done.output.index("### Changes") < done.output.index("### Inputs that differ")


def test_level_decides_how_wide_the_intervals_are(both):
    write_run(both[1], "nut", 0, "base", shift=0.3)
    widths = []
    for level in (0.5, 0.99):
        move = compare(*both, level).runs[0].moves["pixel_auroc"]
        widths.append(move.high - move.low)
    assert widths[0] < widths[1]
    with pytest.raises(UserError, match="--level: 95 is not between 0 and 1"):
        compare(*both, 95)


@pytest.mark.parametrize("name", ["nosuch", "empty"])
def test_a_wrong_folder_is_one_line(both, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected a folder of results") as caught:
        compare(both[0], tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_broken_record_is_named(both):
    path = both[1] / "evaluate/own/nut/seed0/base/stage.json"
    path.write_text('{"stage": "evaluate"}')
    with pytest.raises(UserError, match=re.escape(f"{path}: not the record of a stage")):
        compare(*both)


def test_changes_come_in_the_order_of_their_kinds(both):
    def all_of_it(content):
        content |= {"device": "cuda", "git_commit": "d" * 40}
        content["params"]["training"]["steps"] = 1
        content["versions"]["torch"] = "1"

    rewrite(both[1], "realnet/*/*/*/*", all_of_it)
    folder = "evaluate/own/nut/seed0/base"
    found = changes(*both, both[0] / folder, both[1] / folder)
    assert [change.kind for change in found] == ["params", "code", "packages", "device"]
