"""Stage `sdas`: sample anomalous images of adjustable strength from a trained diffusion model."""

from pathlib import Path

import numpy as np
import torch

from realnet.compute.runtime import start
from realnet.config.stage_params import SdasParams
from realnet.core.io import atomic, sha256, write_csv, write_png
from realnet.core.progress import progress
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.diffusion.sampler import SamplerSpec, load_sampler, through_jpeg
from realnet.provenance.record import Record
from realnet.stages.job import Job
from realnet.training.checkpoint import Checkpoints, training_identity

Row = dict[str, str | int | float]  # of manifest.csv


def run(job: Job[SdasParams]) -> None:
    """Write ``images/*.png``, ``manifest.csv`` (index, s, seed, steps, ...) and ``grid.png``.

    Reads ``ddpm``, ``manifest`` and, where ``sdas.guidance_scale`` is above 0, ``classifier``.
    ``grid.npz`` has what the grid shows: ``images`` uint8 ``[rows, strengths, S, S, 3]``, the real
    ``normal`` images ``[rows, S, S, 3]`` beside them, and the ``strengths``.
    """
    params, out, manifest = job.params.sdas, job.out, job.inputs["manifest"]
    spec = SamplerSpec(
        ddpm=job.inputs["ddpm"],
        classifier=job.inputs.get("classifier"),
        params=params,
        steps=params.steps,
        section="sdas",
        dataset=job.dataset,
        category=job.category,
        seed=job.seed,
    )
    config = spec.check()
    runtime = start(job.params.compute)
    record = Record("sdas", job.params.model_dump(), spec.inputs(manifest), **job.identity)
    train = [item for item in read_manifest(manifest) if item.split == "train"]
    normal = load_images(train, config["image_size"])
    sample = load_sampler(spec, normal, runtime)

    checkpoints = Checkpoints(out, training_identity(record.content))
    rows = _finished(checkpoints, out, params.batch_size)
    batches = -(-params.images // params.batch_size)
    first = -(-len(rows) // params.batch_size)
    for number, _ in progress(first, batches, f"sdas {job.name}"):
        indices = list(range(params.images))[number * params.batch_size :][: params.batch_size]
        keys: list[int | str] = list(indices)
        if params.strength_per == "batch":
            keys = [f"batch {number}"] * len(indices)
        strengths = [spec.strength_of(params.strength, key) for key in keys]
        for index, s, image in zip(indices, strengths, sample(indices, strengths), strict=True):
            name = f"images/{index:05d}.png"
            pixels = image.permute(1, 2, 0).numpy()
            if params.jpeg_quality is not None:
                pixels = through_jpeg(np.ascontiguousarray(pixels), params.jpeg_quality)
            write_png(out / name, pixels)
            rows.append(
                {
                    "index": index,
                    "path": name,
                    "strength": s,
                    "seed": spec.seed_of(index),
                    "steps": params.steps,
                    "start": params.start,
                    "guidance_scale": params.guidance_scale,
                    "checkpoint_sha256": config["sha256"],
                    "sha256": sha256(out / name),
                }
            )
        checkpoints.save(rows=rows)

    count, strengths = params.grid_images, params.grid_strengths
    grid = torch.stack([sample([i] * len(strengths), strengths) for i in range(count)])
    beside = torch.stack([normal[i % len(normal)] for i in range(count)])
    shown = {
        "images": grid.permute(0, 1, 3, 4, 2).numpy(),
        "normal": beside.permute(0, 2, 3, 1).contiguous().numpy(),
        "strengths": np.array(strengths, np.float64),
    }
    with atomic(out / "grid.npz") as temporary:
        np.savez_compressed(
            temporary,
            images=shown["images"],
            normal=shown["normal"],
            strengths=shown["strengths"],
        )
    from realnet.plots.strength import Grid, strength_grid
    from realnet.plots.style import save_figure

    figure = strength_grid({job.category: Grid(**shown)}, count)
    save_figure(out / "grid.png", figure)
    write_csv(out / "manifest.csv", rows, list(rows[0]))
    record.write(out, runtime.name, images=len(rows))
    checkpoints.finish()


def _finished(checkpoints: Checkpoints, out: Path, batch_size: int) -> list[Row]:
    """Rows of the images of an interrupted run: whole batches, of which every file is intact."""
    state = checkpoints.load()
    rows: list[Row] = []
    for row in state["rows"] if state is not None else []:
        path = out / row["path"]
        if not path.is_file() or sha256(path) != row["sha256"]:
            print(f"{path}: missing or changed, sampled again from there")
            return rows[: len(rows) // batch_size * batch_size]
        rows.append(row)
    if rows:
        print(f"resumed after {len(rows)} images")
    return rows
