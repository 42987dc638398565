"""Independent implementation of the official RealNet's forward pass, with its parameter names.

Written from facts of the published network (names of parameters, order of operations), not from
this project's modules, and in plain steps where those use fused operations of a library. Its state
dict has the keys of a checkpoint of the authors' code.
"""

import contextlib
import math
import sys
import types
from collections import OrderedDict

import timm
import torch
import torch.nn.functional as F
from torch import nn

STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
STRIDES_B4 = {f"layer{n}": 2**n for n in range(1, 6)}


def single(*layers, strides=STRIDES):
    """The default structure: ``("layer1", 64), ...``, one block per layer and stride."""
    return [
        {"name": f"block{n}", "layers": [{"idx": idx, "planes": m}], "stride": strides[idx]}
        for n, (idx, m) in enumerate(layers, 1)
    ]


def paired(*blocks):
    """As architecture C: ``(stride, ("layer1", 64), ("layer2", 64)), ...``."""
    return [
        {"name": f"block{n}", "layers": [{"idx": i, "planes": m} for i, m in layers], "stride": s}
        for n, (s, *layers) in enumerate(blocks, 1)
    ]


class Conv(nn.Conv2d):
    def __init__(self, inputs, outputs, side=3, bias=True):
        super().__init__(inputs, outputs, side, padding=side // 2, bias=bias)


class Wrapped(nn.Module):
    """Wraps a layer to have its name inside an up- or down-sampling module."""

    def __init__(self, **layer):
        super().__init__()
        ((name, module),) = layer.items()
        self.add_module(name, module)

    def forward(self, x):
        (layer,) = self.children()
        return layer(x)


class Residual2(nn.Module):
    """GroupNorm, SiLU, resampling, one convolution; the shortcut is resampled separately."""

    def __init__(self, inputs, outputs, change=""):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), Conv(inputs, outputs))
        self.change = change
        if change == "up":
            for name in ("h_upd", "x_upd"):
                up = nn.ConvTranspose2d(inputs, inputs, 4, stride=2, padding=1)
                self.add_module(name, Wrapped(conv=up))
        if inputs != outputs:
            self.skip_connection = Conv(inputs, outputs, 1)

    def forward(self, x):
        norm, _, conv = self.in_layers
        inner = norm(x)
        inner = inner * torch.sigmoid(inner)
        if self.change == "up":
            inner, x = self.h_upd(inner), self.x_upd(x)
        elif self.change == "down":
            inner, x = F.avg_pool2d(inner, 2), F.avg_pool2d(x, 2)
        if hasattr(self, "skip_connection"):
            x = self.skip_connection(x)
        return x + conv(inner)


class HeadedAttention(nn.Module):
    """64 channels per head; q, k and v of each head are consecutive."""

    def __init__(self, channels):
        super().__init__()
        self.heads = channels // 64
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        flat = x.flatten(2)
        answers = []
        for one in self.qkv(self.norm(flat)).split(192, dim=1):
            q, k, v = one[:, :64], one[:, 64:128], one[:, 128:]
            weight = torch.einsum("bct,bcs->bts", q / 64**0.25, k / 64**0.25).softmax(-1)
            answers.append(torch.einsum("bts,bcs->bct", weight, v))
        return (flat + self.proj_out(torch.cat(answers, 1))).reshape(x.shape)


class UNet(nn.Module):
    def __init__(self, channels, ratio, depth, multipliers, attends):
        super().__init__()
        widths = [int(ratio * channels) * m for m in multipliers]
        self.input_blocks = nn.ModuleList([Conv(channels, widths[0])])
        heights, now = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            if level:
                self.input_blocks.append(Residual2(now, now, "down"))
                heights.append(now)
            for _ in range(depth):
                self.input_blocks.append(self.step(now, width, 2**level in attends))
                now = width
                heights.append(now)
        self.middle_block = nn.Sequential(
            Residual2(now, now), HeadedAttention(now), Residual2(now, now)
        )
        self.output_blocks = nn.ModuleList()
        for level in range(len(widths) - 1, -1, -1):
            for turn in range(depth + 1):
                step = self.step(now + heights.pop(), widths[level], 2**level in attends)
                now = widths[level]
                if level and turn == depth:
                    step.append(Residual2(now, now, "up"))
                self.output_blocks.append(step)
        self.out = nn.Sequential(nn.GroupNorm(32, now), nn.SiLU(), Conv(widths[0], channels))

    @staticmethod
    def step(inputs, outputs, attends):
        parts = [Residual2(inputs, outputs)]
        return nn.Sequential(*parts, *([HeadedAttention(outputs)] if attends else []))

    def forward(self, x):
        kept = []
        for block in self.input_blocks:
            x = block(x)
            kept.append(x)
        x = self.middle_block(x)
        for block in self.output_blocks:
            x = block(torch.cat((x, kept.pop()), 1))
        return self.out(x)


class Rrs(nn.Module):
    def __init__(self, maps, modes, numbers, units=2):
        super().__init__()
        self.modes, self.numbers = modes, numbers
        r = sum(numbers)
        self.bn_idx = nn.BatchNorm2d(maps, momentum=0.9, affine=False)
        stack = nn.Module()
        stack._layers = nn.ModuleList()
        for _ in range(units):
            unit = nn.Module()
            unit._block = nn.Sequential(
                nn.ReLU(), Conv(r, r, bias=False), nn.ReLU(), Conv(r, r, 1, bias=False)
            )
            stack._layers.append(unit)
        self.decoder1 = nn.Sequential(stack, Conv(r, 128), nn.BatchNorm2d(128), nn.ReLU())
        self.decoder2 = nn.Sequential(Conv(128, 32), nn.ReLU(), Conv(32, 8), nn.ReLU())
        self.decoder3 = nn.Sequential(Conv(8, 4), nn.ReLU(), Conv(4, 2))

    def forward(self, residuals, size):
        standard = self.bn_idx(residuals).flatten(2)
        picked = []
        for mode, number in zip(self.modes, self.numbers, strict=True):
            score = standard.max(-1).values if mode == "max" else standard.mean(-1)
            order = score.argsort(dim=1, descending=True)[:, :number]
            picked.append(torch.stack([r[i] for r, i in zip(residuals, order, strict=True)]))
        x = torch.cat(picked, 1)
        stack, *reduce = self.decoder1
        for unit in stack._layers:
            x = x + unit._block(x)
        x = F.relu(x)
        for layer in (*reduce, *self.decoder2):
            x = layer(x)
        x = self.decoder3(nn.UpsamplingBilinear2d(scale_factor=2)(x))
        return nn.UpsamplingBilinear2d(size=(size, size))(x)


class OfficialRealNet(nn.Module):
    """Normalised images ``[B, 3, S, S]`` -> anomaly map ``[B, S, S]`` in [0, 1]."""

    def __init__(
        self,
        structure,
        backbone="resnet18",
        modes=("max", "mean"),
        numbers=(32, 32),
        ratio=0.5,
        depth=2,
        multipliers=(1, 2, 4),
        attends=(2, 4),
        units=2,
    ):
        super().__init__()
        self.structure = structure
        b4 = backbone == "efficientnet_b4"
        self.strides = STRIDES_B4 if b4 else STRIDES
        self.layers = sorted({part["idx"] for block in structure for part in block["layers"]})
        self.backbone = Wrapped(
            feature_extractor=timm.create_model(
                backbone,
                features_only=True,
                pretrained=False,
                out_indices=[int(layer[5:]) - b4 for layer in self.layers],
            )
        )
        self.afs, self.recon = nn.Module(), nn.Module()
        self.afs.indexes = nn.ParameterDict()
        for block in structure:
            for part in block["layers"]:
                empty = torch.zeros(part["planes"], dtype=torch.int64)
                name = f"{block['name']}_{part['idx']}"
                self.afs.indexes[name] = nn.Parameter(empty, requires_grad=False)
            m = sum(part["planes"] for part in block["layers"])
            net = UNet(m, ratio, depth, multipliers, attends)
            self.recon.add_module(f"{block['name']}_recon", net)
        total = sum(part["planes"] for block in structure for part in block["layers"])
        self.rrs = Rrs(total, list(modes), list(numbers), units)
        # What the authors' training script saves as "arch".
        structure = [dict(block) for block in structure]
        self.arch = [
            {"name": "backbone", "kwargs": {"backbone": backbone, "outlayers": self.layers}},
            {"name": "afs", "kwargs": {"init_bsn": 64, "structure": structure}},
            {"name": "recon", "kwargs": {"num_res_blocks": depth, "hide_channels_ratio": ratio}},
            {"name": "rrs", "kwargs": {"modes": list(modes), "mode_numbers": list(numbers)}},
        ]

    @torch.no_grad()
    def forward(self, image):
        maps = dict(zip(self.layers, self.backbone(image), strict=True))
        finest = min(block["stride"] for block in self.structure)
        residuals = []
        for block in self.structure:
            parts = []
            for part in block["layers"]:
                index = self.afs.indexes[f"{block['name']}_{part['idx']}"]
                scale = self.strides[part["idx"]] / block["stride"]
                parts.append(
                    nn.UpsamplingBilinear2d(scale_factor=scale)(maps[part["idx"]][:, index])
                )
            phi = torch.cat(parts, 1)
            error = (phi - getattr(self.recon, f"{block['name']}_recon")(phi)) ** 2
            scale = block["stride"] / finest
            residuals.append(nn.UpsamplingBilinear2d(scale_factor=scale)(error))
        logits = self.rrs(torch.cat(residuals, 1), image.shape[-1])
        return logits.softmax(1)[:, 1]


@torch.no_grad()
def randomise(model, images, seed=0):
    """Randomise every parameter and buffer, so that none is 0 or 1 by default.

    ``images``, normalised, set the level of the ranking BatchNorm's statistics and of the last
    layer, so that the map is neither constant nor saturated.
    """
    draw = torch.Generator().manual_seed(seed)

    def noise(like):
        return torch.randn(like.shape, generator=draw)

    modules = dict(model.named_modules())
    for key, value in model.state_dict().items():
        owner = modules[key.rpartition(".")[0]]
        if key.startswith("afs."):
            layer = key.rpartition("_")[2]
            width = model.backbone.feature_extractor.feature_info.channels()
            width = width[model.layers.index(layer)]
            chosen = torch.randperm(width, generator=draw)[: len(value)]
            value.copy_(chosen.sort().values)
        elif key.endswith("num_batches_tracked"):
            value.fill_(1234)
        elif key.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=draw))
        elif key.endswith(("running_mean", "bias")):
            value.copy_(0.2 * noise(value))
        elif isinstance(owner, nn.modules.batchnorm._BatchNorm | nn.GroupNorm):
            value.copy_(1 + 0.2 * noise(value))
        else:
            value.copy_(noise(value) * math.sqrt(1.0 / value[0].numel()))
    seen = []
    hook = model.rrs.bn_idx.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.eval()(images)
    hook.remove()
    values = seen[0].transpose(0, 1).flatten(1)
    model.rrs.bn_idx.running_mean.copy_(
        values.mean(1) * (0.5 + torch.rand(len(values), generator=draw))
    )
    model.rrs.bn_idx.running_var.copy_(
        values.var(1) * (0.5 + torch.rand(len(values), generator=draw))
    )
    last = model.rrs.decoder3[-1]
    last.bias.zero_()
    logit = torch.special.logit(model(images), eps=1e-6)
    last.weight.mul_(1 / logit.std())
    last.bias.copy_(torch.tensor([0.5, -0.5]) * logit.mean() / logit.std())
    return model


class EasyDict(dict):
    """Pickles like the real class: items of a dict, also as attributes."""

    def __init__(self, items):
        super().__init__({k: easy(v) for k, v in items.items()})
        self.__dict__.update(self)


EasyDict.__module__, EasyDict.__qualname__ = "easydict", "EasyDict"


def easy(value):
    """Convert mappings, also inside lists, to EasyDicts."""
    if isinstance(value, dict):
        return EasyDict(value)
    return [easy(item) for item in value] if isinstance(value, list) else value


@contextlib.contextmanager
def pretended(name, **content):
    """A temporary module ``name`` for pickling; it need not be installed."""
    before, fake = sys.modules.get(name), types.ModuleType(name)
    fake.__dict__.update(content)
    sys.modules[name] = fake
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def save_official(path, model, best_metric=0.5, state=None, **extra):
    """Write ``ckpt_best.pth.tar`` as the authors' code does, including its settings."""
    content = {
        "epoch": 35,
        "arch": easy(model.arch),
        "state_dict": OrderedDict(model.state_dict()) if state is None else state,
        "best_metric": best_metric,
        **extra,
    }
    with pretended("easydict", EasyDict=EasyDict):
        torch.save(content, path)
    return path
