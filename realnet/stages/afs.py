"""Stage `afs`: Anomaly-aware Features Selection, computed once per category and cached.

Paper sec. 3.2 and official code: channel i of layer k is good when its squared difference between
a synthetic anomaly A and its normal original I looks like the mask M:

    D = (phi_k,i(A) - phi_k,i(I))^2,   D^ = (D - min D) / (max D - min D + 1e-4),
    score = mean (D^ - M)^2   (min and max over the batch, per channel; M at the map's size),

summed over batches; the m_k channels with the smallest score stay, in ascending index order.
The official code passes over the data once per block of layers, each time with other anomalies,
and ends each round through the images with a short batch; so does ``afs.passes: per_block``.
Otherwise one pass serves all layers, so all see the same anomalies, in batches of one size.

For ablations `afs.selection` has other rules: random or first channels, all of them, or principal
components of the normal images' features in the place of channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from realnet.compute.runtime import start
from realnet.config.sections import Block, Model
from realnet.core.errors import UserError
from realnet.core.io import read_json, save_figure, write_json
from realnet.core.progress import progress
from realnet.core.seeds import torch_generator
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.models.features import FeatureExtractor, load_backbone
from realnet.models.projection import Moments, Projection, pack_all, unpack_all
from realnet.provenance.record import Record
from realnet.synthesis.pools import build_pools, training_foregrounds
from realnet.synthesis.synthesiser import AnomalySynthesiser
from realnet.training.batches import shuffled_epochs


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


def select_features(
    stage: Any,
    manifest: Path,
    backbone: Path,
    sdas: Path | None,
    dataset: str,
    category: str,
    seed: int,
    out: Path,
) -> None:
    """Write ``afs.json`` (indices, scores, scales, what they come from) and a figure."""
    runtime = start(stage.compute)
    inputs = {"manifest": manifest, "backbone": backbone / "backbone.json"}
    if sdas is not None:
        inputs["sdas"] = sdas / "manifest.csv"
    record = Record(
        "afs", stage.model_dump(), inputs, dataset=dataset, category=category, seed=seed
    )
    size, params = stage.data.image_size, stage.afs
    extractor = runtime.place(load_backbone(backbone))
    shapes = extractor.shapes(size)
    counts = [c for c, _ in shapes] if params.selection == "all" else params.channels
    check_channels(counts, shapes)
    check_residuals(counts, stage.model)
    normal = load_images([i for i in read_manifest(manifest) if i.split == "train"], size)
    covers = training_foregrounds(normal, stage.synthesis, dataset, category)
    pools = build_pools(
        stage.synthesis, sdas, seed, dataset, category, size, normal=normal, covers=covers
    )
    names = ("afs", dataset, category)
    resolution = _map_sizes(stage.model.blocks, shapes, size)
    totals = [torch.zeros(c, dtype=torch.float64) for c, _ in shapes]
    example = []
    for key, layers in passes(params.passes, stage.model.blocks):
        own = (*names, *key)
        synthesise = AnomalySynthesiser(stage.synthesis, pools, seed, *own, anomalous_only=True)
        batch_of = shuffled_epochs(
            len(normal), params.batch_size, seed, *own, short_last=params.passes == "per_block"
        )
        label = " ".join(["afs", f"{dataset}/{category}", *map(str, key)])
        for step, _ in progress(0, params.batches, label):
            chosen = batch_of(step)
            images = normal[chosen].to(runtime.device)
            cover = covers[chosen].to(runtime.device)
            anomalies = synthesise(images, cover, step * params.batch_size)
            with runtime.autocast():
                maps = extractor(torch.cat([anomalies.images, images]).float() / 255)
            for layer in layers:
                both = maps[layer].float()
                scores, scaled = channel_scores(both, anomalies.masks, resolution[layer])
                totals[layer] += scores.double().cpu()
                if step == 0:
                    # The item of the batch that changed most, to be looked at.
                    change = (anomalies.images.float() - images.float()).abs().sum((1, 2, 3))
                    shown = change.argmax()
                    example.append(
                        (layer, scaled[shown, None].cpu(), anomalies.masks[shown, None].cpu())
                    )
    scores = [(t / params.batches).tolist() for t in totals]
    draw = torch_generator(seed, *names, "random")
    indices = [
        choose(torch.tensor(scores[k]), counts[k], params.selection, draw)
        for k in range(len(shapes))
    ]
    spread = _spreads(extractor, normal, runtime)
    projections = None
    if params.selection == "pca":
        projections, spread = principal_components(extractor, normal, counts, runtime)
    write_json(
        out / "afs.json",
        {
            "selection": params.selection,
            "layers": [
                {
                    "channels": shapes[k][0],
                    "stride": shapes[k][1],
                    "indices": indices[k],
                    "scales": [spread[k][i] for i in indices[k]],
                    "scores": scores[k],
                }
                for k in range(len(shapes))
            ],
            "projections": pack_all(projections),
            "computed_from": {n: i["sha256"] for n, i in record.content["inputs"].items()},
            "batches": params.batches,
            "batch_size": params.batch_size,
        },
    )
    save_figure(out / "afs.png", _figure(scores, indices, example, category))
    record.write(out, runtime.name)


def passes(how: str, blocks: Sequence[Block]) -> list[tuple[tuple, list[int]]]:
    """The passes over the data: (what their random numbers depend on besides, layers to score)."""
    if how == "per_block":
        return [(("block", number), list(block.layers)) for number, block in enumerate(blocks)]
    return [((), sorted(layer for block in blocks for layer in block.layers))]


def resize_to(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear with aligned corners (official); untouched when the size is right already."""
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


def choose(scores: torch.Tensor, count: int, how: str, draw: torch.Generator) -> list[int]:
    """``count`` channel indices, ascending. afs: smallest scores; the others: for ablations."""
    if how == "random":
        picked = torch.randperm(len(scores), generator=draw)[:count]
    elif how in ("first", "pca", "all"):  # pca: of the components, all: count is their number
        picked = torch.arange(count)
    else:
        picked = torch.nan_to_num(scores, nan=float("inf")).argsort(stable=True)[:count]
    return sorted(picked.tolist())


def check_channels(wanted: Sequence[int], shapes: list) -> None:
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


def _map_sizes(blocks: Sequence[Block], shapes: list, size: int) -> list[int | None]:
    """Side of the map at which each layer is scored: its block's; None for a layer in no block."""
    sizes: list[int | None] = [None] * len(shapes)
    for block in blocks:
        for layer in block.layers:
            sizes[layer] = -(-size // block.stride)
    return sizes


@torch.no_grad()
def _spreads(extractor: FeatureExtractor, normal: torch.Tensor, runtime: Any) -> list[list[float]]:
    """Per layer and channel, standard deviation over images and positions; with a floor.

    The floor is a quarter of the layer's median. A channel that normal images hardly excite would
    otherwise be blown up a hundredfold: on an anomaly it then drowns the others in the
    discriminator's BatchNorm, and nothing is learnt from milder anomalies (seen on the demo's nut).
    """
    count, sums = 0, None
    for part in normal.split(16):
        maps = [m.double() for m in extractor(part.to(runtime.device).float() / 255)]
        moments = [torch.stack([m.sum((0, 2, 3)), (m**2).sum((0, 2, 3))]).cpu() for m in maps]
        pixels = [m.shape[0] * m.shape[2] * m.shape[3] for m in maps]
        sums = moments if sums is None else [a + b for a, b in zip(sums, moments, strict=True)]
        count = pixels if count == 0 else [a + b for a, b in zip(count, pixels, strict=True)]
    spreads = []
    for (total, squares), pixels in zip(sums, count, strict=True):
        variance = squares / pixels - (total / pixels) ** 2
        spreads.append(_floored(variance.clamp(min=0).sqrt()))
    return spreads


def _floored(spread: torch.Tensor) -> list[float]:
    floor = max(0.25 * spread.median().item(), 1e-3)
    return spread.clamp(min=floor).float().tolist()


@torch.no_grad()
def principal_components(
    extractor: FeatureExtractor, normal: torch.Tensor, counts: Sequence[int], runtime: Any
) -> tuple[list[Projection], list[list[float]]]:
    """Per layer the first m_k principal components of the normal images' features (at each
    position), and their standard deviations, with the floor of :func:`_spreads`.

    normal uint8 ``[N, 3, S, S]``.
    """
    moments: list[Moments] = []
    for part in normal.split(16):
        maps = extractor(part.to(runtime.device).float() / 255)
        moments = moments or [Moments(m.shape[1]) for m in maps]
        for layer, found in zip(moments, maps, strict=True):
            layer.add(found)
    made = [layer.principal(count) for layer, count in zip(moments, counts, strict=True)]
    return [p for p, _ in made], [_floored(torch.tensor(s)) for _, s in made]


def load_selection(folder: str | Path) -> Selection:
    """The cached selection of the stage `afs`."""
    stored = read_json(Path(folder) / "afs.json")
    return selection_from(
        {name: [layer[name] for layer in stored["layers"]] for name in ("indices", "scales")}
        | {"projections": stored.get("projections")}
    )


def selection_from(stored: dict[str, Any]) -> Selection:
    """What :meth:`Selection.to_json` gave."""
    return Selection(stored["indices"], stored["scales"], unpack_all(stored.get("projections")))


def _figure(
    scores: list[list[float]], indices: list[list[int]], example: list, category: str
) -> Any:
    """Sorted scores per layer with the kept part marked; best and worst channel's D^ beside."""
    import matplotlib.pyplot as plt

    rows = len(scores)
    figure, axes = plt.subplots(
        rows,
        4,
        figsize=(8, 1.8 * rows),
        width_ratios=[3, 1, 1, 1],
        squeeze=False,
        layout="constrained",
    )
    shown = {layer: (maps, mask) for layer, maps, mask in example}
    for layer, row in enumerate(axes):
        order = torch.tensor(scores[layer]).argsort()
        kept = torch.tensor([int(i) in set(indices[layer]) for i in order])
        values = torch.tensor(scores[layer])[order]
        ranks = torch.arange(len(values))
        row[0].plot(ranks, values, color="0.7", lw=1)
        row[0].plot(ranks[kept], values[kept], ".", color="tab:green", ms=3)
        row[0].set_ylabel(f"layer {layer}\nscore", fontsize=8)
        row[0].tick_params(labelsize=7)
        for axis in row[1:]:
            axis.set_axis_off()
        if layer in shown:
            maps, mask = shown[layer]
            pictures = [mask[0].float(), maps[0, order[0]], maps[0, order[-1]]]
            for axis, picture in zip(row[1:], pictures, strict=True):
                axis.imshow(picture, cmap="gray", vmin=0, interpolation="nearest")
    axes[0][0].set_title(f"{category}: channels by score, kept ones green", fontsize=9)
    for axis, title in zip(axes[0][1:], ("mask", "best channel", "worst channel"), strict=True):
        axis.set_title(title, fontsize=9)
    axes[-1][0].set_xlabel("rank", fontsize=8)
    return figure
