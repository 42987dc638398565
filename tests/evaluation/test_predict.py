"""`realnet predict`: names, batches, unreadable images, moved folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference.official_realnet import OfficialRealNet, randomise, save_official, single

from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, write_json
from realnet.evaluation.predict import PredictOptions, predict, result_names
from realnet.interop.realnet_checkpoint import import_realnet

COMPUTE = load().compute.model_copy(update={"device": "cpu", "precision": "fp32"})
SIZE = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An imported random model of one block: a self-contained folder."""
    root = tmp_path_factory.mktemp("model")
    draw = torch.Generator().manual_seed(1)
    some = torch.randn(2, 3, SIZE, SIZE, generator=draw)
    net = OfficialRealNet(single(("layer1", 64)), numbers=(8, 8), multipliers=(1, 2))
    checkpoint = save_official(root / "c.pth.tar", randomise(net, some))
    import_realnet(checkpoint, root / "imported", SIZE, "mine", "cloth")
    return root / "imported"


def picture(path, seed=0, size=(40, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


def files(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a/001.png"], ["001"]),
        (["a/001.png", "a/002.png"], ["001", "002"]),
        (["a/001.png", "b/001.png", "b/002.png"], ["a_001", "b_001", "b_002"]),
        (["x/good/1.png", "y/good/1.png"], ["x_good_1", "y_good_1"]),
        (["a/1.png", "a/1.jpg"], ["1_png", "1_jpg"]),
        (["a/1.png", "a/../b/1.png"], ["a_1", "b_1"]),
        (["a/1.png", "a/1_margin.png"], ["1_png", "1_margin_png"]),  # 1_margin.npy is taken
        ([], []),
    ],
)
def test_output_names_are_unique(given, expected):
    assert result_names([Path(path) for path in given]) == expected


def test_ambiguous_output_names_are_refused():
    with pytest.raises(UserError, match="different folders"):
        result_names([Path("a/b_1.png"), Path("a/b/1.png"), Path("a/b/1.png")])


def test_output_files_and_their_content(model, tmp_path):
    paths = [picture(tmp_path / folder / "1.png", i) for i, folder in enumerate("abc")]
    out = tmp_path / "out"
    done = predict(
        model,
        [*paths, paths[0]],
        out,
        COMPUTE,
        PredictOptions(raw=True, margins=True, batch_size=2),
    )
    names = ["a_1", "b_1", "c_1"]
    ends = (".npy", "_heatmap.png", "_margin.npy")
    assert files(out) == sorted([*(n + e for n in names for e in ends), "scores.csv"])
    rows = read_csv(out / "scores.csv")
    assert [(row["path"], row["name"]) for row in rows] == list(
        zip(map(str, paths), names, strict=True)
    )
    assert [float(row["score"]) for row in rows] == [score for _, score in done.scores]
    for name, (_, score) in zip(names, done.scores, strict=True):
        level, margin = np.load(out / f"{name}.npy"), np.load(out / f"{name}_margin.npy")
        assert level.shape == margin.shape == (SIZE, SIZE)
        assert level.dtype == margin.dtype == np.float32
        assert 0 <= level.min() < level.max() <= 1
        assert np.allclose(level, 1 / (1 + np.exp(-margin.astype(float))), atol=1e-6)
        windows = np.lib.stride_tricks.sliding_window_view(level.astype(float), (16, 16))
        assert score == pytest.approx(windows.mean((-1, -2)).max(), abs=1e-6)
        assert Image.open(out / f"{name}_heatmap.png").size == (40, 24)


def test_a_map_does_not_depend_on_its_batch(model, tmp_path):
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(3)]
    predict(model, paths, tmp_path / "together", COMPUTE, PredictOptions(margins=True))
    predict(model, paths[2:], tmp_path / "alone", COMPUTE, PredictOptions(margins=True))
    assert files(tmp_path / "alone") == ["2_heatmap.png", "2_margin.npy", "scores.csv"]
    both = [np.load(tmp_path / where / "2_margin.npy") for where in ("together", "alone")]
    assert np.allclose(*both, atol=1e-5)


def test_window_of_the_image_score(model, tmp_path):
    path = picture(tmp_path / "1.png")
    ((_, peak),) = predict(
        model, [path], tmp_path / "o", COMPUTE, PredictOptions(1, raw=True)
    ).scores
    assert peak == pytest.approx(np.load(tmp_path / "o/1.npy").max(), abs=1e-6)
    ((_, pooled),) = predict(
        model, [path], tmp_path / "o", COMPUTE, PredictOptions(default_pool=2)
    ).scores
    assert pooled < peak  # an imported model has the official window of 16
    ((_, other),) = predict(model, [path], tmp_path / "o", COMPUTE, PredictOptions(16)).scores
    assert other == pooled
    with pytest.raises(UserError, match="a window of 33 pixels"):
        predict(model, [path], tmp_path / "o", COMPUTE, PredictOptions(33))


def test_unreadable_images_do_not_stop_the_others(model, tmp_path):
    good = [picture(tmp_path / "1.png"), picture(tmp_path / "4.png")]
    (tmp_path / "2.png").write_bytes(good[0].read_bytes()[:200])
    bad = [tmp_path / "2.png", tmp_path / "3.png", tmp_path]
    done = predict(
        model, [good[0], *bad, good[1]], tmp_path / "out", COMPUTE, PredictOptions(raw=True)
    )
    assert [path for path, _ in done.scores] == good
    reasons = ("cut off", "no such image", "a folder")
    for line, path, reason in zip(done.unreadable, bad, reasons, strict=True):
        assert str(path) in line and reason in line and "\n" not in line
    heatmaps = ["1_heatmap.png", "4_heatmap.png"]
    assert files(tmp_path / "out") == sorted(["1.npy", "4.npy", *heatmaps, "scores.csv"])
    assert len(read_csv(tmp_path / "out/scores.csv")) == 2
    done = predict(model, bad, tmp_path / "none", COMPUTE)
    assert done.scores == [] and len(done.unreadable) == 3


def test_a_model_without_its_backbone_is_refused(model, tmp_path):
    """As after training: the backbone is in another folder, and only the model was copied."""
    shutil.copytree(model, tmp_path / "model")
    shutil.move(tmp_path / "model/backbone", tmp_path / "elsewhere")
    meta = read_json(tmp_path / "model/model.json")
    meta["backbone"]["path"] = "../../backbone/base"
    write_json(tmp_path / "model/model.json", meta)
    path = picture(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"copy the backbone's folder to .*model/backbone"):
        predict(tmp_path / "model", [path], tmp_path / "out", COMPUTE)
    shutil.move(tmp_path / "elsewhere", tmp_path / "model/backbone")
    assert len(predict(tmp_path / "model", [path], tmp_path / "out", COMPUTE).scores) == 1


def test_folders_without_a_model_are_refused(model, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"no model\.json there"):
            predict(folder, [], tmp_path / "out", COMPUTE)
    write_json(tmp_path / "model.json", {"stage": "afs"})
    with pytest.raises(UserError, match="not of this program"):
        predict(tmp_path, [], tmp_path / "out", COMPUTE)
