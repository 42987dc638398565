"""Structure of an official checkpoint: its tensors, its blocks, its RRS."""

from collections.abc import Mapping
from typing import Any

import torch

from realnet.config.sections import Rrs
from realnet.core.errors import UserError

BACKBONE = "backbone.feature_extractor."
State = Mapping[str, torch.Tensor]
Settings = Mapping[str, Mapping]  # of the sub-networks, by name, as the checkpoint brings them


def unwrap(content: Any, where: str) -> tuple[State, Settings]:
    """The state dict without DDP's prefix, and the sub-networks' settings by name (or none)."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: holds a {type(content).__name__}, not an official checkpoint")
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{where}: its state_dict is empty or no mapping")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    parts = {"backbone": BACKBONE, "afs": "afs.indexes.", "recon": "recon.", "rrs": "rrs."}
    absent = [p for p in parts.values() if not any(key.startswith(p) for key in state)]
    if absent:
        raise UserError(
            f"{where}: not a checkpoint of the official RealNet: no key begins with"
            f" {absent[0]!r}; its first key is {next(iter(state))!r}"
        )
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{where}: {key} is not a tensor but {type(value).__name__}")
    settings: dict[str, Mapping] = {}
    arch = content.get("arch")
    for part in arch if isinstance(arch, list) else []:
        if isinstance(part, Mapping) and isinstance(part.get("kwargs"), Mapping):
            settings[str(part.get("name"))] = part["kwargs"]
    return state, settings


def structure(
    state: State, settings: Settings, where: str
) -> tuple[list[tuple[str, list[int], int | None]], dict[int, list[int]]]:
    """Blocks in order (name, its layers' numbers, stride where given); AFS indices by layer."""
    layers: dict[str, list[int]] = {}
    indices: dict[int, list[int]] = {}
    for key, value in state.items():
        if not key.startswith("afs.indexes."):
            continue
        block, _, layer = key.removeprefix("afs.indexes.").rpartition("_")
        number = layer.removeprefix("layer")
        if not block or not number.isdigit() or not 1 <= int(number) <= 5:
            raise UserError(f"{where}: has an unknown key {key}; expected <block>_layer<1-5>")
        if int(number) in indices:
            raise UserError(f"{where}: {layer} is in two blocks; here a layer is in one at most")
        if value.dtype not in (torch.int64, torch.int32) or value.ndim != 1 or not len(value):
            raise UserError(f"{where}: {key} is no list of channel indices")
        indices[int(number)] = value.tolist()
        layers.setdefault(block, []).append(int(number))
    order = list(dict.fromkeys(k.split(".")[1] for k in state if k.startswith("recon.")))
    order = [name.removesuffix("_recon") for name in order]
    if sorted(order) != sorted(layers):
        odd = sorted(set(order) ^ set(layers))[0]
        raise UserError(
            f"{where}: block {odd!r} has AFS indices or a reconstruction network, but not both"
        )
    strides = _strides(settings, where)
    for name, (sizes, _) in strides.items():
        found = {f"layer{n}": len(indices[n]) for n in layers.get(name, [])}
        if list(sizes.items()) != list(found.items()):
            raise UserError(f"{where}: arch says block {name} is {sizes}, its tensors say {found}")
    blocks = [(name, layers[name], strides.get(name, ({}, None))[1]) for name in order]
    return blocks, indices


def _strides(settings: Settings, where: str) -> dict[str, tuple[dict[str, int], int]]:
    """By block, as the checkpoint's own settings have it: channels of its layers, its stride."""
    found = {}
    try:
        for block in settings.get("afs", {}).get("structure", []):
            sizes = {str(layer["idx"]): int(layer["planes"]) for layer in block["layers"]}
            if int(block["stride"]) < 1:
                raise ValueError("stride")
            found[str(block["name"])] = (sizes, int(block["stride"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where}: the structure in its arch cannot be understood") from None
    return found


def rrs_params(state: State, settings: Settings, where: str) -> Rrs:
    """RRS and the discriminator's widths; without settings, r/2 maps by maximum and by mean."""

    def width(key: str, axis: int) -> int:
        if key not in state:
            raise UserError(f"{where}: misses {key}")
        if state[key].ndim != 4:
            raise UserError(
                f"{where}: {key} has shape {list(state[key].shape)}, expected four axes"
            )
        return state[key].shape[axis]

    kept = width("rrs.decoder1.1.weight", 1)
    given = settings.get("rrs", {})
    modes = given.get("modes", ["max", "mean"])
    numbers = given.get("mode_numbers", [kept - kept // 2, kept // 2])
    halves = modes == ["max", "mean"] and numbers == [kept - kept // 2, kept // 2]
    if not halves and (modes not in (["max"], ["mean"]) or numbers != [kept]):
        raise UserError(
            f"{where}: RRS keeps {numbers} maps by {modes}; only max and mean in two halves, or"
            " one of them, can be imported"
        )
    return Rrs(
        mode="max_mean" if halves else modes[0],
        channels=kept,
        ranking_norm=True,
        hidden=[
            width("rrs.decoder1.1.weight", 0),
            width("rrs.decoder2.0.weight", 0),
            width("rrs.decoder2.2.weight", 0),
            width("rrs.decoder3.0.weight", 0),
        ],
    )
