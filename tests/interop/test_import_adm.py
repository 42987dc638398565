"""Imported weights of guided-diffusion networks against an independent implementation."""

import sys
import types

import numpy as np
import pytest
import safetensors.torch
import torch
from reference import adm
from typer.testing import CliRunner

from realnet.cli import app
from realnet.compute.runtime import start
from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256, write_csv, write_png
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.diffusion.denoiser import Denoiser, load_ddpm, load_denoiser_weights
from realnet.diffusion.guidance import load_guide
from realnet.interop.adm import Classes, import_classifier, import_ddpm

# All features: levels with and without attention, a wider level, blocks with resampling.
SMALL = adm.Sizes(
    width=32,
    multipliers=(1, 2, 2),
    blocks=2,
    attention=(False, True, True),
    head=16,
    classes=3,
)
ENCODER = adm.Sizes(
    width=32,
    multipliers=(1, 1, 2),
    blocks=2,
    attention=(False, True, True),
    head=16,
    classes=None,
    outputs=3,
    encoder=True,
    side=32,
)
NAMES = ("dark", "light", "spotted")
OPTIONS = {"image_size": 32, "head_channels": 16}
RUNTIME = start(load().compute)


def but(sizes, **changes):
    return adm.Sizes(**(vars(sizes) | changes))


def saved(tmp_path, state, name="model.pt"):
    torch.save(state, tmp_path / name)
    return tmp_path / name


def noisy(batch=3):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 32, 32, generator=draw), torch.tensor([0, 431, 999])[:batch]


def largest(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize(
    "sizes",
    [
        SMALL,
        but(SMALL, classes=None),
        but(SMALL, outputs=3),
        but(SMALL, attention=(True, False, False), blocks=1),
        but(SMALL, scale_shift=False, blocks_resample=False),
        but(SMALL, multipliers=(1, 3), attention=(False, False), blocks=3, classes=None, outputs=3),
        but(SMALL, multipliers=(1,), attention=(True,), classes=None),
    ],
    ids=["all", "no-classes", "3-out", "one-block", "convolutions", "three-blocks", "one-level"],
)
def test_the_output_matches_the_reference(sizes, tmp_path):
    """All weights are random, also those that the original initialises with zeros."""
    state = adm.random_state(sizes)
    file = saved(tmp_path, state)
    names = NAMES if sizes.classes else ("dark",)
    import_ddpm(
        file, tmp_path / "out", classes=Classes(dataset="mine", categories=names), **OPTIONS
    )
    model, params, config = load_ddpm(tmp_path / "out", RUNTIME)
    assert config["categories"] == list(names) and config["dataset"] == "mine"
    assert params.variance == ("learned_range" if sizes.outputs == 6 else "fixed_small")
    x, when = noisy()
    label = torch.tensor([2, 0, 1]) if sizes.classes else None
    with torch.no_grad():
        got = model(x, when, label)
    expected = adm.run(sizes, state, x, when, label)
    assert expected.std() > 0.3  # else agreement to 1e-4 would prove little
    assert got.shape == expected.shape and largest(got, expected) < 1e-4


@pytest.mark.parametrize(
    "sizes",
    [ENCODER, but(ENCODER, blocks_resample=False, attention=(False, False, False), blocks=1)],
    ids=["all", "convolutions"],
)
def test_the_logits_of_the_classifier_match_the_reference(sizes, tmp_path):
    state = adm.random_state(sizes)
    import_classifier(
        saved(tmp_path, state),
        tmp_path / "out",
        classes=Classes(categories=NAMES),
        head_channels=16,
    )
    config = read_json(tmp_path / "out/config.json")
    assert config["image_size"] == 32
    schedule = load(overrides={"preset": "paper"}).ddpm.schedule
    model = load_guide(tmp_path / "out", RUNTIME, config, schedule)
    x, when = noisy()
    expected = adm.run(sizes, state, x, when)
    assert expected.std() > 0.1
    assert largest(model(x, when), expected) < 1e-4


def test_parameter_counts_match_the_published_ones():
    """The reference has the published parameter counts, so its keys are those of the files."""

    def count(sizes):
        return sum(torch.Size(shape).numel() for shape in adm.shapes(sizes).values())

    assert [count(adm.Sizes(classes=k)) for k in (15, 12, 6, 3)] == [
        *(552_829_446, 552_826_374, 552_820_230, 552_817_158),
    ]
    assert count(adm.CLASSIFIER) == 53_591_055


class EasyDict(dict):
    """As in the authors' checkpoints; pickled under the name of the real class."""


EasyDict.__module__ = "easydict"


def test_a_checkpoint_of_the_authors_is_imported(tmp_path, monkeypatch):
    """With the prefix of distributed training, settings, and a numpy loss beside the weights."""
    state = adm.random_state(SMALL)
    content = {
        "epoch": 240,
        "arch": EasyDict(unet={"class_number": 3}, list=[1, 2]),
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "loss": np.float64(0.25),
    }
    module = types.ModuleType("easydict")
    module.EasyDict = EasyDict
    monkeypatch.setitem(sys.modules, "easydict", module)
    file = saved(tmp_path, content, "ckpt_240.pth.tar")
    monkeypatch.delitem(sys.modules, "easydict")
    import_ddpm(file, tmp_path / "a", classes=Classes(categories=NAMES), **OPTIONS)
    import_ddpm(
        saved(tmp_path, state), tmp_path / "b", classes=Classes(categories=NAMES), **OPTIONS
    )
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_half_precision_and_safetensors_are_imported(tmp_path):
    state = {key: value.half() for key, value in adm.random_state(SMALL).items()}
    safetensors.torch.save_file(state, tmp_path / "half.safetensors")
    import_ddpm(
        tmp_path / "half.safetensors",
        tmp_path / "out",
        classes=Classes(categories=NAMES),
        **OPTIONS,
    )
    model, _, _ = load_ddpm(tmp_path / "out", RUNTIME)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    x, when = noisy()
    expected = adm.run(SMALL, {k: v.float() for k, v in state.items()}, x, when, when % 3)
    assert largest(model(x, when, when % 3), expected) < 1e-4


def test_only_the_embedding_of_other_classes_is_reinitialised(tmp_path):
    state = adm.random_state(SMALL)
    file = saved(tmp_path, state)
    notice = import_ddpm(file, tmp_path / "own", **OPTIONS)
    assert "class embedding of 3 classes kept" in notice and "no category names" in notice
    notice = import_ddpm(file, tmp_path / "five", seed=1, classes=Classes(count=5), **OPTIONS)
    assert "class embedding of 3 classes replaced by 5 reinitialised" in notice
    import_ddpm(file, tmp_path / "again", seed=1, classes=Classes(count=5), **OPTIONS)
    import_ddpm(file, tmp_path / "other", seed=2, classes=Classes(count=5), **OPTIONS)
    notice = import_ddpm(
        file, tmp_path / "none", classes=Classes(categories=("dark",), count=1), **OPTIONS
    )
    assert "class embedding (3 classes) left out" in notice
    own, five, again, other, none = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors")
        for name in ("own", "five", "again", "other", "none")
    )
    key = "unet.class_embedding.weight"
    rows = five.pop(key)
    assert rows.shape == (5, 128) and abs(rows.std() - 1) < 0.1 and abs(rows.mean()) < 0.1
    assert torch.equal(rows, again.pop(key)) and not torch.equal(rows, other.pop(key))
    assert torch.equal(own.pop(key), state["label_emb.weight"])
    for weights in (five, again, other, none):
        assert weights.keys() == own.keys()
        assert all(torch.equal(weights[name], own[name]) for name in own)


def test_the_embedding_of_a_single_class_is_kept(tmp_path):
    """A checkpoint of one category also has an embedding, which is always added."""
    sizes = but(SMALL, classes=1)
    state = adm.random_state(sizes)
    notice = import_ddpm(
        saved(tmp_path, state), tmp_path / "o", classes=Classes(categories=("dark",)), **OPTIONS
    )
    assert "made part of the time embedding" in notice
    x, when = noisy()
    expected = adm.run(sizes, state, x, when, torch.zeros(3, dtype=torch.long))
    model, _, _ = load_ddpm(tmp_path / "o", RUNTIME)
    assert largest(model(x, when), expected) < 1e-4


def test_the_last_layer_is_reinitialised_for_other_classes(tmp_path):
    file = saved(tmp_path, adm.random_state(ENCODER))
    notice = import_classifier(file, tmp_path / "a", classes=Classes(count=4), head_channels=16)
    assert "last layer of 3 classes replaced by 4 reinitialised" in notice
    import_classifier(file, tmp_path / "b", head_channels=16)
    new, own = (safetensors.torch.load_file(tmp_path / n / "model.safetensors") for n in ("a", "b"))
    for name in own:
        if name.startswith("pool.project"):
            assert len(new[name]) == 4 and new[name].abs().max() <= 64**-0.5
            assert new[name].std() > 0.1 * 64**-0.5
        else:
            assert torch.equal(new[name], own[name])


# --- initial weights of a training ---------------------------------------------------------------


def denoiser(classes, **changes):
    """A model like SMALL, from a section like that of the paper."""
    unet = {"block_out_channels": [32, 64, 64], "layers_per_block": 2, "attention_head_dim": 16}
    unet |= {"attention": [False, True, True], "norm_num_groups": 32}
    overrides = {"preset": "paper", "ddpm": {"unet": unet} | changes}
    params = load(overrides=overrides).ddpm
    torch.manual_seed(7)
    return Denoiser(params, 32, classes), params


@pytest.mark.parametrize(
    ("classes", "notice"),
    [(3, "taken over (3 classes)"), (5, "reinitialised (3 classes there, 5 here)"), (1, "ignored")],
)
def test_training_starts_from_imported_weights(classes, notice, tmp_path, capsys):
    import_ddpm(saved(tmp_path, adm.random_state(SMALL)), tmp_path / "out", **OPTIONS)
    model, params = denoiser(classes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    digest = load_denoiser_weights(tmp_path / "out", model, params)
    assert notice in capsys.readouterr().out
    assert digest == read_json(tmp_path / "out/config.json")["sha256"]
    given = safetensors.torch.load_file(tmp_path / "out/model.safetensors")
    for key, value in model.state_dict().items():
        fresh = key == "unet.class_embedding.weight" and classes != 3
        assert torch.equal(value, before[key] if fresh else given[key]), key


def test_weights_of_another_network_or_process_are_refused(tmp_path):
    import_ddpm(saved(tmp_path, adm.random_state(SMALL)), tmp_path / "out", **OPTIONS)
    for changes, message in (
        ({"unet": {"attention_head_dim": 32}}, "ddpm.unet.attention_head_dim 16, here it is 32"),
        ({"schedule": {"beta_end": 0.03}}, "ddpm.schedule.beta_end 0.02, here it is 0.03"),
        ({"prediction_type": "sample"}, "ddpm.prediction_type epsilon, here it is sample"),
        ({"variance": "fixed_small"}, r"conv_out.weight has shape \[6, .*expected \[3, "),
    ):
        overrides = {"preset": "paper", "ddpm": changes}
        merged = {"unet": {}} | changes
        merged["unet"] = {
            **{"block_out_channels": [32, 64, 64], "attention": [False, True, True]},
            **{"attention_head_dim": 16},
            **merged["unet"],
        }
        params = load(overrides=overrides | {"ddpm": merged}).ddpm
        model = Denoiser(params, 32, 3)
        before = model.unet.conv_in.weight.clone()
        with pytest.raises(UserError, match=message):
            load_denoiser_weights(tmp_path / "out", model, params)
        assert torch.equal(model.unet.conv_in.weight, before)
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        load_denoiser_weights(tmp_path / "nowhere", *denoiser(3))
    with (tmp_path / "out/model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"not the file of config\.json"):
        load_denoiser_weights(tmp_path / "out", *denoiser(3))


# --- refused files -------------------------------------------------------------------------------


def damaged(change):
    state = adm.random_state(SMALL)
    change(state)
    return state


def renamed(old, new):
    def change(state):
        state[new] = state.pop(old)

    return change


def replaced(name, make):
    def change(state):
        state[name] = make(state[name])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("output_blocks.4.1.norm.bias"), "misses output_blocks.4.1.norm.bias"),
        (lambda s: s.pop("time_embed.2.bias"), "misses time_embed.2.bias"),
        (lambda s: s.update(extra=torch.ones(1)), "has an unknown key extra"),
        (
            renamed("out.2.bias", "out.3.bias"),
            "misses out.2.bias (and 1 more)",
        ),
        (
            replaced("middle_block.1.qkv.weight", lambda v: v[:64]),
            "middle_block.1.qkv.weight has shape [64, 64, 1], expected [192, 64, 1]",
        ),
        (
            replaced("label_emb.weight", lambda v: v[:, :64]),
            "label_emb.weight has shape [3, 64], expected [3, 128]",
        ),
        (replaced("out.0.bias", lambda v: v * torch.nan), "out.0.bias has values that are not fin"),
        (replaced("out.0.bias", lambda v: v.long()), "out.0.bias is a torch.int64"),
        (lambda s: s.update(epoch=3), "epoch is a int"),
        (lambda s: s.pop("input_blocks.0.0.weight"), "misses input_blocks.0.0.weight"),
        (lambda s: s.pop("input_blocks.1.0.in_layers.2.weight"), "misses input_blocks.1.0.in_l"),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith("output_blocks.8.")],
            "9 input_blocks and 8 output_blocks do not form a whole number of levels",
        ),
        (
            replaced("input_blocks.0.0.weight", lambda v: torch.cat([v, v], 1)),
            "6 channels in and 6 out; expected 3 in",
        ),
        (
            replaced("time_embed.0.weight", lambda v: torch.cat([v, v], 1)),
            "time embedding of (128, 64) with 32 channels",
        ),
        (lambda s: s.clear(), "no state dict"),
    ],
)
def test_an_incompatible_checkpoint_is_refused(change, message, tmp_path):
    file = saved(tmp_path, damaged(change))
    with pytest.raises(UserError) as error:
        import_ddpm(file, tmp_path / "out", **OPTIONS)
    text = str(error.value)
    assert message in text and text.startswith(str(file)) and "\n" not in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"classes": Classes(categories=("a", "b"))},
            "has 3 classes, but 2 are named: a, b; --classes 2 would",
        ),
        ({"classes": Classes(categories=("a", "b"), count=3)}, "--classes is 3, but 2 are named"),
        ({"classes": Classes(categories=("a", "b", "a"))}, "--category: each once"),
        ({"classes": Classes("mine")}, "'mine' is none of demo, mvtec_ad"),
        ({"classes": Classes("mvtec_ad")}, "has 3 classes, but 15 are named"),
        ({"head_channels": 24}, "--head-channels 24 does not divide the 64 channels"),
        ({"image_size": 30}, "--image-size 30: .* takes multiples of 4"),
    ],
)
def test_incompatible_options_are_refused(options, message, tmp_path):
    file = saved(tmp_path, adm.random_state(SMALL))
    with pytest.raises(UserError, match=message):
        import_ddpm(file, tmp_path / "out", **OPTIONS | options)
    assert not (tmp_path / "out").exists()


def test_other_files_are_refused(tmp_path):
    encoder = saved(tmp_path, adm.random_state(ENCODER), "classifier.pt")
    unet = saved(tmp_path, adm.random_state(SMALL), "unet.pt")
    with pytest.raises(UserError, match="a classifier; use realnet import-classifier"):
        import_ddpm(encoder, tmp_path / "out", **OPTIONS)
    with pytest.raises(UserError, match=r"out\.2\.positional_embedding: no classifier"):
        import_classifier(unet, tmp_path / "out")
    for name, content, message in (
        ("empty.safetensors", b"", "no safetensors file, or damaged"),
        ("text.pt", b"hello", "not a PyTorch checkpoint"),
        ("cut.pt", unet.read_bytes()[:5000], "not a PyTorch checkpoint, corrupt, or truncated"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            import_ddpm(tmp_path / name, tmp_path / "out", **OPTIONS)
    for name in ("gone.pt", "gone.safetensors"):
        with pytest.raises(UserError, match="no such checkpoint"):
            import_ddpm(tmp_path / name, tmp_path / "out", **OPTIONS)
    with pytest.raises(UserError, match=r"text\.pt: a file; expected a folder"):
        import_ddpm(unet, tmp_path / "text.pt", **OPTIONS)


# --- the command ---------------------------------------------------------------------------------


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """A manifest of four random images for each category of the demo."""
    root = tmp_path_factory.mktemp("data")
    fields = ["path", "split", "label", "defect", "mask_path", "width", "height", "sha256"]
    fields += ["mask_sha256"]
    for index, category in enumerate(KNOWN_CATEGORIES["demo"]):
        rows = []
        for number in range(4):
            rng = np.random.default_rng([index, number])
            path = root / category / f"{number}.png"
            write_png(path, rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            row = {"path": path, "split": "train", "label": 0, "defect": "good", "width": 32}
            rows.append(dict.fromkeys(fields, "") | row | {"height": 32, "sha256": sha256(path)})
        write_csv(root / category / "manifest.csv", rows, fields)
    return {name: root / name / "manifest.csv" for name in KNOWN_CATEGORIES["demo"]}


def stage_json(stage, **sections):
    return load(overrides={"preset": "smoke"} | sections).section_json(stage)


def test_sampling_from_a_checkpoint_of_the_authors(tmp_path, manifests):
    """A joint model of a dataset; images of a category are sampled with its class."""
    state = adm.random_state(SMALL)
    file = saved(tmp_path, {"state_dict": {f"module.{k}": v for k, v in state.items()}})
    options = ("--image-size", 32, "--head-channels", 16)
    notice = call("import-ddpm", file, tmp_path / "ddpm", "--dataset", "demo", *options)
    assert "classes: circuit_board, hex_nut, woven_fabric" in notice and notice.count("\n") == 1
    record = read_json(tmp_path / "ddpm/stage.json")
    assert record["inputs"]["checkpoint"]["sha256"] == sha256(file)
    # In a copy with the second and third class exchanged the first class gives the same images.
    state["label_emb.weight"] = state["label_emb.weight"][[0, 2, 1]]
    call("import-ddpm", saved(tmp_path, state), tmp_path / "twin", "--dataset", "demo", *options)
    sdas = {"images": 2, "steps": 2, "grid_images": 1, "grid_strengths": [0.0]}
    images = {}
    for category in ("circuit_board", "hex_nut"):
        for model in ("ddpm", "twin"):
            out = tmp_path / f"{model}-{category}"
            call(
                *("sdas", "--ddpm", tmp_path / model, "--manifest", manifests[category]),
                *("--dataset", "demo", "--category", category, "--out", out),
                *("--params", stage_json("sdas", sdas=sdas)),
            )
            rows = read_csv(out / "manifest.csv")
            images[model, category] = [(out / row["path"]).read_bytes() for row in rows]
    assert len(images["ddpm", "hex_nut"]) == 2
    assert images["ddpm", "circuit_board"] == images["twin", "circuit_board"]
    assert images["ddpm", "hex_nut"] != images["twin", "hex_nut"]


def test_guided_sampling_with_imported_networks(tmp_path, manifests):
    """The official sampling with both networks of the authors and 20 steps of their schedule."""
    options = ("--dataset", "demo", "--head-channels", 16)
    model, judge = adm.random_state(SMALL), adm.random_state(ENCODER)
    call("import-ddpm", saved(tmp_path, model), tmp_path / "d", *options, "--image-size", 32)
    call("import-classifier", saved(tmp_path, judge), tmp_path / "c", *options)
    images = []
    for scale, guided in ((0.0, ()), (1.0, ("--classifier", tmp_path / "c"))):
        sdas = {"images": 1, "steps": 20, "grid_images": 1, "grid_strengths": [0.0]}
        call(
            *("sdas", "--ddpm", tmp_path / "d", "--manifest", manifests["hex_nut"], *guided),
            *("--dataset", "demo", "--category", "hex_nut", "--out", tmp_path / f"{scale:g}"),
            "--params",
            stage_json("sdas", ddpm={"scope": "dataset"}, sdas=sdas | {"guidance_scale": scale}),
        )
        images.append((tmp_path / f"{scale:g}/images/00000.png").read_bytes())
    assert images[0] != images[1]


def test_a_model_without_category_names_cannot_be_sampled(tmp_path, manifests):
    import_ddpm(saved(tmp_path, adm.random_state(SMALL)), tmp_path / "ddpm", **OPTIONS)
    with pytest.raises(UserError, match=r"name no categories.*ddpm\.init"):
        call(
            *("sdas", "--ddpm", tmp_path / "ddpm", "--manifest", manifests["hex_nut"]),
            *("--dataset", "demo", "--category", "hex_nut", "--out", tmp_path / "out"),
            *("--params", stage_json("sdas")),
        )
    assert not (tmp_path / "out").exists()


def test_training_starts_from_imagenet_weights(tmp_path, manifests):
    """As in the official run: imported without names, all but the class embedding kept."""
    state = adm.random_state(but(SMALL, classes=20))
    call(
        *("import-ddpm", saved(tmp_path, state), tmp_path / "adm"),
        *("--image-size", 32, "--head-channels", 16),
    )
    unet = read_json(tmp_path / "adm/config.json")["ddpm"]["unet"]
    paper = load(overrides={"preset": "paper"}).ddpm
    ddpm = {"init": str(tmp_path / "adm"), "scope": "dataset", "patch": 1, "unet": unet, "steps": 1}
    ddpm |= {"schedule": paper.schedule.model_dump(), "lr": 1e-9, "batch_size": 2}
    inputs = [w for name, p in manifests.items() for w in ("--manifest", p, "--category", name)]
    out = tmp_path / "ddpm"
    call(
        *("ddpm", *inputs, "--dataset", "demo", "--out", out),
        *("--params", stage_json("ddpm", ddpm=ddpm)),
    )
    given = safetensors.torch.load_file(tmp_path / "adm/model.safetensors")
    begun = safetensors.torch.load_file(out / "model.safetensors")
    rows = begun.pop("unet.class_embedding.weight")
    assert rows.shape == (3, 128) and abs(rows.std() - 1) < 0.2
    given.pop("unet.class_embedding.weight")
    assert begun.keys() == given.keys()
    assert all(torch.allclose(begun[key], given[key], atol=1e-6) for key in given)
    assert read_json(out / "config.json")["categories"] == list(manifests)
