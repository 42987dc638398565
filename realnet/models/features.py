"""The frozen feature extractor: a timm CNN, from one of four sources.

`package` reads the weights that a Python package contains, `timm` fetches published weights by name
and tag, `file` reads a local state dict and checks its digest, `pretext` trains a small network on
a procedural task. All four end as the same artefact:
`backbone.safetensors` + `backbone.json`, which every later stage loads without network.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from realnet.config.sections import Backbone as BackboneParams
from realnet.core.errors import UserError
from realnet.core.io import read_json, save_weights, sha256, write_json
from realnet.models.folding import fold_batch_norms
from realnet.models.weight_packages import package_of

CHANNELS = 3


class FeatureExtractor(nn.Module):
    """Frozen, always in eval mode; normalises its input itself.

    Input: float RGB in [0, 1], ``[B, 3, H, W]``. Output: list of maps ``[B, c_k, H/r_k, W/r_k]``.
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]):
        super().__init__()
        self.network = network
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in eval mode: the official code never updates the backbone's BatchNorm."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return self.network((image - self.mean) / self.std)

    @torch.no_grad()
    def shapes(self, size: int) -> list[tuple[int, int]]:
        """(channels, stride) of each layer for square inputs of ``size`` pixels."""
        maps = self(torch.zeros(1, 3, size, size, device=self.mean.device))
        return [(m.shape[1], size // m.shape[2]) for m in maps]


def build_network(params: BackboneParams, pretrained: bool = False) -> nn.Module:
    """The timm network with ``features_only``, without or with its published weights.

    Raises UserError for an unknown architecture or layer index, or weights that cannot be fetched.
    """
    name = params.arch.partition(".")[0]
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "see timm.list_models()"
        raise UserError(f"backbone.arch: timm has no model {params.arch!r}; perhaps {close}")
    if pretrained and "." in params.arch and not timm.models.is_model_pretrained(params.arch):
        tags = ", ".join(timm.list_pretrained(f"{name}.*")) or "none"
        raise UserError(f"backbone.arch: timm has no weights {params.arch!r}; it has {tags}")
    try:
        network = timm.create_model(
            params.arch if pretrained else name,
            pretrained=pretrained,
            features_only=True,
            out_indices=tuple(params.out_indices),
            **{key: tuple(v) if isinstance(v, list) else v for key, v in params.arch_args.items()},
        )
    except (OSError, RuntimeError) as error:  # hub and connection errors are OSErrors
        if not pretrained:
            raise
        raise UserError(
            f"backbone: cannot fetch the weights {params.arch} ({type(error).__name__}); fetch"
            f" them on a machine with network and set backbone.source: file, backbone.file: PATH"
            " (a state dict, .safetensors or .pth) and backbone.sha256"
        ) from None
    except (AssertionError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"backbone: timm cannot build {params.arch} with out_indices {params.out_indices} and"
            f" arch_args {params.arch_args}: {' '.join(str(error).split())[:200]}"
        ) from None
    if params.stem_pool is False:
        if "maxpool" not in dict(network.named_children()):
            raise UserError(f"backbone.stem_pool: false, but {params.arch} has no stem max-pool")
        network.maxpool = nn.Identity()
    return network


def completed(params: BackboneParams) -> BackboneParams:
    """``params`` with mean, std and stem_pool, where they are null.

    mean, std: of the package for source `package`, else of timm's configuration of ``arch``.

    Raises:
        UserError: timm's configuration has no mean and std; unknown architecture or package.
    """
    found: dict[str, Any] = {"stem_pool": True}
    if params.mean is None or params.std is None:
        if params.source == "package":
            package = package_of(params)
            found |= {"mean": list(package.mean), "std": list(package.std)}
        else:
            known = timm.get_pretrained_cfg(params.arch) if timm.is_model(params.arch) else None
            if known is None or len(known.mean) != CHANNELS:
                raise UserError(
                    f"backbone.mean, backbone.std: timm's configuration of {params.arch} has none"
                    " for three channels; set both"
                )
            found |= {"mean": list(known.mean), "std": list(known.std)}
    missing = {key: value for key, value in found.items() if getattr(params, key) is None}
    return params.model_copy(update=missing)


def extractor_of(network: nn.Module, params: BackboneParams) -> FeatureExtractor:
    """The network with the input normalisation of ``params``."""
    params = completed(params)
    assert params.mean is not None and params.std is not None
    return FeatureExtractor(network, params.mean, params.std)


def read_weights_file(params: BackboneParams) -> dict[str, torch.Tensor]:
    """Read a local state dict and verify its digest; the classifier head is dropped later."""
    if not params.file:
        raise UserError("backbone.source: file needs backbone.file, the path of a state dict")
    path = Path(params.file)
    if not path.is_file():
        raise UserError(
            f"backbone.file: {path} does not exist; put the weights of {params.arch} there"
            " (a state dict, .safetensors or .pth), or use backbone.source: timm with network"
        )
    digest = sha256(path)
    if params.sha256 is None:
        raise UserError(f"backbone.sha256 is not set; {path} has {digest}")
    if digest != params.sha256.lower():
        raise UserError(f"{path}: sha256 is {digest}, backbone.sha256 says {params.sha256}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any parser error is an error of the file: report it in one line
        raise UserError(f"{path}: not a readable state dict ({type(error).__name__})") from None
    return state.get("state_dict", state)


def load_into(network: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """Load strictly; only a classification head may be left over.

    timm's feature networks flatten module names (ConvNeXt's ``stages.0`` is ``stages_0`` there);
    the state dict of the plain model is accepted as it is published.
    """
    own = network.state_dict()
    found = {key.removeprefix("module.").removeprefix("model."): v for key, v in state.items()}
    spelled = {_dotted(key): key for key in own}
    found = {spelled.get(_dotted(key), key): value for key, value in found.items()}
    head = ("fc.", "classifier.", "head.")
    # A features_only network has no layers after the last used one.
    used = tuple({_dotted(key.partition(".")[0]) + "." for key in own})
    left_over = [
        k for k in found if k not in own and not k.startswith(head) and _dotted(k).startswith(used)
    ]
    missing = [key for key in own if key not in found]
    wrong = [k for k in own if k in found and own[k].shape != found[k].shape]
    if missing or left_over or wrong:
        what = (
            f"misses {missing[0]}"
            if missing
            else f"has another shape for {wrong[0]}"
            if wrong
            else f"has an unknown key {left_over[0]}"
        )
        count = len(missing) + len(left_over) + len(wrong)
        raise UserError(f"{where}: does not fit the network: {what} ({count} keys differ)")
    network.load_state_dict({key: found[key] for key in own})


def _dotted(key: str) -> str:
    return key.replace("_", ".")


def write_backbone(out: Path, network: nn.Module, params: BackboneParams, **extra: Any) -> str:
    """Write the folder that :func:`load_backbone` reads; returns the SHA-256 of the weights.

    ``params``: also with null for mean, std and stem_pool (:func:`completed`).

    ``extra``: further entries of ``backbone.json``, at least ``source``.
    """
    digest = save_weights(out / "backbone.safetensors", network)
    write_json(
        out / "backbone.json",
        {
            "architecture": completed(params).model_dump(include=ARCHITECTURE),
            "sha256": digest,
            "parameters": sum(p.numel() for p in network.parameters()),
            **extra,
        },
    )
    return digest


ARCHITECTURE = {"arch", "arch_args", "stem_pool", "out_indices", "mean", "std"}


def load_backbone(folder: str | Path) -> FeatureExtractor:
    """The feature extractor that the stage `backbone` wrote; its digest is verified.

    Its normalisations are folded into the convolutions (:mod:`realnet.models.folding`).
    """
    folder = Path(folder)
    meta = read_json(folder / "backbone.json")
    path = folder / "backbone.safetensors"
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with `realnet backbone --out {folder}`")
    if sha256(path) != meta["sha256"]:
        raise UserError(f"{path}: differs from the digest in backbone.json; rebuild it")
    params = BackboneParams.model_construct(
        **meta["architecture"], source="file", package=None, file=None, sha256=None, pretext=None
    )
    network = build_network(params)
    load_into(network, safetensors.torch.load_file(path), str(path))
    fold_batch_norms(network.eval())
    return extractor_of(network, params)


def backbone_folder(folder: Path, meta: Mapping[str, Any]) -> Path:
    """The folder of the backbone of a model: the path in its ``model.json``, or inside ``folder``.

    UserError: it is in neither place, or it is another backbone.
    """
    origin = (folder / meta["backbone"]["path"]).resolve()
    if not origin.is_dir() and (folder / "backbone").is_dir():
        origin = folder / "backbone"
    if not origin.is_dir():
        raise UserError(
            f"{origin}: no such folder, but {folder} needs its backbone; move both together, or"
            f" copy the backbone's folder to {folder}/backbone"
        )
    if read_json(origin / "backbone.json")["sha256"] != meta["backbone"]["sha256"]:
        raise UserError(f"{origin}: not the backbone of {folder}")
    return origin
