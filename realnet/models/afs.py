"""Anomaly-aware Features Selection (AFS): scores of channels, and which ones are kept.

Paper sec. 3.2 and official code: channel i of layer k is good when its squared difference between
a synthetic anomaly A and its normal original I looks like the mask M:

    D = (phi_k,i(A) - phi_k,i(I))^2,   D^ = (D - min D) / (max D - min D + 1e-4),
    score = mean (D^ - M)^2   (min and max over the batch, per channel; M at the map's size),

summed over batches; the m_k channels with the smallest score are kept, in ascending index order.

For ablations `afs.selection` has other rules: random or first channels, all of them, or principal
components of the normal images' features instead of channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from realnet.compute.runtime import Runtime
from realnet.config.sections import Block, Model
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.models.features import FeatureExtractor
from realnet.models.projection import Moments, Projection, pack_all, unpack_all

Shapes = Sequence[tuple[int, int]]  # (channels, stride) of each layer of the backbone


@dataclass(frozen=True)
class Selection:
    """The cached result: per backbone layer, ascending channel indices and their scales.

    With projections (selection `pca`) the indices count the components, and the scales are theirs.
    """

    indices: list[list[int]]
    scales: list[list[float]]  # standard deviation over normal training images
    projections: list[Projection] | None = None

    def to_json(self) -> dict[str, Any]:
        """For ``model.json``; :func:`selection_from` reads it."""
        packed = pack_all(self.projections)
        extra = {} if packed is None else {"projections": packed}
        return {"indices": self.indices, "scales": self.scales, **extra}


def selection_from(stored: dict[str, Any]) -> Selection:
    """Rebuild what :meth:`Selection.to_json` returned."""
    return Selection(stored["indices"], stored["scales"], unpack_all(stored.get("projections")))


def load_selection(folder: str | Path) -> Selection:
    """Read the cached selection of the stage `afs`."""
    stored = read_json(Path(folder) / "afs.json")
    return selection_from(
        {name: [layer[name] for layer in stored["layers"]] for name in ("indices", "scales")}
        | {"projections": stored.get("projections")}
    )


# --- scores and choice ---------------------------------------------------------------------------


def passes(how: str, blocks: Sequence[Block]) -> list[tuple[tuple[str | int, ...], list[int]]]:
    """The passes over the data: (extra names of the pass's random stream, layers to score).

    ``per_block`` (official): one pass per block of layers, each with other anomalies. ``shared``:
    one pass for all layers, so all see the same anomalies.
    """
    if how == "per_block":
        return [(("block", number), list(block.layers)) for number, block in enumerate(blocks)]
    return [((), sorted(layer for block in blocks for layer in block.layers))]


def resize_to(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear with aligned corners (official); returned as it is when the size is right."""
    if maps.shape[-2:] == (size, size):
        return maps
    return F.interpolate(maps, (size, size), mode="bilinear", align_corners=True)


def channel_scores(
    both: torch.Tensor, masks: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores ``[C]`` of one batch and D^ ``[B, C, size, size]``.

    both: maps of the anomalies, then of their originals, ``[2B, C, h, w]``; masks bool
    ``[B, S, S]``, shrunk with nearest neighbour to the map (official; the paper enlarges the
    map instead).
    """
    anomalous, original = resize_to(both, size).chunk(2)
    difference = (anomalous - original) ** 2
    low = difference.amin((0, 2, 3), keepdim=True)
    high = difference.amax((0, 2, 3), keepdim=True)
    scaled = (difference - low) / (high - low + 1e-4)
    small = F.interpolate(masks[:, None].float(), (size, size), mode="nearest")
    return ((scaled - small) ** 2).mean((0, 2, 3)), scaled


def choose(scores: torch.Tensor, count: int, how: str, generator: torch.Generator) -> list[int]:
    """``count`` channel indices, ascending. afs: smallest scores; the others: for ablations."""
    if how == "random":
        picked = torch.randperm(len(scores), generator=generator)[:count]
    elif how in ("first", "pca", "all"):  # pca: of the components, all: count is their number
        picked = torch.arange(count)
    else:
        picked = torch.nan_to_num(scores, nan=float("inf")).argsort(stable=True)[:count]
    return sorted(picked.tolist())


def map_sizes(blocks: Sequence[Block], layers: int, size: int) -> list[int | None]:
    """Side of the map at which each layer is scored: its block's; None for a layer in no block."""
    sizes: list[int | None] = [None] * layers
    for block in blocks:
        for layer in block.layers:
            sizes[layer] = -(-size // block.stride)
    return sizes


# --- checks --------------------------------------------------------------------------------------


def check_channels(wanted: Sequence[int], shapes: Shapes) -> None:
    """UserError when a layer has fewer channels than m_k asks for."""
    for layer, (count, (channels, _)) in enumerate(zip(wanted, shapes, strict=True)):
        if count > channels:
            raise UserError(
                f"afs.channels[{layer}] is {count}, but layer {layer} of the backbone has"
                f" {channels} channels"
            )


def check_residuals(counts: Sequence[int], model: Model) -> None:
    """UserError when RRS is to keep more residual maps than the blocks have."""
    maps = sum(counts[layer] for block in model.blocks for layer in block.layers)
    if model.rrs.mode != "all" and model.rrs.channels > maps:
        raise UserError(
            f"model.rrs.channels is {model.rrs.channels}, but the blocks have {maps} channels"
        )


# --- statistics of normal features ---------------------------------------------------------------


@torch.no_grad()
def standard_deviations(
    extractor: FeatureExtractor, normal: torch.Tensor, runtime: Runtime
) -> list[list[float]]:
    """Per layer and channel, standard deviation over images and positions; with a floor.

    The floor is a quarter of the layer's median. A channel that normal images hardly excite would
    otherwise be scaled up a hundredfold: on an anomaly it then drowns the others in the
    discriminator's BatchNorm, and nothing is learnt from milder anomalies (seen on the demo's nut).

    normal uint8 ``[N, 3, S, S]``.
    """
    sums: list[torch.Tensor] = []
    counts: list[int] = []
    for part in normal.split(16):
        maps = [m.double() for m in extractor(part.to(runtime.device).float() / 255)]
        moments = [torch.stack([m.sum((0, 2, 3)), (m**2).sum((0, 2, 3))]).cpu() for m in maps]
        pixels = [m.shape[0] * m.shape[2] * m.shape[3] for m in maps]
        sums = [a + b for a, b in zip(sums, moments, strict=True)] if sums else moments
        counts = [a + b for a, b in zip(counts, pixels, strict=True)] if counts else pixels
    deviations = []
    for (total, squares), count in zip(sums, counts, strict=True):
        variance = squares / count - (total / count) ** 2
        deviations.append(_floored(variance.clamp(min=0).sqrt()))
    return deviations


def _floored(deviations: torch.Tensor) -> list[float]:
    floor = max(0.25 * deviations.median().item(), 1e-3)
    return deviations.clamp(min=floor).float().tolist()


@torch.no_grad()
def principal_components(
    extractor: FeatureExtractor, normal: torch.Tensor, counts: Sequence[int], runtime: Runtime
) -> tuple[list[Projection], list[list[float]]]:
    """Per layer the first m_k principal components of the normal images' features (at each
    position), and their standard deviations, with the floor of :func:`standard_deviations`.

    normal uint8 ``[N, 3, S, S]``.
    """
    moments: list[Moments] = []
    for part in normal.split(16):
        maps = extractor(part.to(runtime.device).float() / 255)
        moments = moments or [Moments(m.shape[1]) for m in maps]
        for layer, found in zip(moments, maps, strict=True):
            layer.add(found)
    fitted = [layer.principal(count) for layer, count in zip(moments, counts, strict=True)]
    return [p for p, _ in fitted], [_floored(torch.tensor(s)) for _, s in fitted]
