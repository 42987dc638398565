"""The modules of RealNet at tiny sizes, each against its definition."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from realnet.config.params import load
from realnet.config.sections import Block, Rrs
from realnet.models.afs import Selection
from realnet.models.features import build_network
from realnet.models.realnet import FeatureSelector, RealNet, margin, realnet_loss, resize_to
from realnet.models.reconstruction import ReconstructionUNet, ResBlock
from realnet.models.rrs import Discriminator, ResidualSelection


@pytest.fixture(scope="module")
def paper():
    return load(overrides={"preset": "paper"})


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_are_exactly_the_official_ones(paper):
    with torch.device("meta"):
        small, large = (ReconstructionUNet(m, paper.model.reconstruction) for m in (256, 512))
        head = Discriminator(512, paper.model.rrs)
        backbone = build_network(paper.backbone)
        whole = RealNet(paper.afs.channels, paper.model, 256)
    assert (count(small), count(large), count(head)) == (51_846_144, 207_271_936, 5_872_662)
    assert round(count(backbone) / 1e6, 2) == 66.83
    assert count(whole) == 2 * 51_846_144 + 2 * 207_271_936 + 5_872_662  # 524.1 M trainable


def test_shapes_at_the_papers_size(paper):
    """Shapes at 256 pixels, on the meta device: four strides, 1536 residual maps, 512 kept."""
    with torch.device("meta"), torch.no_grad():
        extractor = build_network(paper.backbone)
        maps = extractor(torch.zeros(2, 3, 256, 256))
        net = RealNet(paper.afs.channels, paper.model, 256)
        features = [torch.zeros(2, m, f.shape[2], f.shape[3]) for m, f in
                    zip(paper.afs.channels, maps, strict=True)]  # fmt: skip
        logits, rebuilt = net(features)
        residuals = net.residuals(features, rebuilt)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (256, 64, 64),
        (512, 32, 32),
        (1024, 16, 16),
        (2048, 8, 8),
    ]
    assert logits.shape == (2, 2, 256, 256) and residuals.shape == (2, 1536, 64, 64)
    assert [r.shape for r in rebuilt] == [f.shape for f in features]


# --- reconstruction ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (1, 1), (6, 9)])
def test_any_map_size_is_padded_and_cropped(paper, shape):
    torch.manual_seed(0)
    params = paper.model.reconstruction.model_copy(update={"head_channels": 4, "norm_groups": 4})
    net = ReconstructionUNet(8, params)
    x = torch.randn(2, 8, *shape)
    assert torch.equal(net(x), torch.zeros_like(x))
    nn.init.normal_(net.out[-1].weight)
    got = net(x)
    assert got.shape == x.shape and got.abs().min() > 0
    padded = F.pad(x, (0, -shape[1] % 4, 0, -shape[0] % 4), mode="replicate")
    assert torch.equal(got, net(padded)[..., : shape[0], : shape[1]])


def test_training_changes_every_weight(paper):
    """No layer is missing in the graph (once the zero-initialised ones have changed)."""
    torch.manual_seed(0)
    params = paper.model.reconstruction.model_copy(update={"head_channels": 4, "norm_groups": 4})
    net = ReconstructionUNet(8, params)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    net(torch.randn(2, 8, 12, 12)).square().sum().backward()
    still = [
        name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().sum() == 0
    ]
    assert still == []


@pytest.mark.parametrize(("resample", "side"), [(None, 8), ("down", 4), ("up", 16)])
def test_residual_block_matches_its_formula(resample, side):
    torch.manual_seed(0)
    block = ResBlock(4, 6, groups=2, resample=resample)
    x = torch.randn(2, 4, 8, 8)
    inner = F.silu(F.group_norm(x, 2, block.norm.weight, block.norm.bias))
    skip = x
    if resample == "down":
        inner, skip = F.avg_pool2d(inner, 2), F.avg_pool2d(x, 2)
    elif resample == "up":
        assert block.resample.weight is not block.resample_skip.weight
        inner, skip = block.resample(inner), block.resample_skip(x)
    expected = block.skip(skip) + block.conv(inner)
    assert block(x).shape == (2, 6, side, side) and torch.allclose(block(x), expected, atol=1e-6)


# --- RRS and discriminator -----------------------------------------------------------------------


def rrs(**options):
    plain = {"ranking_norm": False, "scaled": False}
    return load().model.rrs.model_copy(update=plain | options)


@pytest.mark.parametrize("mode", ["max", "mean", "max_mean"])
@pytest.mark.parametrize("kept", [4, 5])
def test_rrs_matches_a_loop(mode, kept):
    residuals = torch.rand(3, 9, 6, 6, generator=torch.Generator().manual_seed(1))
    got = ResidualSelection(9, rrs(mode=mode, channels=kept))([residuals])
    for image, chosen in zip(residuals, got, strict=True):
        peaks = sorted(range(9), key=lambda c: image[c].max(), reverse=True)
        means = sorted(range(9), key=lambda c: image[c].mean(), reverse=True)
        first = {"max": kept, "mean": 0, "max_mean": kept - kept // 2}[mode]
        expected = peaks[:first] + means[: kept - first]
        assert torch.equal(chosen, image[expected])


def test_a_channel_selected_twice_gets_both_gradients():
    residuals = torch.full((1, 4, 2, 2), 0.1)
    residuals[0, 2] = 5.0
    residuals.requires_grad_()
    kept = ResidualSelection(4, rrs(channels=2))([residuals])
    assert torch.equal(kept[0, 0], kept[0, 1]) and kept[0, 0, 0, 0] == 5.0
    kept.sum().backward()
    assert residuals.grad[0, 2].unique().tolist() == [2.0]
    assert residuals.grad[0, [0, 1, 3]].abs().sum() == 0


def test_ranking_uses_batch_statistics_in_training_and_running_ones_after():
    select = ResidualSelection(3, rrs(ranking_norm=True, mode="mean", channels=3)).train()
    scale = torch.tensor([1.0, 100.0, 1.0]).view(1, 3, 1, 1)
    residuals = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * scale
    mean, deviation = residuals.mean((0, 2, 3)), residuals.var((0, 2, 3)).sqrt()
    select([residuals])
    assert torch.allclose(select.norm.running_mean, 0.9 * mean, rtol=1e-4)
    assert torch.allclose(select.norm.running_var, 0.9 * deviation**2 + 0.1, rtol=1e-4)
    assert not list(select.parameters())
    single = residuals[:1].clone()
    single[0, 2] += 0.5  # large for this channel
    trained = select.ranking(single)
    select.eval()
    standard = (single.mean((2, 3)) - 0.9 * mean) / (0.9 * deviation**2 + 0.1).sqrt()
    assert torch.equal(select.ranking(single), standard.argsort(1, descending=True))
    assert select.ranking(single)[0, 0] == 2
    before = select.norm.running_mean.clone()
    select([single])
    assert torch.equal(select.norm.running_mean, before)
    # A batch of one image is standardised by its own statistics: all its channel means are zero.
    assert trained.shape == (1, 3)


@pytest.mark.parametrize("mode", ["max", "all"])
def test_scaled_residuals_have_the_unit_of_their_channel(mode):
    select = ResidualSelection(
        3, rrs(ranking_norm=True, mode=mode, channels=3, scaled=True)
    ).train()
    residuals = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    factor = torch.tensor([1.0, 100.0, 1.0]).view(1, 3, 1, 1)
    given = (residuals * factor).requires_grad_()
    out = select([given])
    variance = 0.9 * given.detach().var((0, 2, 3)) + 0.1
    expected = given.detach() / (variance + select.norm.eps).sqrt().view(1, 3, 1, 1)
    if mode == "max":
        order = select.ranking(given).view(6, 3, 1, 1).expand(6, 3, 5, 5)
        expected = expected.gather(1, order)
    assert torch.allclose(out, expected, rtol=1e-4)
    out.sum().backward()  # the standard deviation is a constant
    assert torch.allclose(given.grad[0, :, 0, 0], (variance + select.norm.eps).rsqrt(), rtol=1e-4)


def test_scales_go_with_the_channels_of_their_block():
    """Two blocks of other sizes, with and without gradient."""
    select = ResidualSelection(5, rrs(ranking_norm=True, mode="mean", channels=5, scaled=True))
    draw = torch.Generator().manual_seed(0)
    fine = torch.rand(4, 3, 6, 6, generator=draw) * torch.tensor([1.0, 50.0, 7.0]).view(3, 1, 1)
    coarse = torch.rand(4, 2, 3, 3, generator=draw) * 20
    with torch.no_grad():
        select.train()([fine, coarse])
    select.eval()
    whole = torch.cat([fine, resize_to(coarse, 6)], 1)
    scale = (select.norm.running_var + select.norm.eps).rsqrt().view(5, 1, 1)
    order = select.ranking(whole).view(4, 5, 1, 1).expand(4, 5, 6, 6)
    expected = (whole * scale).gather(1, order)
    assert torch.allclose(select([fine, coarse]), expected, rtol=1e-5)
    with torch.no_grad():
        assert torch.allclose(select([fine, coarse]), expected, rtol=1e-5)


def test_scaled_residuals_need_the_ranking_norm():
    with pytest.raises(ValueError, match="scaled: true needs ranking_norm"):
        Rrs.model_validate(load().model.rrs.model_dump() | {"scaled": True, "ranking_norm": False})


@pytest.mark.parametrize("size", [32, 50])
def test_discriminator_returns_two_logits_per_pixel(size):
    torch.manual_seed(0)
    net = Discriminator(6, rrs(hidden=[8, 6, 4, 3], padding="zeros")).eval()
    x = torch.rand(2, 6, 16, 16, requires_grad=True)
    logits = net(x, size)
    assert logits.shape == (2, 2, size, size)
    unit = net.units[0]
    assert torch.allclose(unit(x), x + unit.narrow(F.relu(unit.wide(F.relu(x)))))
    assert all(c.bias is None for u in net.units[:2] for c in (u.wide, u.narrow))
    logits[:, 1].sum().backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()


@pytest.mark.parametrize(("padding", "flat"), [("zeros", False), ("replicate", True)])
def test_padding_decides_whether_the_border_of_constant_residuals_differs(padding, flat):
    torch.manual_seed(0)
    net = Discriminator(6, rrs(hidden=[8, 6, 4, 3], padding=padding)).eval()
    logits = net(torch.full((1, 6, 16, 16), 0.7), 32)
    spread = (logits.amax((2, 3)) - logits.amin((2, 3))).max().item()
    assert (spread < 1e-6) == flat


# --- the whole network ---------------------------------------------------------------------------


def blocks(*pairs):
    return [Block(layers=layers, stride=stride) for layers, stride in pairs]


def test_selector_picks_scales_and_resizes():
    """Two layers in one block are resized to its stride; a layer without block is ignored."""
    selection = Selection([[1, 3], [0], [2]], [[2.0, 4.0], [0.5], [10.0]])
    maps = [torch.rand(2, 4, s, s) for s in (8, 4, 2)]
    select = FeatureSelector(blocks(([0, 1], 4), ([2], 16)), selection, 32, scaled=True)
    coarse = F.interpolate(maps[1][:, :1] / 0.5, (8, 8), mode="bilinear", align_corners=True)
    expected = torch.cat([maps[0][:, 1:2] / 2, maps[0][:, 3:4] / 4, coarse], 1)
    got = select(maps)
    assert select.channels == [3, 1] and not select.state_dict()
    assert torch.allclose(got[0], expected) and torch.allclose(got[1], maps[2][:, 2:3] / 10)
    plain = FeatureSelector(blocks(([0], 4)), selection, 32, scaled=False)(maps)
    assert torch.equal(plain[0], maps[0][:, [1, 3]])


def test_resizing_aligns_corners_and_skips_equal_sizes():
    x = torch.rand(1, 1, 4, 4)
    assert resize_to(x, 4) is x
    big = resize_to(x, 7)
    assert torch.allclose(big[..., ::2, ::2], x, atol=1e-6)


def test_residuals_are_squared_differences_at_the_finest_size():
    params = load(overrides={"preset": "smoke"}).model
    net = RealNet([2, 3], params.model_copy(update={"rrs": rrs(channels=4)}), 16)
    features = [torch.rand(2, 2, 8, 8), torch.rand(2, 3, 4, 4)]
    rebuilt = [torch.rand_like(f) for f in features]
    got = net.residuals(features, rebuilt)
    assert torch.equal(got[:, :2], (features[0] - rebuilt[0]) ** 2)
    coarse = (features[1] - rebuilt[1]) ** 2
    assert torch.allclose(got[:, 2:], resize_to(coarse, 8)) and got.shape == (2, 5, 8, 8)
    logits, outputs = net(features)
    assert logits.shape == (2, 2, 16, 16) and all((o == 0).all() for o in outputs)
    every = params.model_copy(update={"rrs": rrs(mode="all", channels=4)})
    assert RealNet([2, 3], every, 16).discriminate.units[0].wide.in_channels == 5


def test_segmentation_also_trains_the_reconstruction():
    torch.manual_seed(0)
    params = load(overrides={"preset": "smoke"}).model
    net = RealNet([4, 4], params.model_copy(update={"rrs": rrs(channels=4)}), 16)
    features = [torch.rand(2, 4, 8, 8), torch.rand(2, 4, 4, 4)]
    logits, rebuilt = net(features)
    masks = torch.rand(2, 16, 16) > 0.5
    segmentation, _ = realnet_loss(logits, masks, rebuilt, features)
    segmentation.backward()
    assert all(part.out[-1].weight.grad.abs().sum() > 0 for part in net.reconstruct)


def test_losses_match_their_formulas():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 6, 6, generator=draw)
    masks = torch.rand(2, 6, 6, generator=draw) > 0.7
    normal = [torch.randn(2, 3, 4, 4, generator=draw), torch.randn(2, 5, 2, 2, generator=draw)]
    rebuilt = [torch.randn(f.shape, generator=draw) for f in normal]
    segmentation, reconstruction = realnet_loss(logits, masks, rebuilt, normal)
    anomalous = torch.sigmoid(logits[:, 1] - logits[:, 0])
    likelihood = torch.where(masks, anomalous, 1 - anomalous).log().mean()
    assert segmentation.item() == pytest.approx(-likelihood.item(), rel=1e-5)
    squares = [((a - b) ** 2).mean() for a, b in zip(rebuilt, normal, strict=True)]
    assert reconstruction.item() == pytest.approx(sum(squares).item(), rel=1e-6)


def test_margins_rank_where_the_softmax_saturates():
    logits = torch.tensor([[0.0, 40.0], [0.0, 50.0]]).view(2, 2, 1, 1)
    probability = logits.softmax(1)[:, 1]
    assert probability[0] == probability[1] == 1
    assert margin(logits).flatten().tolist() == [40.0, 50.0]
    assert margin(logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("mode", ["max", "max_mean"])
def test_selected_residuals_and_gradients_are_those_of_a_gather_at_the_finest_size(mode):
    """Channels that are selected twice, and levels of which some image selects none."""
    draw = torch.Generator().manual_seed(0)
    maps = [torch.rand(3, m, s, s, generator=draw) ** 4 for m, s in ((5, 8), (4, 4), (3, 2))]
    select = ResidualSelection(12, rrs(mode=mode, channels=5))
    found = []
    for gathers in (False, True):
        leaves = [m.clone().requires_grad_() for m in maps]
        if gathers:
            resized = torch.cat([resize_to(m, 8) for m in leaves], dim=1)
            index = select.ranking(resized)[:, :, None, None].expand(-1, -1, 8, 8)
            selected = resized.gather(1, index)
        else:
            selected = select(leaves)
        (selected * torch.arange(320.0).view(1, 5, 8, 8)).sum().backward()
        unused = [torch.zeros_like(leaf) for leaf in leaves]
        grads = [leaf.grad for leaf in leaves]
        found.append(
            [selected, *(u if g is None else g for g, u in zip(grads, unused, strict=True))]
        )
    with torch.no_grad():
        found.append([select(maps)])
    for expected, *others in zip(found[1], found[0], strict=True):
        assert all(torch.allclose(other, expected, rtol=1e-5) for other in others)
    assert torch.allclose(found[2][0], found[1][0])
