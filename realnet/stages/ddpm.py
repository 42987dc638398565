"""Stage `ddpm`: train the diffusion model of normal images, per category or per dataset."""

from pathlib import Path

import torch

from realnet.compute.distributed import check_batch, launch
from realnet.compute.runtime import start
from realnet.config.stage_params import DdpmParams
from realnet.core.errors import UserError
from realnet.core.io import save_weights, write_csv, write_json, write_png
from realnet.core.seeds import SeedPath
from realnet.datasets.images import load_training_images
from realnet.diffusion.denoiser import (
    Denoiser,
    classes_of,
    load_denoiser_weights,
    parameter_count,
    zero_init,
)
from realnet.diffusion.sampler import Chain, SampleBatch, sample_images
from realnet.diffusion.scheduler import build_scheduler
from realnet.provenance.record import Record
from realnet.stages.job import Job
from realnet.training.batches import LabelledImages
from realnet.training.checkpoint import Checkpoints, training_identity
from realnet.training.denoiser_training import HISTORY, train_denoiser


def run(job: Job[DdpmParams]) -> None:
    """Train on the normal training images; write the EMA weights, the loss history, a sample grid.

    Reads ``manifest/<category>`` of each category. With ``ddpm.scope: dataset`` the categories are
    the classes of one conditional model (as in the official run); with ``category`` there is
    exactly one. `compute.processes` share the work. Also written: ``raw.safetensors``, the weights
    that the average was taken of.
    """
    params = job.params.ddpm
    if params.scope == "category" and len(job.categories) != 1:
        raise UserError("ddpm.scope is category: give one --manifest and one --category")
    check_batch("ddpm.batch_size", params.batch_size, job.params.compute)
    if params.init is not None and not (Path(params.init) / "config.json").is_file():
        raise UserError(
            f"ddpm.init: {params.init}/config.json: no such file; make it with"
            f" `realnet import-ddpm FILE {params.init}`, or train from scratch with init: null"
        )
    launch(_train, job.params.compute, job)


def _train(job: Job[DdpmParams]) -> None:
    """What each process does."""
    params, size, out = job.params.ddpm, job.params.data.image_size, job.out
    categories = list(job.categories)
    runtime = start(job.params.compute)
    manifests = {f"manifest/{name}": job.inputs[f"manifest/{name}"] for name in categories}
    inputs = dict(manifests)
    if params.init is not None:
        inputs["init"] = Path(params.init) / "config.json"
    identity = {"dataset": job.dataset, "categories": categories, "seed": job.seed}
    record = Record("ddpm", job.params.model_dump(), inputs, **identity)
    scope = categories if params.scope == "category" else ["all"]
    seeds = SeedPath(job.seed, ("ddpm", job.dataset, *scope))
    classes = classes_of(params.scope, categories)
    data = LabelledImages(*load_training_images(list(manifests.values()), size), classes)

    torch.manual_seed(seeds.derive("init"))
    model = runtime.place(Denoiser(params, size, classes))
    if params.zero_init:
        zero_init(model)
    init = None
    if params.init is not None:
        digest = load_denoiser_weights(params.init, model, params)
        init = {"folder": params.init, "sha256": digest}
    if params.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    fingerprint = training_identity(record.content)
    checkpoints = Checkpoints(out, fingerprint, runtime.processes, runtime.rank)
    trained = train_denoiser(model, data, params, runtime, checkpoints, seeds)
    if trained.average is None:  # not the main process
        return

    write_csv(out / "history.csv", trained.history, HISTORY)
    raw = save_weights(out / "raw.safetensors", model)
    trained.average.copy_to(model.parameters())
    digest = save_weights(out / "model.safetensors", model)
    write_json(
        out / "config.json",
        {
            "ddpm": params.model_dump(),
            "image_size": size,
            "dataset": job.dataset,
            "categories": categories,
            "classes": classes,
            "parameters": parameter_count(model),
            "sha256": digest,
            "raw_sha256": raw,
        },
    )
    batch = SampleBatch(
        seeds=[seeds.derive("grid", i) for i in range(params.sample_grid)],
        strengths=torch.zeros(params.sample_grid),
        labels=torch.arange(params.sample_grid) % classes if classes > 1 else None,
    )
    chain = Chain(min(50, params.schedule.num_train_timesteps), size)
    samples = sample_images(model, build_scheduler(params), runtime, chain, batch)
    from realnet.plots.tiling import tile

    write_png(out / "samples.png", tile(samples, columns=8))
    record.write(
        out,
        runtime.name,
        parameters=parameter_count(model),
        processes=runtime.processes,
        init=init,
    )
    checkpoints.finish()
