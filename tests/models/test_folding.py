"""Folding of normalisations into convolutions: the same function, and only where it is one."""

import pytest
import timm
import torch
from torch import nn

from realnet.models.folding import fold_batch_norms


def with_statistics(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval().requires_grad_(False)


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [("resnet18", 0), ("tf_efficientnet_lite0", 0), ("regnety_002", 0), ("densenet121", 62)],
)
def test_folded_networks_have_the_same_features(name, left):
    """A DenseNet normalises concatenated maps before a convolution: those stay."""
    network = with_statistics(timm.create_model(name, features_only=True))
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = network(image)
    fold_batch_norms(network)
    assert norms(network) == left
    for got, wanted in zip(network(image), expected, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max())


class Read(nn.Module):
    """The convolution's output is read twice, or the layers are called twice."""

    def __init__(self, twice: bool):
        super().__init__()
        self.conv, self.norm, self.twice = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.twice:
            return self.norm(self.conv(self.norm(self.conv(x))))
        before = self.conv(x)
        return before + self.norm(before)


class Untraceable(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    "network",
    [Read(False), Read(True), Untraceable(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))],
    ids=["read twice", "called twice", "untraceable"],
)
def test_other_normalisations_stay(network):
    with_statistics(network)
    x = torch.rand(1, 3, 8, 8)
    expected = network(x)
    fold_batch_norms(network)
    assert norms(network) == 1 and torch.equal(network(x), expected)
