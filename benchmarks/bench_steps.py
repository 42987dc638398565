"""Training step of RealNet and denoising step, fp32 on the CPU: each change, and the official code.

    python benchmarks/bench_steps.py [--size demo] [--rounds 15] [--threads 1] [--official FOLDER]

Sizes: `demo` (params.yaml, with official residuals) and `paper`
(256 pixels; slow, so only the first and the last way are measured). FOLDER: a checkout of
https://github.com/cnulab/RealNet, compared at the size `paper`.

All weights are random and the images are noise: neither changes the time. A RealNet step is the
backbone's pass over the anomalies of a batch (half of the items; the official code passes all items
and their originals), forward, backward and update. Prints the median processor time, and the median
of the ratios to the first row of the same round. The rows take turns, except at the size `paper`,
whose networks do not fit into memory together.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F

from realnet.compute.runtime import Runtime, start
from realnet.config.params import Params, load
from realnet.diffusion.denoiser import Denoiser
from realnet.models.afs import Selection
from realnet.models.features import build_network, extractor_of
from realnet.models.folding import fold_batch_norms
from realnet.models.realnet import FeatureSelector, RealNet, realnet_loss
from realnet.models.reconstruction import Attention
from realnet.models.rrs import at_finest_size

Step = Callable[[], object]
SIZES: dict[str, tuple[dict[str, Any], int, int]] = {  # overrides, batches of training and sampling
    # Residuals unscaled, as in version 0.2.0.
    "demo": ({"model": {"rrs": {"scaled": False, "padding": "zeros"}}}, 8, 32),
    "paper": ({"preset": "paper"}, 2, 1),
}
CHANGES = ("fused AdamW", "channels_last", "folded BatchNorm", "selected residuals", "attention")


# --- as in version 0.2.0 -------------------------------------------------------------------------


def gathered(select: Any, residuals: list[torch.Tensor]) -> torch.Tensor:
    """All residuals at the finest size, also in the backward pass."""
    resized = at_finest_size(residuals)
    ranked = select.ranking(resized)
    index = ranked[:, :, None, None].expand(-1, -1, *resized.shape[2:])
    return resized.gather(1, index)


def channels_first_attention(self: Attention, x: torch.Tensor) -> torch.Tensor:
    """Attention whose heads are not contiguous, so that torch does not fuse it."""
    batch, channels, height, width = x.shape
    flat = x.reshape(batch, channels, height * width)
    packed = self.qkv(self.norm(flat)).view(batch, self.heads, 3, -1, height * width)
    q, k, v = packed.transpose(3, 4).unbind(2)
    mixed = F.scaled_dot_product_attention(q, k, v)
    mixed = mixed.transpose(2, 3).reshape(batch, channels, height * width)
    return (flat + self.out(mixed)).view(batch, channels, height, width)


# --- steps ---------------------------------------------------------------------------------------


def on_cpu(params: Params, threads: int, changes: tuple[str, ...]) -> Runtime:
    layout = {"device": "cpu", "channels_last": "channels_last" in changes, "threads": threads}
    return start(params.compute.model_copy(update=layout))


def realnet_step(size: str, threads: int, changes: tuple[str, ...]) -> Step:
    overrides, batch, _ = SIZES[size]
    params = load(overrides=overrides)
    runtime = on_cpu(params, threads, changes)
    network = build_network(params.backbone).eval()
    if "folded BatchNorm" in changes:
        fold_batch_norms(network)
    extractor = runtime.place(extractor_of(network, params.backbone))
    pixels, counts = params.data.image_size, params.afs.channels
    chosen = Selection([list(range(m)) for m in counts], [[1.0] * m for m in counts])
    select = FeatureSelector(params.model.blocks, chosen, pixels, params.model.feature_scale)
    model = runtime.place(RealNet(select.channels, params.model, pixels)).train()
    if "selected residuals" not in changes:
        model.select.forward = partial(gathered, model.select)  # type: ignore[method-assign]
    for module in model.modules():
        if isinstance(module, Attention) and "attention" not in changes:
            module.forward = partial(channels_first_attention, module)  # type: ignore[method-assign]
    weights, lr = model.parameters(), params.training.lr
    fused = "fused AdamW" in changes
    optimiser = runtime.adamw(weights, lr, 0.0) if fused else torch.optim.AdamW(weights, lr=lr)
    images = torch.rand(batch, 3, pixels, pixels)
    masks = torch.rand(batch, pixels, pixels) > 0.95
    with torch.no_grad():
        normal = select(extractor(images))

    def step() -> None:
        anomalous = [block.clone() for block in normal]
        with torch.no_grad():
            for block, new in zip(anomalous, select(extractor(images[::2])), strict=True):
                block[::2] = new
        logits, rebuilt = model(anomalous)
        sum(realnet_loss(logits, masks, rebuilt, normal)).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def denoising_step(size: str, threads: int, changes: tuple[str, ...]) -> Step:
    overrides, _, batch = SIZES[size]
    params = load(overrides=overrides)
    runtime = on_cpu(params, threads, changes)
    model = runtime.place(Denoiser(params.ddpm, params.data.image_size, classes=1)).eval()
    sample = torch.randn(batch, 3, *[params.data.image_size] * 2)
    return lambda: model(sample, torch.full((batch,), 500))


# --- the official code ---------------------------------------------------------------------------


def official_realnet_step(batch: int, pixels: int) -> Step:
    """Networks, loss and optimiser of experiments/MVTec-AD/realnet.yaml, as in train_realnet.py."""
    from models.model_helper import ModelHelper  # type: ignore[import-not-found]
    from utils.criterion_helper import build_criterion  # type: ignore[import-not-found]

    planes = (256, 512, 512, 256)
    structure = [
        {
            "name": f"block{k}",
            "layers": [{"idx": f"layer{k}", "planes": planes[k - 1]}],
            "stride": 2 ** (k + 1),
        }
        for k in range(1, 5)
    ]
    layers = [f"layer{k}" for k in range(1, 5)]
    parts: dict[str, tuple[str, dict[str, Any]]] = {
        "backbone": ("backbones.Backbone", {"backbone": "wide_resnet50_2", "outlayers": layers}),
        "afs": ("afs.AFS", {"init_bsn": 64, "structure": structure}),
        "recon": (
            "recon.ReconstructionLayer",
            {
                **{"num_res_blocks": 2, "hide_channels_ratio": 0.5},
                **{"channel_mult": [1, 2, 4], "attention_mult": [2, 4]},
            },
        ),
        "rrs": (
            "rrs.RRS",
            {
                **{"modes": ["max", "mean"], "mode_numbers": [256, 256]},
                **{"num_residual_layers": 2, "stop_grad": False},
            },
        ),
    }
    before = dict(zip(("afs", "recon", "rrs"), parts, strict=False))
    net = [
        {
            "name": name,
            "type": f"models.{kind}",
            "kwargs": options,
            "frozen": name in ("backbone", "afs"),
            "prev": before.get(name),
        }
        for name, (kind, options) in parts.items()
    ]
    create = timm.create_model
    with mock.patch("timm.create_model", lambda *a, **k: create(*a, **k | {"pretrained": False})):
        model = ModelHelper(net)
    model.cpu()
    for indices in model.afs.indexes.values():
        indices.data.copy_(torch.arange(len(indices)))
    model.train()
    criteria = build_criterion(
        [
            {"name": name, "type": name, "kwargs": {"weight": 1.0}}
            for name in ("SegmentCrossEntropyLoss", "FeatureMSELoss")
        ]
    )
    weights = [*model.recon.parameters(), *model.rrs.parameters()]
    optimiser = torch.optim.Adam(weights, lr=1e-4)
    images = torch.rand(batch, 3, pixels, pixels)
    masks = (torch.rand(batch, 1, pixels, pixels) > 0.95).float()
    given = {"image": images, "gt_image": images, "mask": masks}

    def step() -> None:
        outputs = model(given, train=True)
        loss = torch.stack([criterion(outputs) for criterion in criteria.values()]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def official_denoising_step(batch: int, pixels: int) -> Step:
    """The network of experiments/MVTec-AD/diffusion.yaml."""
    from models.sdas.create_models import (  # type: ignore[import-not-found]
        create_diffusion_unet,
    )

    model = create_diffusion_unet(
        **{"image_size": pixels, "classifier_width": 256, "classifier_depth": 2},
        **{"learn_sigma": True, "attention_resolutions": [32, 16, 8], "dropout": 0.0},
        **{"channel_mult": [1, 1, 2, 2, 4, 4], "class_number": 15, "num_heads": 4},
        **{"num_heads_upsample": -1, "num_head_channels": 64, "use_scale_shift_norm": True},
        **{"resblock_updown": True, "use_fp16": False, "pertrain_path": None},
    ).eval()
    sample = torch.randn(batch, 3, pixels, pixels)
    label = torch.zeros(batch, dtype=torch.long)
    return lambda: model(sample, torch.full((batch,), 500), label)


# --- measurement ---------------------------------------------------------------------------------


def measured(
    makers: dict[str, Callable[[], Step]], rounds: int, together: bool, grad: bool
) -> None:
    """Print a row per way to compute a step; ``together``: the ways take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    groups = [list(makers)] if together else [[name] for name in makers]
    context: AbstractContextManager[Any] = nullcontext() if grad else torch.no_grad()
    with context:
        for group in groups:
            steps = {name: makers[name]() for name in group}
            for turn in range(-1, rounds):  # the first round is a warm-up
                first = turn % len(group)
                for name in group[first:] + group[:first]:
                    begin = time.process_time()
                    steps[name]()
                    if turn >= 0:
                        seconds[name].append(time.process_time() - begin)
            del steps
    base = next(iter(seconds.values()))
    print("| way | processor time, s | ratio |\n|---|---:|---:|")
    for name, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
        print(f"| {name} | {statistics.median(found):.3f} | {ratio:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--official", type=Path)
    parser.add_argument("--pixels", type=int, help="another image size, a multiple of 32")
    parser.add_argument("--only", choices=("realnet", "denoising"))
    options = parser.parse_args()
    size, threads = options.size, options.threads
    small = size != "paper"
    if options.pixels is not None:
        SIZES[size][0]["data"] = {"image_size": options.pixels}
    if options.official is not None and small:
        parser.error("--official is compared at --size paper")
    overrides, batch, sampled = SIZES[size]
    pixels = load(overrides=overrides).data.image_size
    for part, make, changes, official in (
        ("realnet", realnet_step, CHANGES, partial(official_realnet_step, batch, pixels)),
        (
            "denoising",
            denoising_step,
            CHANGES[1:2],
            partial(official_denoising_step, sampled, pixels),
        ),
    ):
        if options.only not in (None, part):
            continue
        ways: dict[str, Callable[[], Step]] = {}
        if options.official is not None:
            sys.path.insert(0, str(options.official))
            ways["official code"] = official
        ways["version 0.2.0"] = partial(make, size, threads, ())
        if small and len(changes) > 1:
            ways |= {name: partial(make, size, threads, (name,)) for name in changes}
        ways["now"] = partial(make, size, threads, changes)
        print(f"\n{part}, {size}, {pixels} pixels, {threads} threads\n")
        measured(ways, options.rounds, small, grad=part == "realnet")


if __name__ == "__main__":
    main()
