"""Images of the stage `sia`, the Synthetic Industrial Anomaly data set: drawn, shard by shard.

Image i is the image i of the stage `sdas` where the settings of both are equal, also those of the
batch size (the last, short batch of that stage may be rounded otherwise); here each image has its
own s, and no losses of JPEG. Neither the number of images nor the shards nor interruptions change
an image.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

from realnet.compute.runtime import Runtime, start
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.diffusion.shards import Draw, alone, complete, make_shard, shards_of
from realnet.stages.sdas import check_model, load_sampler, seed_of, share_of_range


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
    guidance = stage.sdas.guidance_scale
    config = check_model(ddpm, category, classifier, guidance, stage.sia.steps, "sia")
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
    size = config["image_size"]
    sampler = cache(partial(_sampler, stage, ddpm, manifest, classifier, size, names, runtime))

    def describe(index: int) -> dict[str, Any]:
        s = strength_of(stage.sia.strength, *names, index)
        return {"s": s, "seed": seed_of(*names, index), "category": category}

    records = []
    for shard in plan if only is None else [plan[only]]:
        with alone(shard):
            done = complete(shard, causes)
            if done is None:
                batch = stage.sia.batch_size
                done = make_shard(shard, causes, batch, sampler(), describe, runtime.name)
            records.append(done)
    return records


def strength_of(strength: list[float], seed: int, dataset: str, category: str, index: int) -> float:
    """s of an image, uniform in ``strength``; drawn as the stage `sdas` draws it."""
    low, high = strength
    return low + (high - low) * share_of_range(seed, dataset, category, index)


def settings_of(stage: Any) -> dict[str, Any]:
    """What has a say in the images: of `compute` all but the number of processes."""
    compute = {k: v for k, v in stage.compute.model_dump().items() if k != "processes"}
    sections = {"sia": stage.sia.model_dump(), "sdas": stage.sdas.model_dump()}
    return sections | {"compute": compute}


def _sampler(
    stage: Any,
    ddpm: Path,
    manifest: Path,
    classifier: Path | None,
    image_size: int,
    names: tuple[int, str, str],
    runtime: Runtime,
) -> Draw:
    """Load the models; returns the function that draws the images of given indices."""
    normal = None
    if stage.sdas.start == "image":
        train = [item for item in read_manifest(manifest) if item.split == "train"]
        normal = load_images(train, image_size)
    draw = load_sampler(ddpm, classifier, normal, stage.sdas, stage.sia.steps, names, runtime)
    return lambda indices: draw(
        indices, [strength_of(stage.sia.strength, *names, index) for index in indices]
    )
