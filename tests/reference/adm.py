"""The guided-diffusion UNet and its encoder classifier as plain functions of a state dict.

Restated from the published architecture (Dhariwal & Nichol 2021, app. A and H) and the key names
of the released checkpoints, without modules: the weights are looked up by the names they have in
those files. Nothing here is shared with the code under test, not even diffusers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sizes:
    """Architecture of a checkpoint of this family; the defaults are the released 256 px network."""

    width: int = 256
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention: tuple[bool, ...] = (False, False, False, True, True, True)
    head: int = 64  # channels of an attention head
    classes: int | None = 15
    outputs: int = 6
    scale_shift: bool = True
    blocks_resample: bool = True  # resample inside residual blocks, else by convolutions
    encoder: bool = False  # the classifier: no decoder, attention pooling
    side: int = 256  # of the image, in pixels; only the classifier's pooling depends on it


CLASSIFIER = Sizes(width=128, classes=None, outputs=15, encoder=True)


class _Shapes(dict):
    """Collects the shapes of the parameters, layer by layer."""

    def __init__(self, s: Sizes):
        super().__init__()
        self.s = s

    def layer(self, name: str, *shape: int) -> None:
        self[f"{name}.weight"], self[f"{name}.bias"] = shape, shape[:1]

    def residual(self, name: str, given: int, wanted: int) -> None:
        self.layer(f"{name}.in_layers.0", given)
        self.layer(f"{name}.in_layers.2", wanted, given, 3, 3)
        doubled = 2 if self.s.scale_shift else 1
        self.layer(f"{name}.emb_layers.1", wanted * doubled, 4 * self.s.width)
        self.layer(f"{name}.out_layers.0", wanted)
        self.layer(f"{name}.out_layers.3", wanted, wanted, 3, 3)
        if given != wanted:
            self.layer(f"{name}.skip_connection", wanted, given, 1, 1)

    def attend(self, name: str, channels: int) -> None:
        self.layer(f"{name}.norm", channels)
        self.layer(f"{name}.qkv", 3 * channels, channels, 1)
        self.layer(f"{name}.proj_out", channels, channels, 1)

    def resample(self, name: str, channels: int, plain: str) -> None:
        if self.s.blocks_resample:
            self.residual(name, channels, channels)
        else:
            self.layer(f"{name}.{plain}", channels, channels, 3, 3)


def shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    """Every key of the state dict with its shape."""
    found = _Shapes(s)
    layer, residual, attend, time = found.layer, found.residual, found.attend, 4 * s.width
    layer("time_embed.0", time, s.width)
    layer("time_embed.2", time, time)
    if s.classes:
        found["label_emb.weight"] = (s.classes, time)
    now = s.width * s.multipliers[0]
    layer("input_blocks.0.0", now, 3, 3, 3)
    skips, index, last = [now], 1, len(s.multipliers) - 1
    for level, multiplier in enumerate(s.multipliers):
        for _ in range(s.blocks):
            residual(f"input_blocks.{index}.0", now, s.width * multiplier)
            now = s.width * multiplier
            if s.attention[level]:
                attend(f"input_blocks.{index}.1", now)
            skips.append(now)
            index += 1
        if level < last:
            found.resample(f"input_blocks.{index}.0", now, "op")
            skips.append(now)
            index += 1
    residual("middle_block.0", now, now)
    attend("middle_block.1", now)
    residual("middle_block.2", now, now)
    layer("out.0", s.width * s.multipliers[-1 if s.encoder else 0])
    if s.encoder:
        tokens = (s.side // 2**last) ** 2 + 1
        found["out.2.positional_embedding"] = (now, tokens)
        layer("out.2.qkv_proj", 3 * now, now, 1)
        layer("out.2.c_proj", s.outputs, now, 1)
        return found
    index = 0
    for level in range(last, -1, -1):
        wanted = s.width * s.multipliers[level]
        for block in range(s.blocks + 1):
            residual(f"output_blocks.{index}.0", now + skips.pop(), wanted)
            now, behind = wanted, 1
            if s.attention[level]:
                attend(f"output_blocks.{index}.1", now)
                behind = 2
            if level and block == s.blocks:
                found.resample(f"output_blocks.{index}.{behind}", now, "conv")
            index += 1
    layer("out.2", s.outputs, now, 3, 3)
    return found


def random_state(s: Sizes, seed: int = 0) -> State:
    """Random weights, none of them zero or one, so that each affects the output."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(s).items():
        values = torch.randn(shape, generator=draw)
        fan = math.prod(shape[1:])
        if name.endswith("bias"):
            values *= 0.1
        elif len(shape) == 1:  # a norm's scale
            values = 1 + 0.1 * values
        elif "embedding" not in name and name != "label_emb.weight":
            values /= math.sqrt(fan)
        state[name] = values
    return state


def time_features(when: torch.Tensor, width: int) -> torch.Tensor:
    half = width // 2
    speed = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = when.double()[:, None] * speed[None]
    return torch.cat([angle.cos(), angle.sin()], 1).float()


def _norm(w: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def _conv(w: State, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    kernel = w[f"{name}.weight"]
    return F.conv2d(x, kernel, w[f"{name}.bias"], stride, padding=kernel.shape[-1] // 2)


def _linear(w: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _residual(
    s: Sizes, w: State, name: str, x: torch.Tensor, emb: torch.Tensor, resize: str = ""
) -> torch.Tensor:
    h = F.silu(_norm(w, f"{name}.in_layers.0", x))
    if resize == "down":
        h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
    elif resize == "up":
        h, x = (part.repeat_interleave(2, 2).repeat_interleave(2, 3) for part in (h, x))
    h = _conv(w, f"{name}.in_layers.2", h)
    add = _linear(w, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    if s.scale_shift:
        scale, shift = add.chunk(2, 1)
        h = _norm(w, f"{name}.out_layers.0", h) * (1 + scale) + shift
    else:
        h = _norm(w, f"{name}.out_layers.0", h + add)
    h = _conv(w, f"{name}.out_layers.3", F.silu(h))
    if f"{name}.skip_connection.weight" in w:
        x = _conv(w, f"{name}.skip_connection", x)
    return x + h


def _resample(
    s: Sizes, w: State, name: str, x: torch.Tensor, emb: torch.Tensor, way: str
) -> torch.Tensor:
    if s.blocks_resample:
        return _residual(s, w, name, x, emb, way)
    if way == "down":
        return _conv(w, f"{name}.op", x, stride=2)
    return _conv(w, f"{name}.conv", F.interpolate(x, scale_factor=2))


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One head; ``[B, channels, tokens]`` each."""
    match = q.transpose(1, 2) @ k / math.sqrt(q.shape[1])
    return v @ match.softmax(-1).transpose(1, 2)


def _attend(s: Sizes, w: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """Attention; channels of qkv are ordered by head, within a head q, k, v ("legacy" order)."""
    flat = x.flatten(2)
    qkv = F.conv1d(_norm(w, f"{name}.norm", flat), w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"])
    heads = [_attention(*head.split(s.head, 1)) for head in qkv.split(3 * s.head, 1)]
    out = F.conv1d(torch.cat(heads, 1), w[f"{name}.proj_out.weight"], w[f"{name}.proj_out.bias"])
    return x + out.view_as(x)


def _pool(s: Sizes, w: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """Attention pooling with the mean as first token; channel order: all q, all k, all v."""
    flat = x.flatten(2)
    flat = torch.cat([flat.mean(2, keepdim=True), flat], 2) + w[f"{name}.positional_embedding"]
    qkv = F.conv1d(flat, w[f"{name}.qkv_proj.weight"], w[f"{name}.qkv_proj.bias"])
    q, k, v = (part.split(s.head, 1) for part in qkv.chunk(3, 1))
    out = torch.cat([_attention(*head) for head in zip(q, k, v, strict=True)], 1)
    return F.conv1d(out, w[f"{name}.c_proj.weight"], w[f"{name}.c_proj.bias"])[:, :, 0]


@torch.no_grad()
def run(
    s: Sizes, w: State, x: torch.Tensor, when: torch.Tensor, label: torch.Tensor | None = None
) -> torch.Tensor:
    """Output of the network, or logits, for x ``[B, 3, S, S]``, when ``[B]``, label ``[B]``."""
    emb = F.silu(_linear(w, "time_embed.0", time_features(when, s.width)))
    emb = _linear(w, "time_embed.2", emb)
    if s.classes:
        emb = emb + w["label_emb.weight"][label]
    h = _conv(w, "input_blocks.0.0", x)
    kept, index, last = [h], 1, len(s.multipliers) - 1
    for level in range(last + 1):
        for _ in range(s.blocks):
            h = _residual(s, w, f"input_blocks.{index}.0", h, emb)
            if s.attention[level]:
                h = _attend(s, w, f"input_blocks.{index}.1", h)
            kept.append(h)
            index += 1
        if level < last:
            h = _resample(s, w, f"input_blocks.{index}.0", h, emb, "down")
            kept.append(h)
            index += 1
    h = _residual(s, w, "middle_block.0", h, emb)
    h = _attend(s, w, "middle_block.1", h)
    h = _residual(s, w, "middle_block.2", h, emb)
    if s.encoder:
        return _pool(s, w, "out.2", F.silu(_norm(w, "out.0", h)))
    index = 0
    for level in range(last, -1, -1):
        for block in range(s.blocks + 1):
            h = _residual(s, w, f"output_blocks.{index}.0", torch.cat([h, kept.pop()], 1), emb)
            behind = 1
            if s.attention[level]:
                h = _attend(s, w, f"output_blocks.{index}.1", h)
                behind = 2
            if level and block == s.blocks:
                h = _resample(s, w, f"output_blocks.{index}.{behind}", h, emb, "up")
            index += 1
    return _conv(w, "out.2", F.silu(_norm(w, "out.0", h)))
