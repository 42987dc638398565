"""`realnet import-realnet`: conversion of a checkpoint of the authors' code to a model folder.

The official ``ckpt_best.pth.tar`` holds the whole network, frozen backbone and AFS indices
included. Sizes are read from the tensors. What tensors do not determine (a block's stride, how the
kept residuals are split) is read from the configuration ``arch`` in the checkpoint; without one,
the published structures are assumed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from realnet.config.sections import Backbone, Block, Model, Reconstruction
from realnet.core.errors import UserError
from realnet.core.io import save_weights, write_json
from realnet.interop.realnet_structure import (
    BACKBONE,
    Settings,
    State,
    rrs_params,
    structure,
    unwrap,
)
from realnet.interop.safe_load import load_checkpoint
from realnet.interop.strict import compare_keys
from realnet.interop.unet_names import official_names, unet_params
from realnet.models.features import build_network, write_backbone
from realnet.models.realnet import RealNet
from realnet.provenance.record import Record

# The official choice of backbones; their layers are called layer1, layer2, ...
ARCHITECTURES = ("wide_resnet50_2", "resnet18", "resnet34", "resnet50", "efficientnet_b4")
FIRST_INDEX = {"efficientnet_b4": 0}  # timm's index of layer1; the stem is 0 in a ResNet
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
POOL = 16  # side of the averaging window of the official image score

# RRS and discriminator: this project's module -> the official one's.
HEAD = {
    "select.norm": "rrs.bn_idx",
    "discriminate.units.0.wide": "rrs.decoder1.0._layers.0._block.1",
    "discriminate.units.0.narrow": "rrs.decoder1.0._layers.0._block.3",
    "discriminate.units.1.wide": "rrs.decoder1.0._layers.1._block.1",
    "discriminate.units.1.narrow": "rrs.decoder1.0._layers.1._block.3",
    "discriminate.reduce.0": "rrs.decoder1.1",
    "discriminate.reduce.1": "rrs.decoder1.2",
    "discriminate.reduce.3": "rrs.decoder2.0",
    "discriminate.reduce.5": "rrs.decoder2.2",
    "discriminate.refine.0": "rrs.decoder3.0",
    "discriminate.refine.2": "rrs.decoder3.2",
}


@dataclass(frozen=True)
class Imported:
    """An official network, understood and checked."""

    backbone: Backbone
    extractor: nn.Module  # the timm network with the checkpoint's weights
    params: Model
    model: RealNet
    indices: list[list[int]]  # AFS, per extracted layer
    epoch: int | None

    @property
    def summary(self) -> str:
        """One line for the user: what was in the checkpoint."""
        total = sum(p.numel() for net in (self.extractor, self.model) for p in net.parameters())
        blocks = ", ".join(
            f"{'+'.join(str(len(self.indices[k])) for k in block.layers)} at 1/{block.stride}"
            for block in self.params.blocks
        )
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        return (
            f"{self.backbone.arch}, {total / 1e6:.1f} M parameters{epoch}; maps by block: {blocks};"
            f" RRS {self.params.rrs.channels} ({self.params.rrs.mode})"
        )


def import_realnet(
    checkpoint: Path, out: Path, image_size: int, dataset: str, category: str
) -> Imported:
    """Write the model folder ``out``, as the stage `realnet` does, with its backbone inside.

    ``image_size``: side of the square input in pixels, 256 in every official configuration; the
    checkpoint does not contain it. Nothing is written unless every key of the checkpoint is used.

    Raises UserError for other files, and names a missing, unexpected or wrongly shaped key.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: a file; expected a folder to write the model to")
    found = understand(load_checkpoint(checkpoint), str(checkpoint), image_size)
    names = {"dataset": dataset, "category": category}
    given = {"import": {"image_size": image_size, "epoch": found.epoch}}
    record = Record("import-realnet", given, {"checkpoint": checkpoint}, **names)
    digest = write_backbone(
        out / "backbone", found.extractor, found.backbone, source="official checkpoint"
    )
    parameters = sum(p.numel() for p in found.model.parameters())
    weights = save_weights(out / "model.safetensors", found.model)
    write_json(
        out / "model.json",
        {
            **names,
            "seed": None,
            "image_size": image_size,
            "image_score_pool": POOL,
            "model": found.params.model_dump(),
            "selection": {
                "indices": found.indices,
                "scales": [[1.0] * len(layer) for layer in found.indices],
            },
            "backbone": {"path": "backbone", "sha256": digest},
            "parameters": parameters,
            "sha256": weights,
        },
    )
    record.write(out, "cpu", parameters=parameters)
    return found


def understand(content: Any, where: str, image_size: int) -> Imported:
    """Sizes and weights of a loaded checkpoint; UserError names the first key that does not fit."""
    state, settings = unwrap(content, where)
    blocks, indices = structure(state, settings, where)
    used = sorted({layer for _, layers, _ in blocks for layer in layers})
    backbone, extractor = _backbone(state, used, settings)
    with torch.device("meta"):
        shapes = [m.shape[1:] for m in extractor(torch.zeros(1, 3, 256, 256))]
    strides = dict(zip(used, (256 // shape[-1] for shape in shapes), strict=True))
    channels: list[int] = []
    networks: list[Reconstruction] = []
    for name, layers, _ in blocks:
        channels.append(sum(len(indices[layer]) for layer in layers))
        networks.append(unet_params(state, f"recon.{name}_recon.", channels[-1], where))
        if networks[-1] != networks[0]:
            raise UserError(f"{where}: recon.{name}_recon is built otherwise than the first block")
    params = Model(
        blocks=[
            Block(
                layers=[used.index(layer) for layer in layers],
                # As published: a block has the stride of its finest layer.
                stride=stride or min(strides[layer] for layer in layers),
            )
            for _, layers, stride in blocks
        ],
        feature_scale=False,
        reconstruction=networks[0],
        rrs=rrs_params(state, settings, where),
    )
    side = max(b.stride * 2 ** (len(networks[0].multipliers) - 1) for b in params.blocks)
    side = max(side, *strides.values())
    if image_size % side:
        raise UserError(f"--image-size {image_size}: this network takes multiples of {side} pixels")
    with torch.device("meta"):
        model = RealNet(channels, params, image_size)
    names = _names(model, [name for name, _, _ in blocks])
    expected = {names[key]: tuple(value.shape) for key, value in model.state_dict().items()}
    expected |= {
        f"{BACKBONE}{key}": tuple(value.shape) for key, value in extractor.state_dict().items()
    }
    expected |= {
        f"afs.indexes.{name}_layer{layer}": (len(indices[layer]),)
        for name, layers, _ in blocks
        for layer in layers
    }
    compare_keys(state, expected, where, "an official RealNet checkpoint")
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise UserError(f"{where}: {broken[0]} is not finite: the file is damaged, or training was")
    for layer, shape in zip(used, shapes, strict=True):
        if min(indices[layer]) < 0 or max(indices[layer]) >= shape[0]:
            raise UserError(f"{where}: AFS indices of layer{layer} go beyond its {shape[0]} maps")
    for network, key_of in ((model, names.__getitem__), (extractor, BACKBONE.__add__)):
        own = network.state_dict()
        network.load_state_dict(
            {key: state[key_of(key)].to(own[key].dtype) for key in own}, assign=True
        )
    epoch = content.get("epoch")
    return Imported(
        backbone,
        extractor,
        params,
        model,
        [indices[layer] for layer in used],
        epoch if isinstance(epoch, int) else None,
    )


def _backbone(state: State, used: list[int], settings: Settings) -> tuple[Backbone, nn.Module]:
    """The architecture whose keys and shapes fit (best), as a network on the meta device."""
    found = {
        key.removeprefix(BACKBONE): tuple(value.shape)
        for key, value in state.items()
        if key.startswith(BACKBONE)
    }
    best: tuple[int, Backbone, nn.Module] | None = None
    said = settings.get("backbone", {}).get("backbone")
    for arch in sorted(ARCHITECTURES, key=lambda name: name != said):
        first = FIRST_INDEX.get(arch, 1)
        if used[-1] - 1 + first > 4:  # timm gives five maps, the stem's among them
            continue
        params = Backbone.model_construct(
            source="file",
            arch=arch,
            arch_args={},
            stem_pool=True,
            out_indices=[layer - 1 + first for layer in used],
            mean=MEAN,
            std=STD,
        )
        with torch.device("meta"):
            network = build_network(params)
        own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        differences = len(set(own.items()) ^ set(found.items()))
        if best is None or differences < best[0]:
            best = (differences, params, network)
        if not differences:
            break
    if best is None:
        raise ValueError(f"no known backbone has the layers {used}")
    return best[1], best[2].eval()


def _names(model: RealNet, blocks: list[str]) -> dict[str, str]:
    """Key of this project's model -> key of the official checkpoint."""
    names = {}
    for index, (block, unet) in enumerate(zip(blocks, model.reconstruct, strict=True)):
        for key, official in official_names(unet).items():
            names[f"reconstruct.{index}.{key}"] = f"recon.{block}_recon.{official}"
    for key in model.state_dict():
        owner, _, leaf = key.rpartition(".")
        if owner in HEAD:
            names[key] = f"{HEAD[owner]}.{leaf}"
    return names
