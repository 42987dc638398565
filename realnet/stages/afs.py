"""Stage `afs`: Anomaly-aware Features Selection, computed once per category and cached.

The mathematics is in :mod:`realnet.models.afs`. The official code passes over the data once per
block of layers, each time with other anomalies, and ends each round through the images with a short
batch; so does ``afs.passes: per_block``. Otherwise one pass serves all layers, in batches of one
size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from realnet.compute.runtime import Runtime, start
from realnet.config.stage_params import AfsParams
from realnet.core.io import write_json
from realnet.core.progress import progress
from realnet.core.seeds import torch_generator
from realnet.datasets.items import read_manifest
from realnet.models.afs import (
    channel_scores,
    check_channels,
    check_residuals,
    choose,
    map_sizes,
    passes,
    principal_components,
    standard_deviations,
)
from realnet.models.features import FeatureExtractor, load_backbone
from realnet.models.projection import pack_all
from realnet.provenance.record import Record
from realnet.stages.job import Job
from realnet.synthesis.pools import NormalImages, build_pools
from realnet.synthesis.synthesiser import AnomalySynthesiser
from realnet.training.batches import shuffled_epochs


@dataclass(frozen=True)
class Example:
    """What the figure shows of a layer: the item of its first batch that changed most."""

    responses: torch.Tensor  # D^ of each channel, float32 [C, h, w]
    mask: torch.Tensor  # M, bool [S, S]


def run(job: Job[AfsParams]) -> None:
    """Write ``afs.json`` (indices, scores, scales, digests of the inputs) and a figure.

    Inputs: ``manifest``, ``backbone`` and, where the synthesis uses it, ``sdas``.
    UserError: `afs.channels` or `model.rrs.channels` is more than the backbone has.
    """
    params, size = job.params.afs, job.params.data.image_size
    runtime = start(job.params.compute)
    record = open_record(job)
    extractor = runtime.place(load_backbone(job.inputs["backbone"]))
    shapes = extractor.shapes(size)
    counts = [c for c, _ in shapes] if params.selection == "all" else params.channels
    check_channels(counts, shapes)
    check_residuals(counts, job.params.model)
    items = [item for item in read_manifest(job.inputs["manifest"]) if item.split == "train"]
    normal = NormalImages.load(items, size, job.params.synthesis, job.dataset, job.category)

    scores, examples = score_channels(job, extractor, normal, runtime)
    generator = torch_generator(job.seed, "afs", job.dataset, job.category, "random")
    indices = [
        choose(torch.tensor(scores[k]), counts[k], params.selection, generator)
        for k in range(len(shapes))
    ]
    scales = standard_deviations(extractor, normal.images, runtime)
    projections = None
    if params.selection == "pca":
        projections, scales = principal_components(extractor, normal.images, counts, runtime)
    write_json(
        job.out / "afs.json",
        {
            "selection": params.selection,
            "layers": [
                {
                    "channels": shapes[k][0],
                    "stride": shapes[k][1],
                    "indices": indices[k],
                    "scales": [scales[k][i] for i in indices[k]],
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
    _write_figure(job, scores, indices, examples)
    record.write(job.out, runtime.name)


def open_record(job: Job[AfsParams]) -> Record:
    """Start the record of the job."""
    inputs = {
        "manifest": job.inputs["manifest"],
        "backbone": job.inputs["backbone"] / "backbone.json",
    }
    if "sdas" in job.inputs:
        inputs["sdas"] = job.inputs["sdas"] / "manifest.csv"
    return Record("afs", job.params.model_dump(), inputs, **job.identity)


def score_channels(
    job: Job[AfsParams], extractor: FeatureExtractor, normal: NormalImages, runtime: Runtime
) -> tuple[list[list[float]], dict[int, Example]]:
    """Mean score of every channel of every layer (0 for a layer in no block), and examples."""
    params, blocks, size = job.params.afs, job.params.model.blocks, job.params.data.image_size
    names = ("afs", job.dataset, job.category)
    pools = build_pools(
        *(job.params.synthesis, job.inputs.get("sdas"), job.seed, job.dataset, job.category, size),
        normal=normal,
    )
    shapes = extractor.shapes(size)
    resolution = map_sizes(blocks, len(shapes), size)
    totals = [torch.zeros(c, dtype=torch.float64) for c, _ in shapes]
    examples: dict[int, Example] = {}
    for key, layers in passes(params.passes, blocks):
        own = (*names, *key)
        synthesise = AnomalySynthesiser(
            job.params.synthesis, pools, job.seed, *own, anomalous_only=True
        )
        batch_of = shuffled_epochs(
            len(normal),
            params.batch_size,
            job.seed,
            *own,
            short_last=params.passes == "per_block",
        )
        label = " ".join(["afs", job.name, *map(str, key)])
        for step, _ in progress(0, params.batches, label):
            chosen = batch_of(step)
            images = normal.images[chosen].to(runtime.device)
            foregrounds = normal.foregrounds[chosen].to(runtime.device)
            anomalies = synthesise(images, foregrounds, step * params.batch_size)
            with runtime.autocast():
                maps = extractor(torch.cat([anomalies.images, images]).float() / 255)
            for layer in layers:
                both, side = maps[layer].float(), resolution[layer]
                assert side is not None  # only layers of blocks are scored
                scores, scaled = channel_scores(both, anomalies.masks, side)
                totals[layer] += scores.double().cpu()
                if step == 0:
                    change = (anomalies.images.float() - images.float()).abs().sum((1, 2, 3))
                    most = change.argmax()
                    examples[layer] = Example(scaled[most].cpu(), anomalies.masks[most].cpu())
    return [(total / params.batches).tolist() for total in totals], examples


def _write_figure(
    job: Job[AfsParams],
    scores: Sequence[Sequence[float]],
    indices: Sequence[Sequence[int]],
    examples: dict[int, Example],
) -> None:
    import numpy as np

    from realnet.plots.channel_ranks import Ranked, Responses, selected_channels
    from realnet.plots.style import save_figure

    layers = [Ranked(np.array(s), frozenset(kept)) for s, kept in zip(scores, indices, strict=True)]
    shown: dict[int, Responses] = {}
    for layer, example in examples.items():
        order = torch.tensor(scores[layer]).argsort()
        best, worst = (example.responses[order[place]].numpy() for place in (0, -1))
        shown[layer] = Responses(example.mask.numpy(), best, worst)
    save_figure(job.out / "afs.png", selected_channels(job.name, layers, shown))
