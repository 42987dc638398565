"""The reconstruction UNet of the official checkpoints: its sizes, and its modules' names there."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from realnet.config.sections import Reconstruction
from realnet.core.errors import UserError
from realnet.models.reconstruction import Attention, ResBlock

BRANCHES = {"down": "input_blocks", "middle": "middle_block", "up": "output_blocks", "out": "out"}
PARTS = {
    ResBlock: {
        "norm": "in_layers.0",
        "conv": "in_layers.2",
        "skip": "skip_connection",
        "resample": "h_upd.conv",
        "resample_skip": "x_upd.conv",
    },
    Attention: {"norm": "norm", "qkv": "qkv", "out": "proj_out"},
}
# Fixed in the official code; not visible in any tensor.
HEAD_CHANNELS, NORM_GROUPS = 64, 32


def official_names(unet: nn.Module) -> dict[str, str]:
    """Key of a `ReconstructionUNet` -> key of the official one, e.g. ``down.1.0.conv.weight`` ->
    ``input_blocks.1.0.in_layers.2.weight``. The order of q, k and v is the same in both."""
    parts = {name: PARTS[type(m)] for name, m in unet.named_modules() if type(m) in PARTS}
    names = {}
    for key in unet.state_dict():
        module, _, parameter = key.rpartition(".")
        owner, _, child = module.rpartition(".")
        if owner in parts:
            module = f"{owner}.{parts[owner][child]}"
        branch, _, rest = module.partition(".")
        names[key] = f"{BRANCHES[branch]}.{rest}.{parameter}"
    return names


def unet_params(
    state: Mapping[str, torch.Tensor], prefix: str, channels: int, where: str
) -> Reconstruction:
    """Widths, depth and attention of the UNet with key ``prefix``, for ``channels`` input maps.

    Only the way down is read; whether the rest follows from it, the comparison of all keys shows.
    """
    if any(key.startswith(f"{prefix}_residual_stack.") for key in state):
        raise UserError(
            f"{where}: {prefix.rstrip('.')} is the light network (SimpleReconstructionLayer);"
            " only the UNet can be imported"
        )
    levels: list[list[tuple[int, bool]]] = [[]]  # per level, (width, attends) of each stage
    for index in range(1, len(state)):
        block = f"{prefix}input_blocks.{index}."
        if f"{block}in_layers.2.weight" in state:  # halves the map: a new level
            levels.append([])
        elif f"{block}0.in_layers.2.weight" in state:
            width = state[f"{block}0.in_layers.2.weight"].shape[0]
            levels[-1].append((width, f"{block}1.qkv.weight" in state))
        else:
            break
    if not all(levels):
        raise UserError(f"{where}: misses {prefix}input_blocks.1.0.in_layers.2.weight")
    widths = [level[0][0] for level in levels]
    base = math.gcd(*widths)
    if base % NORM_GROUPS:
        raise UserError(
            f"{where}: {prefix.rstrip('.')} has widths {widths}; the official network has"
            f" multiples of {NORM_GROUPS}"
        )
    return Reconstruction(
        width_ratio=base / channels,
        multipliers=[width // base for width in widths],
        res_blocks=len(levels[0]),
        attention_rates=[2**k for k, level in enumerate(levels) if level[0][1]],
        head_channels=HEAD_CHANNELS,
        norm_groups=NORM_GROUPS,
    )
