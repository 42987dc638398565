"""Images of the stage `sia`, the Synthetic Industrial Anomaly data set: drawn, shard by shard.

Image i is the image i of the stage `sdas` where the settings of both are equal, also those of the
batch size (the last, short batch of that stage may be rounded otherwise); here each image has its
own s, and no losses of JPEG. Neither the number of images nor the shards nor interruptions change
an image.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from realnet.data.images import load_images
from realnet.data.items import read_manifest
from realnet.diffusion.guide import load_guide, log_gradient
from realnet.diffusion.sampling import sample_images
from realnet.diffusion.scheduler import build_scheduler
from realnet.diffusion.shards import Draw, alone, complete, make_shard, shards_of
from realnet.errors import UserError
from realnet.io import read_json
from realnet.runtime import Runtime, start
from realnet.seeds import derive, torch_generator


def draw_shards(
    stage: Any,
    ddpm: Path,
    manifest: Path,
    dataset: str,
    category: str,
    seed: int,
    out: Path,
    classifier: Path | None = None,
    only: int | None = None,
) -> list[dict[str, Any]]:
    """Draw the shards that are missing (or of them the one numbered ``only``); their records.

    A record has ``causes`` (all that has a say in the images), ``rows`` of the manifest, ``device``
    and ``wall_s``. ``images/shardNNN/IIIII.png`` are lossless and of the diffusion model's size.
    classifier: folder of the stage `classifier`, where ``sdas.guidance_scale`` is above 0.

    UserError: model and settings do not go together, no such shard, shards of other settings in
    ``out``, or another process at work on the same shard.
    """
    plan = shards_of(stage.sia, out)
    if only is not None and only >= len(plan):
        raise UserError(
            f"--shard {only}: {stage.sia.images} images (sia.images) in shards of"
            f" {stage.sia.shard} make shards 0 to {len(plan) - 1}"
        )
    if not manifest.is_file():
        raise UserError(f"{manifest}: no such file; write it with `realnet data prepare`")
    runtime = start(stage.compute)
    config = _check(stage, ddpm, category, classifier)
    settings = settings_of(stage)
    causes = {
        "dataset": dataset,
        "category": category,
        "seed": seed,
        "image_size": config["image_size"],
        "model": config["sha256"],
        "classifier": read_json(classifier / "config.json")["sha256"] if classifier else None,
        **{key: value for key, value in settings["sia"].items() if key != "images"},
        **settings["sdas"],
        "compute": settings["compute"],
    }
    names = (seed, dataset, category)
    # Loaded when the first image is to be drawn, if any is.
    sampler = cache(partial(_sampler, stage, ddpm, manifest, classifier, *names, runtime))

    def describe(index: int) -> dict[str, Any]:
        s = strength_of(stage.sia.strength, *names, index)
        return {"s": s, "seed": seed_of(*names, index), "category": category}

    records = []
    for shard in plan if only is None else [plan[only]]:
        with alone(shard):
            done = complete(shard, causes)
            if done is None:
                size = stage.sia.batch_size
                done = make_shard(shard, causes, size, sampler(), describe, runtime.name)
            records.append(done)
    return records


def seed_of(seed: int, dataset: str, category: str, index: int) -> int:
    """The seed of an image's noise: that of the stage `sdas`."""
    return derive(seed, "sdas", dataset, category, index)


def strength_of(strength: list[float], seed: int, dataset: str, category: str, index: int) -> float:
    """s of an image, uniform in ``strength``; drawn as the stage `sdas` draws it."""
    generator = torch_generator(seed, "sdas", dataset, category, "strength", index)
    low, high = strength
    return low + (high - low) * torch.rand((), generator=generator).item()


def settings_of(stage: Any) -> dict[str, Any]:
    """What has a say in the images: of `compute` all but the number of processes."""
    compute = {k: v for k, v in stage.compute.model_dump().items() if k != "processes"}
    sections = {"sia": stage.sia.model_dump(), "sdas": stage.sdas.model_dump()}
    return sections | {"compute": compute}


def _check(stage: Any, ddpm: Path, category: str, classifier: Path | None) -> dict[str, Any]:
    """The diffusion model's config. UserError: it does not go together with the settings."""
    guidance = stage.sdas.guidance_scale
    if (guidance > 0) != (classifier is not None):
        raise UserError(
            f"sdas.guidance_scale is {guidance:g}, which needs"
            f" {'the folder of the stage' if classifier is None else 'no'} classifier"
            f" (--classifier {classifier or 'FOLDER'})"
        )
    config = read_json(ddpm / "config.json")
    categories = config.get("categories")
    if not categories:
        raise UserError(
            f"{ddpm}: these weights name no categories, so they are only to start a training from"
            " (ddpm.init); import them with --dataset or --category"
        )
    if category not in categories:
        raise UserError(f"{ddpm}: trained for {', '.join(categories)}, not for {category}")
    if guidance > 0 and len(categories) == 1:
        raise UserError(
            f"sdas.guidance_scale is {guidance:g}, but {ddpm} knows one category only, so there is"
            " no other to be guided away from; set it to 0"
        )
    most = config["ddpm"]["schedule"]["num_train_timesteps"]
    if stage.sia.steps > most:
        raise UserError(
            f"sia.steps is {stage.sia.steps}, but the model was trained with {most} timesteps;"
            " give at most that many"
        )
    return config


def _sampler(
    stage: Any,
    ddpm: Path,
    manifest: Path,
    classifier: Path | None,
    seed: int,
    dataset: str,
    category: str,
    runtime: Runtime,
) -> Draw:
    """Load the models; returns the function that draws the images of given indices."""
    from realnet.diffusion.training import load_ddpm

    model, trained, config = load_ddpm(ddpm, runtime)
    scheduler = build_scheduler(trained)
    judge = normal = None
    if classifier is not None:
        judge = load_guide(classifier, runtime, config, trained.schedule)
    if stage.sdas.start == "image":
        train = [item for item in read_manifest(manifest) if item.split == "train"]
        normal = load_images(train, config["image_size"])
    label = config["categories"].index(category)
    conditional = trained.scope == "dataset" and len(config["categories"]) > 1
    names = (seed, dataset, category)

    def draw(indices: list[int]) -> torch.Tensor:
        labels = torch.full((len(indices),), label) if conditional else None
        starts = guide = None
        if normal is not None:
            pick = [derive(seed, "sdas", dataset, category, "start", i) for i in indices]
            starts = normal[[number % len(normal) for number in pick]]
        if judge is not None:
            guide = partial(log_gradient, judge, labels, stage.sdas.guidance_scale, runtime)
        return sample_images(
            *(model, scheduler, runtime),
            steps=stage.sia.steps,
            strengths=torch.tensor([strength_of(stage.sia.strength, *names, i) for i in indices]),
            seeds=[seed_of(*names, i) for i in indices],
            labels=labels,
            size=config["image_size"],
            start_images=starts,
            start_fraction=stage.sdas.start_fraction,
            guide=guide,
            rounding=stage.sdas.rounding,
        )

    return draw
