"""Names and sizes of guided-diffusion networks (ADM: the UNet, and the classifier's encoder).

The released checkpoints name modules by position (``input_blocks.4.0.in_layers.2``); diffusers
names them by role (``down_blocks.1.resnets.0.conv1``). Both count blocks in the same order, so a
name follows from the number of levels and of residual blocks per level.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from realnet.core.errors import UserError

NORM_GROUPS = 32  # fixed in the official code, not visible in any tensor

RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "proj_out",
}
SINGLE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    # The classifier's attention pooling.
    "pool.qkv": "out.2.qkv_proj",
    "pool.project": "out.2.c_proj",
}
POSITIONS = ("pool.positions", "out.2.positional_embedding")  # a tensor without a module
PARTS = ("to_q", "to_k", "to_v")
BLOCK = re.compile(r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?(\w+)\.(\d+)\.?(.*)\.(\w+)")


@dataclass(frozen=True)
class Sizes:
    """The architecture, as far as the tensors of a checkpoint determine it."""

    widths: list[int]  # per level, finest first
    layers: int  # residual blocks per level of the encoder
    attention: list[bool]  # per level
    scale_shift: bool
    resnet_resample: bool  # halving and doubling inside residual blocks, else by convolutions
    inputs: int
    outputs: int  # channels of the image-shaped output; classes of a classifier
    classes: int | None  # rows of the class embedding


def official_name(key: str, sizes: Sizes) -> str:
    """This project's (diffusers') parameter name -> the official one, ``weight`` or so included.

    ``down_blocks.1.attentions.0.to_q.weight`` -> ``input_blocks.4.1.qkv.weight``, of which it is
    a part: see :func:`pick`.
    """
    if key == POSITIONS[0]:
        return POSITIONS[1]
    module, _, leaf = key.rpartition(".")
    if module in SINGLE:
        return f"{SINGLE[module]}.{leaf}"
    block_key = BLOCK.fullmatch(key)
    if block_key is None:
        raise ValueError(f"{key}: no parameter of a UNet of diffusers")
    side, level, kind, index, child, leaf = block_key.groups()
    level, index = int(level or 0), int(index)
    stage = sizes.layers + 1  # positions per level: residual blocks, then what halves the size
    if kind in ("resnets", "attentions"):
        block = {
            "down_blocks": f"input_blocks.{1 + level * stage + index}.",
            "up_blocks": f"output_blocks.{level * stage + index}.",
            "mid_block": "middle_block.",
        }[side]
        if kind == "attentions":
            return f"{block}1.{ATTENTION[child]}.{leaf}"
        return f"{block}{2 * index if side == 'mid_block' else 0}.{RESIDUAL[child]}.{leaf}"
    if side == "down_blocks":
        owner, plain = f"input_blocks.{(level + 1) * stage}.0", "op"
    else:  # in the last position of the level, after its attention
        behind = 2 if sizes.attention[::-1][level] else 1
        owner, plain = f"output_blocks.{level * stage + sizes.layers}.{behind}", "conv"
    return f"{owner}.{RESIDUAL[child] if sizes.resnet_resample else plain}.{leaf}"


def official_shape(key: str, shape: Iterable[int]) -> tuple[int, ...]:
    """Shape of the official tensor that holds ``key``, whose own shape is ``shape``.

    Convolutions over tokens have a trailing 1 there, and q, k and v are one tensor.
    """
    shape = tuple(shape)
    if key == POSITIONS[0]:
        return shape[::-1]
    child, leaf = _within_attention(key)
    if child in PARTS:
        shape = (3 * shape[0], *shape[1:])
    tokens = child or key.startswith("pool.")
    return (*shape, 1) if tokens and leaf == "weight" and len(shape) == 2 else shape


def pick(key: str, official: torch.Tensor, head: int) -> torch.Tensor:
    """The values of ``key`` out of the official tensor; ``head``: channels of an attention head.

    In the official qkv the heads come one after the other, each with its q, k and v ("legacy"
    order); diffusers has all heads of q in one layer.
    """
    if key == POSITIONS[0]:
        return official.T
    values = official.flatten(1) if official.ndim == 3 else official
    child, _ = _within_attention(key)
    if child in PARTS:
        heads = values.reshape(-1, 3, head, *values.shape[1:])
        return heads[:, PARTS.index(child)].flatten(0, 1)
    return values


def _within_attention(key: str) -> tuple[str, str]:
    """``("to_q", "weight")`` of such a key; an empty name if the module is not an attention."""
    module, _, leaf = key.rpartition(".")
    _, found, child = module.rpartition(".attentions.")
    return (child.partition(".")[2] if found else ""), leaf


def read_sizes(state: Mapping[str, torch.Tensor], where: str) -> Sizes:
    """Depth and widths from the tensors; UserError if they are not of a network of this family.

    Reads only the keys that determine the architecture. The other names and shapes are compared
    afterwards.
    """
    first, encoder = "input_blocks.0.0.weight", POSITIONS[1] in state
    if first not in state or "time_embed.0.weight" not in state:
        name = next(iter(state), "none")
        raise UserError(
            f"{where}: no guided-diffusion network: it misses"
            f" {first if first not in state else 'time_embed.0.weight'}; its first key is {name!r}"
        )
    inputs = _count(state, "input_blocks")
    ups = _count(state, "output_blocks")
    convolutions = [n for n in range(inputs) if f"input_blocks.{n}.0.op.weight" in state]
    if encoder:
        layers = _encoder_layers(state, inputs, convolutions, where)
    else:
        # On the way up the last block of a level is followed by what doubles the size.
        doubling = [
            n
            for n in range(ups)
            if any(
                f"output_blocks.{n}.{k}.{child}.weight" in state
                for k in (1, 2)
                for child in ("in_layers.2", "conv")
            )
        ]
        layers = doubling[0] if doubling else ups - 1
    levels, rest = divmod(inputs, layers + 1) if layers > 0 else (0, 1)
    if rest or (not encoder and ups != inputs):
        raise UserError(
            f"{where}: {inputs} input_blocks and {ups} output_blocks do not form"
            " a whole number of levels"
        )
    starts = [1 + level * (layers + 1) for level in range(levels)]
    widths = [_rows(state, f"input_blocks.{n}.0.in_layers.2.weight", where) for n in starts]
    time = state["time_embed.0.weight"]
    if time.ndim != 2 or time.shape[1] != widths[0] or state[first].shape[0] != widths[0]:
        raise UserError(
            f"{where}: a time embedding of {tuple(time.shape)} with {widths[0]} channels at the"
            " finest level cannot be imported; expected as many of both (as at 256 pixels)"
        )
    odd = [width for width in widths if width % NORM_GROUPS]
    if odd:
        raise UserError(f"{where}: a width of {odd[0]}, expected multiples of {NORM_GROUPS}")
    outputs = "out.2.c_proj.weight" if encoder else "out.2.weight"
    embedding = state.get("label_emb.weight")
    return Sizes(
        widths=widths,
        layers=layers,
        attention=[f"input_blocks.{n}.1.qkv.weight" in state for n in starts],
        scale_shift=_rows(state, "input_blocks.1.0.emb_layers.1.weight", where) == 2 * widths[0],
        resnet_resample=not convolutions,
        inputs=state[first].shape[1],
        outputs=_rows(state, outputs, where),
        classes=None if embedding is None else embedding.shape[0],
    )


def _encoder_layers(
    state: Mapping[str, torch.Tensor], inputs: int, convolutions: list[int], where: str
) -> int:
    """Residual blocks per level of an encoder without a decoder.

    Downsampling convolutions have their own names. Downsampling residual blocks have the same keys
    as the others, but at a level with attention they are the ones without it; the coarsest level
    has attention in every network of this family and no downsampling block.
    """
    if convolutions:
        return convolutions[0] - 1
    attends = [f"input_blocks.{n}.1.qkv.weight" in state for n in range(inputs)]
    layers = next((n for n, has in enumerate(reversed(attends)) if not has), 0)
    if layers == 0:
        raise UserError(
            f"{where}: no attention at the coarsest level (input_blocks.{inputs - 1}), so the"
            " levels of this classifier cannot be distinguished"
        )
    return layers


def _count(state: Mapping[str, torch.Tensor], name: str) -> int:
    numbers = [int(key.split(".")[1]) for key in state if re.match(rf"{name}\.\d+\.", key)]
    return max(numbers, default=-1) + 1


def _rows(state: Mapping[str, torch.Tensor], key: str, where: str) -> int:
    if key not in state or state[key].ndim == 0:
        raise UserError(f"{where}: misses {key}")
    return state[key].shape[0]
