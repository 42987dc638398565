"""Checkpoints of the authors' code: equal anomaly maps, no code executed, every key checked."""

import json
import os
import pickle
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from reference.official_realnet import (
    OfficialRealNet,
    paired,
    pretended,
    randomise,
    save_official,
    single,
)

from realnet import cli
from realnet.compute.runtime import start
from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.detectors.realnet_detector import load_detector
from realnet.interop.realnet_checkpoint import MEAN, STD, import_realnet
from realnet.interop.safe_load import load_checkpoint

PAIRS = paired((4, ("layer1", 32), ("layer2", 32)), (16, ("layer3", 32), ("layer4", 32)))


@pytest.fixture(scope="module")
def runtime():
    return start(load().compute.model_copy(update={"device": "cpu", "precision": "fp32"}))


def pictures(size, count=2):
    draw = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, 3, size, size), generator=draw, dtype=torch.uint8)


def normalised(images):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images / 255 - mean) / std


def official(size=64, **options):
    return randomise(OfficialRealNet(**{"structure": PAIRS} | options), normalised(pictures(size)))


def bring(checkpoint, out, size=64):
    return import_realnet(checkpoint, out, size, "mvtec_ad", "bottle")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(checkpoint file, its network) of a small two-block model."""
    torch.manual_seed(0)
    model = official()
    return save_official(tmp_path_factory.mktemp("official") / "ckpt_best.pth.tar", model), model


# --- the same map --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (64, {}),
        (128, {"structure": single(*((f"layer{n}", 64) for n in range(1, 5)))}),
        (64, {"structure": single(("layer2", 128), ("layer1", 64)), "backbone": "resnet34"}),
        (64, {"backbone": "resnet50", "modes": ("max",), "multipliers": (1, 2)}),
        (
            64,
            {
                "backbone": "efficientnet_b4",
                "structure": [
                    {
                        "name": "my_block",
                        "stride": 8,
                        "layers": [
                            {"idx": "layer2", "planes": 32},
                            {"idx": "layer5", "planes": 96},
                        ],
                    }
                ],
                "modes": ("mean",),
                "depth": 1,
                "attends": (1,),
                "ratio": 1.0,
            },
        ),
    ],
    ids=["two blocks", "default structure", "own order", "resnet50", "efficientnet"],
)
def test_map_matches_the_official_one(tmp_path, runtime, size, options):
    numbers = (48,) if "modes" in options else (32, 32)
    model = official(size, numbers=numbers, **options)
    bring(save_official(tmp_path / "c.pth.tar", model), tmp_path / "out", size)
    images = pictures(size, 3)
    expected = model(normalised(images))
    got = load_detector(tmp_path / "out", runtime).margins(images, runtime, 2).sigmoid()
    assert got.shape == (3, size, size) and expected.std() > 0.05
    assert (got - expected).abs().max() < 1e-5  # 1e-4 is documented


@pytest.mark.skipif("REALNET_FULL_SIZE" not in os.environ, reason="8 GB; set REALNET_FULL_SIZE=1")
def test_map_matches_the_official_one_at_the_papers_size(tmp_path, runtime):
    layers = zip(range(1, 5), (256, 512, 512, 256), strict=True)
    structure = single(*((f"layer{n}", m) for n, m in layers))
    options = {"structure": structure, "backbone": "wide_resnet50_2", "numbers": (256, 256)}
    model = official(256, **options)
    found = bring(save_official(tmp_path / "c.pth.tar", model), tmp_path / "out", 256)
    assert "590.9 M parameters" in found.summary
    images = pictures(256, 1)
    expected = model(normalised(images))
    got = load_detector(tmp_path / "out", runtime).margins(images, runtime, 1).sigmoid()
    error = (got - expected).abs().max().item()
    print(f"max abs error {error:.2g}, map's std {expected.std():.2f}")
    assert error < 1e-4 and expected.std() > 0.05


def test_without_settings_the_published_structure_is_assumed(made, tmp_path, runtime):
    """A bare state dict with the prefix of DDP: neither strides nor modes are given."""
    _, model = made
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "bare.pth")
    found = bring(tmp_path / "bare.pth", tmp_path / "out")
    assert [b.stride for b in found.params.blocks] == [4, 16] and found.epoch is None
    images = pictures(64)
    got = load_detector(tmp_path / "out", runtime).margins(images, runtime, 2).sigmoid()
    assert (got - model(normalised(images))).abs().max() < 1e-5


def test_folder_is_complete_and_can_be_moved(made, tmp_path, runtime):
    checkpoint, model = made
    bring(checkpoint, tmp_path / "here")
    meta = read_json(tmp_path / "here/model.json")
    assert (meta["dataset"], meta["category"], meta["image_size"]) == ("mvtec_ad", "bottle", 64)
    assert meta["model"]["feature_scale"] is False and meta["image_score_pool"] == 16
    for layer, chosen in enumerate(meta["selection"]["indices"]):
        block = "block1" if layer < 2 else "block2"
        assert chosen == model.afs.indexes[f"{block}_layer{layer + 1}"].tolist()
    assert read_json(tmp_path / "here/backbone/backbone.json")["architecture"]["arch"] == "resnet18"
    record = read_json(tmp_path / "here/stage.json")
    assert record["inputs"]["checkpoint"]["path"] == str(checkpoint)
    assert record["params"]["import"] == {"image_size": 64, "epoch": 35}
    (tmp_path / "other/place").mkdir(parents=True)
    shutil.move(tmp_path / "here", tmp_path / "other/place/bottle")
    assert load_detector(tmp_path / "other/place/bottle", runtime).image_size == 64


# --- no code is executed -------------------------------------------------------------------------


class Bomb:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["arch", "state_dict", "extra"])
@pytest.mark.parametrize("function", ["os.mkdir", "eval", "in an EasyDict"])
def test_a_malicious_checkpoint_executes_no_code(made, tmp_path, function, where, zipped):
    trap = tmp_path / "trap"
    call = Bomb(eval, f"__import__('os').mkdir({str(trap)!r})")
    bomb = {
        "os.mkdir": Bomb(os.mkdir, str(trap)),
        "eval": call,
        "in an EasyDict": {"kwargs": [call]},
    }[function]
    pickle.loads(pickle.dumps(bomb))
    assert trap.is_dir()  # unpickling it does run code
    trap.rmdir()
    content = {"arch": made[1].arch, "state_dict": OrderedDict(made[1].afs.state_dict())}
    content = {**content, "extra": 0}
    content[where] = [bomb] if where == "arch" else {"x": bomb}
    torch.save(content, tmp_path / "c.pth.tar", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="nothing in it was run") as error:
        bring(tmp_path / "c.pth.tar", tmp_path / "out")
    assert ("mkdir" if function == "os.mkdir" else "eval") in str(error.value)
    assert not trap.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_settings_and_numpy_numbers_are_read_as_data(made, tmp_path, module):
    """The best metric is a numpy scalar; numpy 1 and 2 name its constructor differently."""

    def scalar(dtype, data):
        raise AssertionError("was called")

    scalar.__module__, scalar.__qualname__ = module, "scalar"
    best = Bomb(scalar, np.dtype("f8"), b"\0" * 8)
    with pretended(module, scalar=scalar):
        path = save_official(tmp_path / "c.pth.tar", made[1], best_metric=best)
    content = load_checkpoint(path)
    assert content["epoch"] == 35 and content["arch"][3]["kwargs"]["mode_numbers"] == [32, 32]
    assert content["arch"][1]["kwargs"]["structure"][1]["layers"][0] == {
        "idx": "layer3",
        "planes": 32,
    }


# --- every key -----------------------------------------------------------------------------------


def changed(state, action, key):
    if action == "drop":
        del state[key]
    elif action == "add":
        state[key] = torch.zeros(3)
    elif action == "grow":
        state[key] = torch.cat([state[key], state[key]])
    else:
        state[key] = action(state[key])
    return state


@pytest.mark.parametrize(
    ("action", "key", "message"),
    [
        ("drop", "backbone.feature_extractor.layer4.1.bn2.running_var", "misses"),
        ("drop", "rrs.bn_idx.running_mean", "misses"),
        ("drop", "rrs.decoder1.1.weight", "misses"),
        ("drop", "recon.block2_recon.middle_block.1.qkv.bias", "misses"),
        ("drop", "recon.block1_recon.input_blocks.1.0.in_layers.2.weight", "misses"),
        ("drop", "recon.block1_recon.output_blocks.2.2.x_upd.conv.weight", "misses"),
        ("add", "rrs.decoder1.0._layers.2._block.1.weight", "has an unknown key"),
        ("add", "backbone.feature_extractor.fc.weight", "has an unknown key"),
        ("add", "criterion.weight", "has an unknown key"),
        ("add", "afs.indexes.block1_stage1", "has an unknown key"),
        ("grow", "recon.block1_recon.out.2.weight", r"has shape \[128, 32, 3, 3\], expected"),
        ("grow", "rrs.decoder1.2.running_mean", r"has shape \[256\], expected \[128\]"),
        ("grow", "afs.indexes.block1_layer2", "its tensors say"),
        (lambda v: v.float(), "afs.indexes.block1_layer2", "no list of channel indices"),
        (lambda v: v + 500, "afs.indexes.block1_layer2", "beyond its 128 maps"),
        (lambda v: "text", "rrs.bn_idx.running_var", "is not a tensor"),
        (lambda v: v / 0, "recon.block2_recon.out.0.bias", "not finite"),
    ],
)
def test_an_incompatible_key_is_named(made, tmp_path, action, key, message):
    _, model = made
    state = changed(OrderedDict(model.state_dict()), action, key)
    save_official(tmp_path / "c.pth.tar", model, state=state)
    with pytest.raises(UserError, match=message) as error:
        bring(tmp_path / "c.pth.tar", tmp_path / "out")
    part = {"its tensors say": "block1", "beyond its 128 maps": "layer2"}.get(message, key)
    assert part in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": (40, 24)}, r"\[40, 24\] maps"),
        ({"modes": ("mean", "max")}, r"\['mean', 'max'\]"),
        ({"units": 3}, r"unknown key rrs\.decoder1\.0\._layers\.2\."),
        ({"structure": paired((8, ("layer2", 64)), (16, ("layer2", 64)))}, "layer2 is in two"),
    ],
)
def test_unsupported_options_are_refused(tmp_path, options, message):
    model = OfficialRealNet(**{"structure": PAIRS} | options)
    save_official(tmp_path / "c.pth.tar", model)
    with pytest.raises(UserError, match=message):
        bring(tmp_path / "c.pth.tar", tmp_path / "out")


@pytest.mark.parametrize(
    ("stride", "planes", "message"),
    [
        (0, 32, "cannot be understood"),
        ("x", 32, "cannot be understood"),
        (4, 64, "its tensors say"),
    ],
)
def test_settings_that_contradict_the_tensors_are_refused(made, tmp_path, stride, planes, message):
    state = made[1].state_dict()
    block = {"name": "block1", "stride": stride}
    block["layers"] = [{"idx": "layer1", "planes": planes}, {"idx": "layer2", "planes": 32}]
    arch = [{"name": "afs", "kwargs": {"structure": [block]}}]
    torch.save({"state_dict": state, "arch": arch}, tmp_path / "c.pth.tar")
    with pytest.raises(UserError, match=message):
        bring(tmp_path / "c.pth.tar", tmp_path / "out")


def test_an_image_size_that_the_official_network_does_not_support_is_refused(made, tmp_path):
    with pytest.raises(UserError, match=r"--image-size 96: .* multiples of 64"):
        bring(made[0], tmp_path / "out", 96)


# --- the command ---------------------------------------------------------------------------------


def command(capsys, *arguments):
    """(exit status, stdout, stderr) of `realnet ARGUMENTS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["realnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
    printed = capsys.readouterr()
    return done.value.code or 0, printed.out, printed.err


def test_wrong_files_are_one_line(made, tmp_path, capsys):
    whole = made[0].read_bytes()
    (tmp_path / "text").write_text("not weights\n")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(whole[: len(whole) // 2])
    torch.save(torch.nn.Conv2d(1, 1, 1).state_dict(), tmp_path / "other")
    torch.save([1, 2], tmp_path / "list")
    for name, message in {
        "text": "not a PyTorch checkpoint",
        "empty": "not a PyTorch checkpoint",
        "short": "truncated",
        "other": "not a checkpoint of the official RealNet",
        "list": "holds a list",
        "nowhere": "no such checkpoint",
    }.items():
        code, out, err = command(capsys, "import-realnet", tmp_path / name, tmp_path / "out")
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1
        assert name in err and not (tmp_path / "out").exists()


def test_import_and_predict_by_command(made, tmp_path, capsys, monkeypatch):
    params = json.loads(load().section_json("evaluate"))
    monkeypatch.chdir(tmp_path)
    params["compute"] |= {"device": "cpu", "precision": "fp32"}
    options = ["--image-size", 64, "--dataset", "mvtec_ad", "--category", "bottle"]
    code, out, _ = command(capsys, "import-realnet", made[0], "model", *options)
    assert code == 0
    assert "resnet18" in out and "32+32 at 1/4, 32+32 at 1/16" in out and "epoch 35" in out
    images = pictures(64)
    for name, image in zip("ab", images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(f"{name}.png")
    text = json.dumps(params)
    arguments = ["a.png", "b.png", "--out", "maps", "--raw", "--params", text]
    code, out, _ = command(capsys, "predict", "model", *arguments)
    expected = made[1](normalised(images)).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(expected.astype(float), (16, 16), (1, 2))
    scores = windows.mean((-1, -2)).max((1, 2))  # the official window, not that of params.yaml
    assert code == 0 and len(out.splitlines()) == 2
    for name, line, score, level in zip("ab", out.splitlines(), scores, expected, strict=True):
        got = np.load(f"maps/{name}.npy")
        assert got.dtype == np.float32 and np.abs(got - level).max() < 1e-5
        assert float(line.split()[0]) == pytest.approx(score, abs=1e-4)
