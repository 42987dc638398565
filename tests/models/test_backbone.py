"""Sources of the backbone's weights, and the errors if they are missing or incompatible."""

import pytest
import safetensors.torch
import timm
import torch
from builders import make_backbone, params_for

from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.io import sha256
from realnet.models.features import build_network, load_backbone, load_into
from realnet.registry import STAGES

SMALL = {"arch_args": {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}}


def stage(**backbone):
    return params_for("backbone", backbone=SMALL | backbone)


def published(path):
    """Save the whole classifier, as weights are published."""
    torch.manual_seed(0)
    args = {key: tuple(value) for key, value in SMALL["arch_args"].items()}
    model = timm.create_model("resnet18", **args)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return model.eval()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_give_the_published_features(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    model = published(path)
    make_backbone(
        stage(source="file", file=str(path), sha256=sha256(path), stem_pool=True), tmp_path / "out"
    )
    extractor = load_backbone(tmp_path / "out")
    image = torch.rand(2, 3, 64, 64)
    expected = model.forward_features((image - extractor.mean) / extractor.std)
    assert torch.allclose(extractor(image)[-1], expected, atol=1e-5)
    assert extractor.shapes(64) == [(8, 4), (16, 8), (24, 16), (32, 32)]
    assert not extractor.train().training and not list(
        p for p in extractor.parameters() if p.requires_grad
    )


def test_file_errors_name_the_file_and_what_to_do(tmp_path):
    path = tmp_path / "weights.pth"
    published(path)
    cases = [
        ({"file": str(tmp_path / "no.pth"), "sha256": "0"}, "does not exist; put the weights"),
        ({"file": str(path), "sha256": "abc"}, "sha256 is"),
        ({"file": str(path)}, "sha256 is not set"),
        ({}, "needs backbone.file"),
    ]
    for values, message in cases:
        with pytest.raises(UserError, match=message):
            make_backbone(stage(source="file", **values), tmp_path / "out")
    state = torch.load(path, weights_only=True)
    for change, message in (
        (lambda s: s.pop("layer1.0.conv1.weight"), "misses layer1.0.conv1.weight"),
        (lambda s: s.update({"layer1.0.extra": torch.zeros(1)}), "unknown key layer1.0.extra"),
        (lambda s: s.update({"bn1.weight": torch.zeros(3)}), "another shape for bn1.weight"),
    ):
        changed = dict(state)
        change(changed)
        torch.save(changed, path)
        with pytest.raises(UserError, match=message):
            make_backbone(stage(source="file", file=str(path), sha256=sha256(path)), tmp_path / "o")
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="not a readable state dict"):
        make_backbone(stage(source="file", file=str(path), sha256=sha256(path)), tmp_path / "o")


def test_timm_without_network_says_how_to_supply_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"set backbone.source: file") as caught:
        make_backbone(stage(source="timm", arch="resnet18.a1_in1k", arch_args={}), tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_an_unknown_timm_tag_lists_the_available_ones():
    with pytest.raises(UserError, match=r"no weights 'resnet18\.best'.*resnet18\.a1_in1k"):
        build_network(stage(source="timm", arch="resnet18.best").backbone, pretrained=True)


@pytest.mark.parametrize(
    ("arch", "layers"),
    [("convnext_atto", [0, 1, 2]), ("efficientnet_b0", [1, 2]), ("densenet121", [1])],
)
def test_published_keys_load_into_flattened_and_truncated_networks(arch, layers):
    torch.manual_seed(0)
    state = timm.create_model(arch).state_dict()
    params = stage(arch=arch, arch_args={}, stem_pool=True).backbone
    network = build_network(params.model_copy(update={"out_indices": layers}))
    load_into(network, state, "weights.pth")
    for key, value in network.state_dict().items():
        spelled = [k for k in state if k.replace("_", ".") == key.replace("_", ".")]
        assert len(spelled) == 1 and torch.equal(state[spelled[0]], value), key
    inside = next(iter(network.state_dict())).rpartition(".")[0]
    with pytest.raises(UserError, match="unknown key"):
        load_into(network, state | {f"{inside}.extra": torch.zeros(1)}, "weights.pth")


def test_wrapped_state_dicts_and_a_removed_pool(tmp_path):
    """`{"state_dict": {"module.…": …}}`, as many trainers save; without the pool strides halve."""
    path = tmp_path / "weights.pth"
    published(path)
    state = torch.load(path, weights_only=True)
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    params = stage(source="file", file=str(path), sha256=sha256(path).upper(), stem_pool=False)
    make_backbone(params, tmp_path / "out")
    extractor = load_backbone(tmp_path / "out")
    assert extractor.shapes(64) == [(8, 2), (16, 4), (24, 8), (32, 16)]
    kept = safetensors.torch.load_file(tmp_path / "out/backbone.safetensors")
    assert torch.equal(kept["conv1.weight"], state["conv1.weight"])
    with pytest.raises(UserError, match="no stem max-pool"):
        build_network(stage(arch="efficientnet_b0", arch_args={}, stem_pool=False).backbone)


def test_normalisation_is_part_of_the_extractor(tmp_path):
    make_backbone(stage(mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0]), tmp_path)
    extractor = load_backbone(tmp_path)
    image = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.5, 1.0, 2.0]))
    expected = extractor.network((image - mean) / std)
    assert all(torch.allclose(a, b) for a, b in zip(extractor(image), expected, strict=True))
    assert not extractor(image.requires_grad_())[0].requires_grad


def test_unknown_architecture_and_layer():
    with pytest.raises(UserError, match="no model 'resnet81'"):
        build_network(stage(arch="resnet81").backbone)
    with pytest.raises(UserError, match="out_indices"):
        build_network(stage(out_indices=[1, 2, 3, 9]).backbone)


def test_a_changed_artefact_is_refused(tmp_path):
    make_backbone(stage(), tmp_path)
    assert load_backbone(tmp_path).shapes(32) == [(8, 2), (16, 4), (24, 8), (32, 16)]
    with (tmp_path / "backbone.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="differs from the digest"):
        load_backbone(tmp_path)


def test_stages_read_known_sections():
    sections = set(load().model_dump())
    assert all(set(names) <= sections for names in (stage.sections for stage in STAGES.values()))
