"""Parameter counts, shapes and formulas of the networks; the paper's on the meta device."""

import re

import pytest
import torch
from torch import nn

from realnet.config.params import load
from realnet.config.sections import UNet
from realnet.diffusion.denoiser import Denoiser, parameter_count, zero_init
from realnet.diffusion.guidance import NoisyClassifier
from realnet.interop.adm_names import Sizes, official_name
from realnet.models.features import build_network
from realnet.models.realnet import RealNet
from realnet.models.reconstruction import Attention
from realnet.models.rrs import ResidualSelection


@pytest.fixture(scope="module")
def paper():
    return load(overrides={"preset": "paper"})


def detector_sizes(params):
    """Parameters of the backbone, of each reconstruction network and of the discriminator."""
    with torch.device("meta"):
        backbone = build_network(params.backbone)
        blocks = [sum(params.afs.channels[k] for k in b.layers) for b in params.model.blocks]
        model = RealNet(blocks, params.model, params.data.image_size)
    parts = [parameter_count(net) for net in model.reconstruct]
    head = parameter_count(model.discriminate)
    assert parameter_count(model) == sum(parts) + head  # no other parameters
    return parameter_count(backbone), parts, head


def test_paper_parameter_counts_are_the_official_ones(paper):
    """The authors' network has 590.9 M parameters, of which 524.1 M are trained."""
    backbone, parts, head = detector_sizes(paper)
    assert parts == [51_846_144, 207_271_936, 207_271_936, 51_846_144]
    assert (backbone, head) == (66_834_240, 5_872_662)
    assert backbone + sum(parts) + head == 590_943_062
    with torch.device("meta"):
        ddpm = [Denoiser(paper.ddpm, paper.data.image_size, classes=k) for k in (15, 12, 6, 3)]
    assert [parameter_count(net) for net in ddpm] == [
        552_829_446,
        552_826_374,
        552_820_230,
        552_817_158,
    ]


def test_parameter_counts_of_architecture_c(paper):
    """Two networks with 768 maps each; backbone and discriminator are unchanged."""
    backbone, parts, head = detector_sizes(load(overrides={"preset": "architecture_c"}))
    assert round(sum(parts) / 1e6, 1) == 932.6 and parts[0] == parts[1]
    assert (backbone, head) == detector_sizes(paper)[::2]


def test_attention_matches_its_formula():
    torch.manual_seed(0)
    net = Attention(8, head_channels=4, groups=2)
    nn.init.normal_(net.out.weight)
    x = torch.randn(2, 8, 3, 3)
    flat = x.reshape(2, 8, 9)
    packed = net.qkv(net.norm(flat))
    heads = []
    for part in packed.chunk(net.heads, dim=1):  # per head: q, k, v consecutively
        q, k, v = part.chunk(3, dim=1)
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / 2.0, dim=-1)
        heads.append(torch.einsum("bts,bcs->bct", weight, v))
    expected = (flat + net.out(torch.cat(heads, 1))).view_as(x)
    assert torch.allclose(net(x), expected, atol=1e-5)


def test_rrs_ranks_standardised_residuals_and_returns_raw_ones():
    params = load().model.rrs.model_copy(update={"channels": 2, "mode": "max", "scaled": False})
    select = ResidualSelection(4, params).train()
    residuals = torch.rand(8, 4, 6, 6) * torch.tensor([100.0, 1, 1, 1]).view(1, 4, 1, 1)
    residuals[0, 2, 3, 3] = 9.0  # large for its channel, small compared with the first one
    assert select.ranking(residuals)[0, 0] == 2
    assert torch.equal(select([residuals])[0, 0], residuals[0, 2])
    everything = params.model_copy(update={"mode": "all"})
    assert torch.equal(ResidualSelection(4, everything)([residuals]), residuals)


def test_denoiser_shapes_and_grain():
    params = load().ddpm
    net = Denoiser(params, 64, classes=1)
    sample, t = torch.randn(2, 3, 64, 64), torch.tensor([5, 900])
    assert net(sample, t).shape == (2, 3, 64, 64)
    structure = torch.zeros_like(sample)
    alpha = net.alphas_cumprod[t].view(-1, 1, 1, 1)
    rough, smooth = (net._keep_texture(structure, sample, t, std) for std in (1e6, 1e-9))
    assert torch.allclose(rough, sample / alpha.sqrt(), rtol=1e-3)
    assert smooth.abs().max() < 1e-6
    learned = params.model_copy(update={"variance": "learned_range"})
    assert Denoiser(learned, 64, classes=3)(sample, t, torch.tensor([0, 2])).shape[1] == 6


def official_of(network: torch.nn.Module, unet: UNet) -> dict[str, str]:
    """Parameter name -> the official one; of the sizes only what names depend on."""
    sizes = Sizes(
        widths=unet.block_out_channels,
        layers=unet.layers_per_block,
        attention=unet.attention,
        scale_shift=True,
        resnet_resample=unet.resample == "resnet",
        inputs=3,
        outputs=6,
        classes=None,
    )
    names = (name for name, _ in network.named_parameters())
    return {name: official_name(name.removeprefix("unet."), sizes) for name in names}


def test_zero_init_zeros_what_is_zero_in_the_official_networks():
    """guided-diffusion's ``zero_module``: out_layers.3, proj_out and, in the UNet, the output."""
    params = load(overrides={"preset": "smoke"})
    unet = params.ddpm.unet.model_copy(update={"resample": "resnet"})
    zeros = re.compile(r"out_layers\.3|proj_out|^out\.2$")
    for network in (
        Denoiser(params.ddpm.model_copy(update={"unet": unet}), 32, classes=1),
        NoisyClassifier(params.classifier.model_copy(update={"unet": unet}), 32, 2),
    ):
        before = {name: value.clone() for name, value in network.named_parameters()}
        zero_init(network)
        found = 0
        for name, official in official_of(network, unet).items():
            value = network.get_parameter(name)
            module = official.rpartition(".")[0]
            if zeros.search(module) and not (module == "out.2" and "pool" in name):
                assert not value.any(), official
                found += 1
            else:
                assert torch.equal(value, before[name]), official
        assert found > 10
    sample = torch.randn(2, 3, 32, 32)
    fresh = Denoiser(params.ddpm, 32, classes=1)
    zero_init(fresh)
    assert not fresh(sample, torch.tensor([1, 5])).any()


def test_positions_start_at_zero_and_are_local():
    params = load(overrides={"preset": "smoke"}).ddpm
    size, patch = 32, params.patch
    networks = []
    for positions in (False, True):
        torch.manual_seed(0)
        networks.append(Denoiser(params.model_copy(update={"positions": positions}), size, 1))
    plain, positioned = networks
    assert plain.positions is None
    assert positioned.positions.shape == (1, 3 * patch**2, size // patch, size // patch)
    sample, when = torch.randn(2, 3, size, size), torch.tensor([1, 5])
    assert torch.equal(plain(sample, when), positioned(sample, when))
    shift = torch.zeros(1, 3, size, size)
    shift[..., :patch, patch : 2 * patch] = 1.0
    with torch.no_grad():
        positioned.positions[:, :, 0, 1] = 1.0
    assert torch.equal(plain(sample + shift, when), positioned(sample, when))
    positioned(sample, when).square().mean().backward()
    assert positioned.positions.grad.any(1).all()


def test_presets_start_the_diffusion_model_as_declared():
    for preset, expected in (("paper", True), ("demo", False)):
        loaded = load(overrides={"preset": preset})
        assert loaded.ddpm.zero_init is loaded.classifier.zero_init is expected
