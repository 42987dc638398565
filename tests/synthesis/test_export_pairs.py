"""Exported pairs: equal to those of the training, with a manifest, in a known layout."""

import numpy as np
import pytest
import torch
from builders import (
    job,
    make_backbone,
    make_sia,
    params_for,
    prepare,
    select_features,
    train_ddpm,
    train_realnet,
)
from PIL import Image
from typer.testing import CliRunner

from realnet.cli import app
from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256
from realnet.datasets.demo.demo_dataset import make_demo
from realnet.datasets.images import load_images, read_image, read_mask
from realnet.datasets.items import read_manifest
from realnet.datasets.verify.verify_dataset import verify
from realnet.interop.export_pairs import FIELDS, export_pairs
from realnet.synthesis.sources import sdas_pool, texture_pool
from realnet.synthesis.synthesiser import AnomalySynthesiser

RUN = ("demo", "hex_nut")
SIZE = 32  # of smoke


def stage(name="realnet", **overrides):
    return params_for(name, **overrides)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A manifest, and SIA images of it."""
    root = tmp_path_factory.mktemp("pairs")
    make_demo(load(overrides={"preset": "smoke"}).data.demo, root / "raw")
    prepare(*RUN, root / "raw", root)
    train_ddpm(stage("ddpm"), [root / "manifest.csv"], "demo", ["hex_nut"], 0, root / "ddpm")
    make_sia(stage("sia"), root / "ddpm", root / "manifest.csv", *RUN, 0, root / "sia")
    return root


def export(made, out, count=12, seed=0, images="sia", size="model", normals=False, **overrides):
    """Export; returns the rows of the manifest."""
    inputs = {"manifest": made / "manifest.csv", "images": made / images if images else None}
    export_pairs(job(stage(**overrides), inputs, *RUN, seed, out), count, size, normals)
    return read_csv(out / "manifest.csv")


def files(out):
    """All files but the record, which has times."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "stage.json"
    }


@pytest.mark.parametrize(
    "length",
    [
        pytest.param({"steps": 5}, marks=pytest.mark.slow),
        {"steps": None, "epochs": 2, "batch_size": 3},
    ],
)
def test_pairs_equal_those_of_the_training(made, tmp_path, monkeypatch, length):
    """Run a training and record every batch of anomalies."""
    seen, draw = [], AnomalySynthesiser.__call__

    def spy(self, images, *rest):
        drawn = draw(self, images, *rest)
        if self.names[0] == "realnet":
            seen.extend(zip(drawn.images, drawn.masks, strict=True))
        return drawn

    training = {"training": {**length, "select_every": None}}
    make_backbone(stage("backbone"), tmp_path / "backbone")
    given = made / "manifest.csv", tmp_path / "backbone"
    select_features(stage("afs"), *given, made / "sia", *RUN, 0, tmp_path / "afs")
    monkeypatch.setattr(AnomalySynthesiser, "__call__", spy)
    train_realnet(
        *(stage(**training), *given, tmp_path / "afs", made / "sia", *RUN, 0, tmp_path / "r")
    )
    trained = [(image, mask) for image, mask in seen if mask.any()]  # here every anomaly has a mask
    assert len(seen) > len(trained) > 5
    seen.clear()
    rows = export(made, tmp_path / "pairs", len(trained), **training)
    for row, (image, mask) in zip(rows, trained, strict=True):
        ours = torch.from_numpy(read_image(tmp_path / "pairs" / row["path"])).permute(2, 0, 1)
        assert torch.equal(ours, image)
        assert np.array_equal(read_mask(tmp_path / "pairs" / row["mask"]), mask.numpy())


def test_anomalies_equal_the_blend_in_the_manifest(made, tmp_path):
    rows = export(made, tmp_path / "out", 20)
    assert tuple(rows[0]) == FIELDS
    assert {row["source"] for row in rows} == {"sdas", "texture"}
    pools = {"sdas": sdas_pool(made / "sia", SIZE), "texture": texture_pool(0, *RUN, SIZE)}
    items = {item.path.as_posix(): item for item in read_manifest(made / "manifest.csv")}
    opacities = stage().synthesis.opacity
    for row in rows:
        image = read_image(tmp_path / "out" / row["path"])
        mask = read_mask(tmp_path / "out" / row["mask"])
        assert sha256(tmp_path / "out" / row["path"]) == row["sha256"]
        assert mask.any() and items[row["normal"]].split == "train"
        before = load_images([items[row["normal"]]], SIZE)[0].permute(1, 2, 0).numpy()
        patch = pools[row["source"]][int(row["source_index"])].permute(1, 2, 0).numpy()
        if row["source"] == "sdas":
            assert np.array_equal(read_image(row["source_path"]), patch)
        opacity = float(row["opacity"])
        low, high = opacities[row["source"]]
        assert low <= opacity <= high
        wanted = opacity * patch + (1 - opacity) * before.astype(float)
        assert np.abs(image - wanted)[mask].max() <= 0.51  # rounded
        assert np.array_equal(image[~mask], before[~mask])


def test_equal_seeds_give_equal_files_and_smaller_counts_a_prefix(made, tmp_path):
    export(made, tmp_path / "a")
    export(made, tmp_path / "b")
    first = files(tmp_path / "a")
    assert files(tmp_path / "b") == first
    few = export(made, tmp_path / "few", 5)
    assert few == read_csv(tmp_path / "a/manifest.csv")[:5]
    images = [name for name in files(tmp_path / "few") if name.startswith(("test", "ground"))]
    assert len(images) == 10
    assert all(first[name] == (tmp_path / "few" / name).read_bytes() for name in images)
    other = export(made, tmp_path / "other", seed=1)
    assert {r["sha256"] for r in other}.isdisjoint(r["sha256"] for r in few)


@pytest.mark.parametrize("size", ["model", "original"])
def test_the_folder_can_be_used_as_a_category(made, tmp_path, size):
    rows = export(made, tmp_path / "raw/pairs/nut", size=size, normals=True)
    prepared = prepare("pairs", "nut", tmp_path / "raw/pairs", tmp_path)
    sources = [row["source"] for row in rows]
    assert prepared["counts"] == {
        "train": {"good": 8},
        "test": {"good": 3, **{source: sources.count(source) for source in sorted(set(sources))}},
    }
    assert prepared["sizes"] == (["32x32"] if size == "model" else ["128x128"])
    (checked,) = verify(
        [("pairs", "nut")], tmp_path / "raw", tmp_path / "none", stage("data").prepare
    )
    found = [p for p in checked.problems if p.severity != "note"]
    assert [p.kind for p in found] == ["unused-images"] and "pairs.png" in found[0].message
    for row in read_csv(tmp_path / "raw/pairs/nut/normals.csv"):
        ours, theirs = (
            read_image(tmp_path / "raw/pairs/nut" / row["path"]),
            read_image(row["normal"]),
        )
        assert ours.shape[0] == (SIZE if size == "model" else theirs.shape[0])
        if size == "original":
            assert np.array_equal(ours, theirs)


def test_original_size(made, tmp_path):
    small = export(made, tmp_path / "small")
    large = export(made, tmp_path / "large", size="original")
    for a, b in zip(small, large, strict=True):
        assert {k: a[k] for k in a if "sha256" not in k} == {
            k: b[k] for k in b if "sha256" not in k
        }
        image, before = read_image(tmp_path / "large" / b["path"]), read_image(b["normal"])
        mask = read_mask(tmp_path / "large" / b["mask"])
        assert image.shape == before.shape == (128, 128, 3) and mask.shape == (128, 128)
        assert np.array_equal(image[~mask], before[~mask])
        # The mask keeps its area and position: its mean over 4 x 4 pixels is the small mask, except
        # at the rim.
        coarse = mask.reshape(32, 4, 32, 4).mean((1, 3)) >= 0.5
        little = read_mask(tmp_path / "small" / a["mask"])
        assert (coarse != little).sum() <= 0.34 * little.sum() + 1


def test_textures_of_a_folder(made, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("dots/b.png", "dots/a.png", "lines/c.png"):
        path = tmp_path / "dtd/images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(path)
    synthesis = {"sources": {"normal": 0.5, "dtd": 0.5}, "dtd_root": str(tmp_path / "dtd")}
    rows = export(made, tmp_path / "out", images=None, synthesis=synthesis)
    assert {row["source"] for row in rows} == {"dtd"}
    assert {row["source_path"].partition("images/")[2] for row in rows} == {
        *("dots/a.png", "dots/b.png", "lines/c.png")
    }
    for row in rows:
        order = ["dots/a.png", "dots/b.png", "lines/c.png"]
        assert row["source_path"].endswith(order[int(row["source_index"])])
    licences = read_json(tmp_path / "out/pairs.json")["licences"]
    assert set(licences) == {"demo", "dtd"} and "research" in licences["dtd"]["use"]


@pytest.mark.parametrize(
    ("keys", "pattern"),
    [
        ({"images": None}, "synthesis.sources has sdas: give --sdas"),
        (
            {"synthesis": {"sources": {"normal": 0.5, "texture": 0.5}}},
            "synthesis.sources has no weight for sdas, so these images are not used",
        ),
        (
            {"images": None, "synthesis": {"sources": {"normal": 1.0, "texture": 1e-9}}},
            "no anomaly among the last 4",
        ),
        ({"images": "nowhere"}, "nowhere/manifest.csv: no such file"),
    ],
)
def test_invalid_exports_are_refused(made, tmp_path, keys, pattern):
    with pytest.raises(UserError, match=pattern):
        export(made, tmp_path / "out", **keys)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_other_categories_are_refused(made, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.png").write_bytes(b"x")
    with pytest.raises(UserError, match="full: not empty"):
        export(made, tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.png"]
    with pytest.raises(UserError, match="images of demo/hex_nut, not of demo/woven_fabric"):
        inputs = {"manifest": made / "manifest.csv", "images": made / "sia"}
        export_pairs(job(stage(), inputs, "demo", "woven_fabric", 0, tmp_path / "out"), 1)


def test_the_command(made, tmp_path):
    params = tmp_path / "params.json"
    text = load(overrides={"preset": "smoke"}).section_json("realnet")
    given = ["export-pairs", "--manifest", made / "manifest.csv", "--params", text, "--count", 3]
    given += ["--dataset", "demo", "--category", "hex_nut", "--out", tmp_path / "out"]
    given = [*map(str, given), "--sia", str(made / "sia")]
    both = CliRunner().invoke(app, [*given, "--sdas", str(made / "sia")])
    assert str(both.exception) == "--sdas and --sia: give one of them"
    assert CliRunner().invoke(app, given).exit_code == 0
    assert read_csv(tmp_path / "out/manifest.csv") == export(made, tmp_path / "again", 3)
    assert read_image(tmp_path / "out/pairs.png").std() > 10
    assert not params.exists()
