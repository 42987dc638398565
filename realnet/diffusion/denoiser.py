"""The denoising network: `diffusers.UNet2DModel`, optionally on pixel-unshuffled images."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from realnet.compute.runtime import Runtime
from realnet.config.sections import Ddpm, UNet
from realnet.core.errors import UserError
from realnet.core.io import read_json, sha256
from realnet.diffusion.scheduler import build_scheduler


def check_size(unet: UNet, patch: int, image_size: int, section: str) -> None:
    """UserError where the images cannot be halved as often as the network has levels."""
    unit = patch * 2 ** (len(unet.block_out_channels) - 1)
    if image_size % unit:
        raise UserError(
            f"data.image_size {image_size} must be a multiple of {section}.patch x"
            f" 2^(levels - 1) = {unit}"
        )


def build_unet(unet: UNet, **options: Any) -> UNet2DModel:
    """The UNet of a `unet` section; ``options`` are the other arguments of UNet2DModel."""
    plain_down, plain_up = {
        "resnet": ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
        "conv": ("DownBlock2D", "UpBlock2D"),
    }[unet.resample]
    down = [("AttnDownBlock2D" if a else plain_down) for a in unet.attention]
    up = [("AttnUpBlock2D" if a else plain_up) for a in reversed(unet.attention)]
    return UNet2DModel(
        layers_per_block=unet.layers_per_block,
        block_out_channels=tuple(unet.block_out_channels),
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        attention_head_dim=unet.attention_head_dim,
        resnet_time_scale_shift=unet.time_scale_shift,
        downsample_type=unet.resample,
        upsample_type=unet.resample,
        norm_num_groups=unet.norm_num_groups,
        attn_norm_num_groups=unet.norm_num_groups,
        **options,
    )


class Denoiser(nn.Module):
    """UNet over patches: ``[B, 3, S, S]`` in, prediction (and variance logits) of that size out.

    With ``patch`` 1 this is the official network (ADM, 552.8 M parameters with the paper preset);
    larger patches trade detail for speed, so that the demo trains on a CPU.

    With ``positions`` the UNet's input has a trained offset at each position, zero at the start
    (our option). A convolution does not know where it is, so that a small network learns slowly
    what always lies at the same place, such as the parts of a circuit board.
    """

    alphas_cumprod: torch.Tensor

    def __init__(self, params: Ddpm, image_size: int, classes: int):
        super().__init__()
        self.patch = params.patch
        check_size(params.unet, params.patch, image_size, "ddpm")
        channels = 3 * self.patch**2
        self.outputs = 2 if params.variance == "learned_range" else 1
        self.texture_std = params.texture_std
        products = build_scheduler(params).alphas_cumprod
        self.register_buffer("alphas_cumprod", products, persistent=False)
        grid = image_size // self.patch
        self.positions = (
            nn.Parameter(torch.zeros(1, channels, grid, grid)) if params.positions else None
        )
        self.unet = build_unet(
            params.unet,
            sample_size=grid,
            in_channels=channels,
            out_channels=channels * self.outputs,
            num_class_embeds=classes if classes > 1 else None,
        )

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """sample ``[B, 3, S, S]`` in about [-1, 1], timestep ``[B]`` or a number, label ``[B]``.

        Returns ``[B, 3, S, S]``, or ``[B, 6, S, S]`` with the variance logits behind.
        """
        patches = F.pixel_unshuffle(sample, self.patch) if self.patch > 1 else sample
        if self.positions is not None:
            patches = patches + self.positions
        output = self.unet(patches, timestep, class_labels=label).sample.float()
        # Each of the output's groups (prediction, variance) is shuffled back on its own.
        groups = [
            F.pixel_shuffle(group, self.patch) if self.patch > 1 else group
            for group in output.chunk(self.outputs, 1)
        ]
        if self.texture_std is not None:
            groups[0] = self._keep_texture(groups[0], sample, timestep, self.texture_std)
        return torch.cat(groups, 1)

    def _keep_texture(
        self, structure: torch.Tensor, sample: torch.Tensor, timestep: torch.Tensor, std: float
    ) -> torch.Tensor:
        """x_0 as the posterior mean of N(structure, std^2) observed through x_t.

        A small network that predicts x_0 gives its structure but not its grain, and samples that
        are smoother than real images teach the detector that smooth means anomalous. Here grain
        of standard deviation ``std`` is taken from x_t as far as the noise in x_t allows (our
        decision).
        """
        alpha = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        noise = (1 - alpha) / alpha  # variance of x_t / sqrt(alpha) around x_0
        trust = std**2 / (std**2 + noise)
        return structure + trust * (sample / alpha.sqrt() - structure)


def zero_init(network: nn.Module) -> None:
    """Zero the layers that are zero at the start of the official networks, in place.

    These are the last convolution of each residual block, the output projection of each attention
    and, in a denoiser, the output layer: each block starts as the identity, and the prediction as
    zero. Source: ``zero_module`` in the official code (guided-diffusion).
    """
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            last: nn.Module = module.conv2
        elif isinstance(module, Attention):
            last = module.to_out[0]
        elif isinstance(module, UNet2DModel):
            last = module.conv_out
        else:
            continue
        for parameter in last.parameters():
            nn.init.zeros_(parameter)


def classes_of(scope: str, categories: list[str]) -> int:
    """Size of the class embedding: one model per category needs none."""
    return len(categories) if scope == "dataset" else 1


def parameter_count(module: nn.Module) -> int:
    return sum(math.prod(p.shape) for p in module.parameters())


# --- loading a trained one -----------------------------------------------------------------------


def load_ddpm(folder: str | Path, runtime: Runtime) -> tuple[Denoiser, Ddpm, dict[str, Any]]:
    """The trained network in eval mode, its `ddpm` section and config; the digest is verified."""
    folder = Path(folder)
    config = read_json(folder / "config.json")
    params = Ddpm.model_validate(config["ddpm"])
    path = folder / "model.safetensors"
    if not path.is_file() or sha256(path) != config["sha256"]:
        raise UserError(f"{path}: missing, or not the file of config.json; train it again")
    model = Denoiser(params, config["image_size"], classes_of(params.scope, config["categories"]))
    model.load_state_dict(safetensors.torch.load_file(path))
    return runtime.place(model).eval(), params, config


# --- starting from other weights -----------------------------------------------------------------

CLASS_EMBEDDING = "unet.class_embedding.weight"


def load_denoiser_weights(folder: str | Path, model: Denoiser, params: Ddpm) -> str:
    """Start ``model`` from the weights in ``folder``: a result of `ddpm` or of `import-ddpm`.

    Copies in place and prints what became of the class embedding: copied where the number of
    classes is the same; otherwise the model keeps its own random initialisation, from N(0, 1)
    (as the official code does, without a message). Returns the SHA-256 of the weights.
    UserError: not such a folder; made for another network or another process; a key that is
    missing, left over, or of another shape.
    """
    config, state, digest = read_weights(folder, "ddpm")
    theirs, ours = config["ddpm"], params.model_dump()
    theirs = {"positions": False} | theirs  # weights of earlier versions do not state it
    for key in ("unet", "patch", "positions", "prediction_type", "schedule"):
        if theirs.get(key) != ours[key]:
            name, there, here = _first_difference(f"ddpm.{key}", theirs.get(key), ours[key])
            raise UserError(f"ddpm.init: {folder} has {name} {there}, here it is {here}")
    copy_weights(model, state, f"ddpm.init: {folder}", {CLASS_EMBEDDING})
    there, here = (
        len(weights[CLASS_EMBEDDING]) if CLASS_EMBEDDING in weights else 1
        for weights in (state, model.state_dict())
    )
    fate = f"taken over ({here} classes)" if here > 1 else "none"
    if there != here:
        fate = f"reinitialised ({there} classes there, {here} here)" if here > 1 else "ignored"
    print(f"ddpm.init: weights of {folder}, class embedding {fate}")
    return digest


def read_weights(folder: str | Path, section: str) -> tuple[dict[str, Any], dict, str]:
    """(config, state dict, SHA-256) of a folder with `config.json` and `model.safetensors`."""
    folder = Path(folder)
    config, path = read_json(folder / "config.json"), folder / "model.safetensors"
    if not isinstance(config, dict) or section not in config or "sha256" not in config:
        raise UserError(f"{folder}/config.json: not of a {section}: it has no such section")
    if not path.is_file() or sha256(path) != config["sha256"]:
        raise UserError(f"{path}: missing, or not the file of config.json; make it again")
    return config, safetensors.torch.load_file(path), config["sha256"]


@torch.no_grad()
def copy_weights(
    model: nn.Module, state: Mapping[str, torch.Tensor], where: str, per_class: Collection[str]
) -> None:
    """Copy ``state`` into the model; of the keys ``per_class`` only those whose shapes agree.

    UserError names the first other key that is missing, left over, or of another shape; nothing
    has been copied then.
    """
    own = model.state_dict()
    for key in [*own, *state]:
        if key in per_class:
            continue
        if key not in state or key not in own:
            raise UserError(f"{where}: {'misses' if key in own else 'has an unknown key'} {key}")
        if state[key].shape != own[key].shape:
            found, wanted = list(state[key].shape), list(own[key].shape)
            raise UserError(f"{where}: {key} has shape {found}, expected {wanted}")
    for key, value in own.items():
        if key in state and state[key].shape == value.shape:
            value.copy_(state[key])


def _first_difference(name: str, there: Any, here: Any) -> tuple[str, Any, Any]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key, value in here.items():
            if there.get(key) != value:
                return f"{name}.{key}", there.get(key), value
    return name, there, here
