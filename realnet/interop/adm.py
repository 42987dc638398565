"""`realnet import-ddpm` and `import-classifier`: guided-diffusion weights in this one's format.

Read are OpenAI's ADM checkpoints (a plain state dict) and the RealNet authors' per dataset (the
averaged weights as ``state_dict``, beside epoch and settings); sizes come from the tensors. Strict:
nothing is written unless every key has found its place. Only what belongs to single classes may be
exchanged, and that is said: the class embedding, and a classifier's last layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from realnet.config.params import PROJECT, load
from realnet.config.sections import Classifier, Ddpm
from realnet.core.errors import UserError
from realnet.core.io import save_weights, write_json
from realnet.core.seeds import torch_generator
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.diffusion.denoiser import CLASS_EMBEDDING, Denoiser, parameter_count
from realnet.diffusion.guidance import PER_CLASS, NoisyClassifier
from realnet.interop.adm_names import (
    NORM_GROUPS,
    POSITIONS,
    Sizes,
    official_name,
    official_shape,
    pick,
    read_sizes,
)
from realnet.interop.safe_load import load_checkpoint
from realnet.interop.strict import compare_keys
from realnet.provenance.record import Record

# Not visible in any tensor: the process that the released networks were trained for.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
}
LABELS, PROJECTION = "label_emb.weight", ("out.2.c_proj.weight", "out.2.c_proj.bias")


@dataclass(frozen=True)
class Classes:
    """What the classes of a checkpoint are.

    dataset, categories: the names, in the order of the classes (those of a known dataset need not
    be listed). Without names the weights can only initialise a training.
    count: how many classes the result has; None: as many as the checkpoint.

    Raises:
        UserError: names that do not agree with each other or with the number of classes.
    """

    dataset: str | None = None
    categories: tuple[str, ...] = ()
    count: int | None = None

    @property
    def names(self) -> list[str]:
        """One category per class; empty: unknown."""
        if self.categories:
            if len(set(self.categories)) < len(self.categories):
                raise UserError(f"--category: each once, got {', '.join(self.categories)}")
            return list(self.categories)
        if self.dataset is None:
            return []
        if self.dataset not in KNOWN_CATEGORIES:
            raise UserError(
                f"--dataset: {self.dataset!r} is none of {', '.join(KNOWN_CATEGORIES)}; give"
                " --category for each of its classes, in their order"
            )
        return list(KNOWN_CATEGORIES[self.dataset])

    def wanted(self, rows: int, where: str) -> int:
        """The number of classes of the result, where the checkpoint ``where`` has ``rows``."""
        wanted, names = rows if self.count is None else self.count, self.names
        if names and len(names) != wanted:
            found = f"{where} has {rows} class{'es' if rows > 1 else ''}"
            hint = f"; --classes {len(names)} would exchange its class layer"
            if self.count is not None:
                found, hint = f"--classes is {self.count}", ""
            raise UserError(f"{found}, but {len(names)} are named: {', '.join(names)}{hint}")
        return wanted


def import_ddpm(
    checkpoint: Path,
    out: Path,
    *,
    classes: Classes | None = None,
    image_size: int = 256,
    head_channels: int = 64,
    seed: int = 0,
) -> str:
    """Write ``out`` as the stage `ddpm` does; returns one line on what was imported.

    classes: names and number. Another number than the checkpoint's reinitialises the class
    embedding from N(0, 1) with ``seed``; 1 omits it.
    image_size: pixels. head_channels: of an attention head. Neither is in the tensors.
    UserError: not such a checkpoint, a key missing, left over or of another shape, or names and
    classes that do not agree.
    """
    where, state = str(checkpoint), read_state(checkpoint)
    sizes = read_sizes(state, where)
    if POSITIONS[1] in state:
        raise UserError(f"{where}: a classifier; use realnet import-classifier")
    if sizes.inputs != 3 or sizes.outputs not in (3, 6):
        raise UserError(
            f"{where}: {sizes.inputs} channels in and {sizes.outputs} out; expected 3 in, and 3 or"
            " (with variances) 6 out"
        )
    classes = classes or Classes()
    names, rows = classes.names, sizes.classes or 1
    wanted = classes.wanted(rows, where)
    _check_size(image_size, sizes, where)
    params = Ddpm.model_validate(
        _published().ddpm.model_dump()
        | {
            "init": None,
            "scope": "dataset" if wanted > 1 else "category",
            "patch": 1,
            "unet": _unet(sizes, head_channels, where),
            "schedule": SCHEDULE,
            "prediction_type": "epsilon",
            "texture_std": None,
            "variance": "learned_range" if sizes.outputs == 6 else "fixed_small",
        }
    )
    with torch.device("meta"):
        model = Denoiser(params, image_size, wanted)
    done = f"class embedding of {rows} classes kept" if rows > 1 else "no classes"
    if rows == 1 and sizes.classes:
        # One class has one embedding, always added: a part of the bias before it.
        bias = state["time_embed.2.bias"]
        state["time_embed.2.bias"] = bias + state.pop(LABELS).flatten().to(bias.dtype)
        done = "its only class made part of the time embedding"
    elif wanted != rows:
        state.pop(LABELS, None)
        done = f"class embedding ({rows} classes) left out"
        if wanted > 1:
            shape = model.state_dict()[CLASS_EMBEDDING].shape
            draw = torch_generator(seed, "import-ddpm", "class_embedding")
            state[LABELS] = torch.randn(shape, generator=draw)
            done = f"class embedding of {rows} classes replaced by {wanted} reinitialised"
    _fill(model, state, sizes, head_channels, where, prefix="unet.")
    config = {"ddpm": params.model_dump(), "image_size": image_size, "dataset": classes.dataset}
    config |= {"categories": names, "classes": wanted}
    given = {"head_channels": head_channels, "seed": seed}
    _write(out, "import-ddpm", model, config, checkpoint, given)
    return _summary(model, sizes, done, names, out)


def import_classifier(
    checkpoint: Path,
    out: Path,
    *,
    classes: Classes | None = None,
    head_channels: int = 64,
    seed: int = 0,
) -> str:
    """As :func:`import_ddpm`, in the format of the stage `classifier`.

    With another number of classes the last layer is reinitialised. The image size follows from the
    tokens of the attention pooling.
    """
    where, state = str(checkpoint), read_state(checkpoint)
    sizes = read_sizes(state, where)
    if POSITIONS[1] not in state:
        raise UserError(
            f"{where}: misses {POSITIONS[1]}: no classifier with attention pooling; for a diffusion"
            " model use realnet import-ddpm"
        )
    classes = classes or Classes()
    names = classes.names
    wanted = classes.wanted(sizes.outputs, where)
    side = round((state[POSITIONS[1]].shape[-1] - 1) ** 0.5)
    image_size = side * 2 ** (len(sizes.widths) - 1)
    params = Classifier.model_validate(
        _published().classifier.model_dump()
        | {"init": None, "patch": 1, "unet": _unet(sizes, head_channels, where)}
    )
    with torch.device("meta"):
        model = NoisyClassifier(params, image_size, wanted)
    done = f"{wanted} classes kept"
    if wanted != sizes.outputs:
        # As a fresh layer of torch has it: uniform, by the number of inputs.
        bound = sizes.widths[-1] ** -0.5
        draw = torch_generator(seed, "import-classifier", "projection")
        for name, key in zip(PROJECTION, PER_CLASS, strict=True):
            shape = official_shape(key, model.state_dict()[key].shape)
            state[name] = (torch.rand(shape, generator=draw) * 2 - 1) * bound
        done = f"last layer of {sizes.outputs} classes replaced by {wanted} reinitialised"
    _fill(model, state, sizes, head_channels, where)
    config = {"classifier": params.model_dump(), "schedule": SCHEDULE, "image_size": image_size}
    config |= {"dataset": classes.dataset, "categories": names, "classes": wanted}
    given = {"head_channels": head_channels, "seed": seed}
    _write(out, "import-classifier", model, config, checkpoint, given)
    return _summary(model, sizes, done, names, out)


def read_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The state dict without the prefix of a distributed run; no code in the file is executed."""
    content: object
    if checkpoint.suffix == ".safetensors":
        if not checkpoint.is_file():
            raise UserError(f"{checkpoint}: no such checkpoint")
        try:
            content = safetensors.torch.load_file(checkpoint)
        except SafetensorError as error:
            raise UserError(f"{checkpoint}: no safetensors file, or damaged ({error})") from None
    else:
        content = load_checkpoint(checkpoint)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{checkpoint}: holds a {type(content).__name__} and no state dict")
    state = {str(key).removeprefix("module."): value for key, value in content.items()}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise UserError(f"{checkpoint}: {key} is a {kind}, expected floating-point weights")
        if not value.isfinite().all():
            raise UserError(f"{checkpoint}: {key} has values that are not finite numbers")
    return state


def _check_size(image_size: int, sizes: Sizes, where: str) -> None:
    unit = 2 ** (len(sizes.widths) - 1)
    if image_size % unit:
        raise UserError(f"--image-size {image_size}: {where} takes multiples of {unit} pixels")


def _published() -> Any:
    """The `paper` preset, for parameters that only matter when training continues."""
    return load(PROJECT / "params.yaml", {"preset": "paper"})


def _unet(sizes: Sizes, head_channels: int, where: str) -> dict[str, Any]:
    """The `unet` section."""
    attending = [w for w, a in zip(sizes.widths, sizes.attention, strict=True) if a]
    odd = [width for width in (*attending, sizes.widths[-1]) if width % head_channels]
    if odd:
        raise UserError(
            f"--head-channels {head_channels} does not divide the {odd[0]} channels that {where}"
            " has attention over"
        )
    return {
        "block_out_channels": sizes.widths,
        "layers_per_block": sizes.layers,
        "attention": sizes.attention,
        "attention_head_dim": head_channels,
        "norm_num_groups": NORM_GROUPS,
        "time_scale_shift": "scale_shift" if sizes.scale_shift else "default",
        "resample": "resnet" if sizes.resnet_resample else "conv",
    }


def _fill(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    sizes: Sizes,
    head_channels: int,
    where: str,
    prefix: str = "",
) -> None:
    """Load fp32 weights into the model (on the meta device); all keys must match."""
    own = {key.removeprefix(prefix): value for key, value in model.state_dict().items()}
    names = {key: official_name(key, sizes) for key in own}
    expected = {names[key]: official_shape(key, value.shape) for key, value in own.items()}
    compare_keys(state, expected, where, "a guided-diffusion network")
    values = {
        f"{prefix}{key}": pick(key, state[name], head_channels).float().contiguous()
        for key, name in names.items()
    }
    model.load_state_dict(values, assign=True)


def _write(
    out: Path,
    stage: str,
    model: nn.Module,
    config: dict[str, Any],
    checkpoint: Path,
    given: dict[str, Any],
) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: a file; expected a folder to write the weights to")
    identity = {key: config[key] for key in ("dataset", "categories", "classes")}
    record = Record(stage, {"import": given}, {"checkpoint": checkpoint}, **identity)
    digest = save_weights(out / "model.safetensors", model)
    write_json(
        out / "config.json",
        config | {"parameters": parameter_count(model), "sha256": digest},
    )
    record.write(out, "cpu", parameters=parameter_count(model))


def _summary(model: nn.Module, sizes: Sizes, done: str, names: list[str], out: Path) -> str:
    levels = "-".join(str(width) for width in sizes.widths)
    use = f"classes: {', '.join(names)}" if names else "no category names: to start a training from"
    return f"{out}: {parameter_count(model) / 1e6:.2f} M parameters, {levels}; {done}; {use}"
