"""Stage `classifier`: train the network that guides SDAS to a category.

As in the official RealNet code: noised images of the whole dataset, t uniform, cross-entropy on the
category. Optional, since a conditional diffusion model has the category as an input already.
"""

from pathlib import Path

import torch

from realnet.compute.runtime import start
from realnet.config.stage_params import ClassifierParams
from realnet.core.errors import UserError
from realnet.core.io import save_weights, write_csv, write_json
from realnet.core.seeds import SeedPath
from realnet.datasets.images import load_training_images
from realnet.diffusion.denoiser import parameter_count, zero_init
from realnet.diffusion.guidance import NoisyClassifier, load_classifier_weights
from realnet.diffusion.scheduler import build_scheduler
from realnet.provenance.record import Record
from realnet.stages.job import Job
from realnet.training.batches import LabelledImages
from realnet.training.checkpoint import Checkpoints, training_identity
from realnet.training.classifier_training import (
    HISTORY,
    accuracy_by_timestep,
    train_noisy_classifier,
)


def run(job: Job[ClassifierParams]) -> None:
    """Train on the normal training images of all categories of a dataset.

    Reads ``manifest/<category>`` of each category. Writes weights, ``config.json``, the history and
    ``curves.png``. Checkpoints and resumes like the stage `ddpm`, whose noise schedule it shares.
    """
    params, size, out = job.params.classifier, job.params.data.image_size, job.out
    categories = list(job.categories)
    if len(categories) < 2:
        raise UserError(
            f"a guidance classifier of {', '.join(categories) or 'no category'} has nothing to"
            " distinguish; give two categories or more, or set sdas.guidance_scale to 0"
        )
    runtime = start(job.params.compute)
    manifests = {f"manifest/{name}": job.inputs[f"manifest/{name}"] for name in categories}
    inputs = dict(manifests)
    if params.init is not None:
        inputs["init"] = Path(params.init) / "config.json"
    identity = {"dataset": job.dataset, "categories": categories, "seed": job.seed}
    record = Record("classifier", job.params.model_dump(), inputs, **identity)
    seeds = SeedPath(job.seed, ("classifier", job.dataset))
    data = LabelledImages(*load_training_images(list(manifests.values()), size), len(categories))

    torch.manual_seed(seeds.derive("init"))
    model = NoisyClassifier(params, size, data.classes)
    if params.zero_init:
        zero_init(model)
    if params.init is not None:
        load_classifier_weights(params.init, model, params)
    model = runtime.place(model)
    checkpoints = Checkpoints(out, training_identity(record.content))
    alphas = build_scheduler(job.params.ddpm).alphas_cumprod.to(runtime.device)
    history = train_noisy_classifier(model, data, params, alphas, runtime, checkpoints, seeds)
    accuracy = accuracy_by_timestep(model, data, alphas, runtime, seeds)

    write_csv(out / "history.csv", history, HISTORY)
    digest = save_weights(out / "model.safetensors", model)
    write_json(
        out / "config.json",
        {
            "classifier": params.model_dump(),
            "schedule": job.params.ddpm.schedule.model_dump(),
            "image_size": size,
            "dataset": job.dataset,
            "categories": categories,
            "classes": data.classes,
            "parameters": parameter_count(model),
            "sha256": digest,
        },
    )
    from realnet.plots.losses import write_training_curves

    title = f"guidance classifier, {job.dataset}, seed {job.seed}"
    write_training_curves(out / "curves.png", title, history, {"loss": "cross-entropy"}, accuracy)
    record.write(
        out, runtime.name, parameters=parameter_count(model), accuracy_by_timestep=accuracy
    )
    checkpoints.finish()
