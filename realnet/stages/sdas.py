"""Stage `sdas`: draw anomalous images of adjustable strength from a trained diffusion model."""

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from realnet.compute.runtime import Runtime, start
from realnet.config.sections import Sdas
from realnet.core.errors import UserError
from realnet.core.io import atomic, read_json, save_figure, sha256, write_csv, write_png
from realnet.core.progress import progress
from realnet.core.seeds import derive, torch_generator
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.diffusion.guidance import load_guide, log_gradient
from realnet.diffusion.scheduler import SDASScheduler, build_scheduler
from realnet.provenance.record import Record
from realnet.training.checkpoint import Checkpoints, training_identity


@torch.no_grad()
def sample_images(
    model: torch.nn.Module,
    scheduler: SDASScheduler,
    runtime: Runtime,
    *,
    steps: int,
    strengths: torch.Tensor,
    seeds: Sequence[int],
    labels: torch.Tensor | None,
    size: int,
    start_images: torch.Tensor | None = None,
    start_fraction: float = 1.0,
    guide: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    rounding: str = "round",
) -> torch.Tensor:
    """The reverse process for one batch; every image has its own strength and its own generator.

    strengths ``[B]`` >= 0; labels ``[B]`` for a class-conditional model, else None.
    start_images: uint8 ``[B, 3, S, S]``; then the chain starts from them, noised to the timestep
    that leaves ``start_fraction`` of the steps, instead of from pure noise (our option).
    guide: gives the scaled gradient of log p(y | x_t) for x_t ``[B, 3, S, S]`` and t ``[B]``.
    rounding: ``round``, or ``truncate`` as the official code does.
    Returns uint8 ``[B, 3, S, S]``.
    """
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    noise = torch.stack([torch.randn(3, size, size, generator=g) for g in generators])
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    sample = noise.to(runtime.device)
    if start_images is not None:
        timesteps = timesteps[len(timesteps) - max(1, round(start_fraction * len(timesteps))) :]
        clean = start_images.to(runtime.device).float() / 127.5 - 1
        alpha = scheduler.alphas_cumprod[timesteps[0]]
        sample = alpha.sqrt() * clean + (1 - alpha).sqrt() * sample
    strengths = strengths.to(runtime.device)
    labels = labels.to(runtime.device) if labels is not None else None
    for timestep in timesteps:
        with runtime.autocast():
            when = torch.full((len(sample),), timestep, device=runtime.device)
            output = model(sample, when, labels)
        guidance = guide(sample, when) if guide is not None else None
        # The step in fp32: what bf16 costs within the network is in docs/fidelity.md, numerics.
        sample = scheduler.step(
            output.float(), timestep, sample, generators, strength=strengths, guidance=guidance
        ).prev_sample
    levels = (sample.clamp(-1, 1) + 1) * 127.5
    return (levels.round() if rounding == "round" else levels).to(torch.uint8).cpu()


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """What a JPEG file keeps of an RGB image uint8 ``[H, W, 3]``; Pillow, otherwise by default."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def check_model(
    ddpm: Path, category: str, classifier: Path | None, scale: float, steps: int, section: str
) -> dict[str, Any]:
    """The config of a diffusion model that is to be sampled, read before anything is loaded.

    ``scale``: ``sdas.guidance_scale``; ``steps`` of the parameter section ``section``. UserError:
    the model, the category, the guidance and the steps do not go together.
    """
    if (scale > 0) != (classifier is not None):
        raise UserError(
            f"sdas.guidance_scale is {scale:g}, which needs"
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
    if scale > 0 and len(categories) == 1:
        raise UserError(
            f"sdas.guidance_scale is {scale:g}, but {ddpm} knows one category only, so there is"
            " no other to be guided away from; set it to 0"
        )
    most = config["ddpm"]["schedule"]["num_train_timesteps"]
    if steps > most:
        raise UserError(
            f"{section}.steps is {steps}, but the model was trained with {most} timesteps;"
            " give at most that many"
        )
    return config


def load_sampler(
    ddpm: Path,
    classifier: Path | None,
    normal: torch.Tensor | None,
    params: Any,
    steps: int,
    names: tuple[int, str, str],
    runtime: Runtime,
) -> Callable[[list[int], list[float]], torch.Tensor]:
    """Load what :func:`check_model` has looked at; returns what draws images by index and s.

    An index fixes seed and start image, whatever the batch. ``normal``: training images to start
    from, uint8 ``[N, 3, S, S]``, where ``start`` is ``image``; ``params``: a section with start,
    start_fraction, guidance_scale and rounding; ``names``: seed, data set and category.
    """
    from realnet.stages.ddpm import load_ddpm

    seed, dataset, category = names
    model, trained, config = load_ddpm(ddpm, runtime)
    scheduler = build_scheduler(trained)
    judge = None
    if classifier is not None:
        judge = load_guide(classifier, runtime, config, trained.schedule)
    label = config["categories"].index(category)
    conditional = trained.scope == "dataset" and len(config["categories"]) > 1

    def draw(indices: list[int], strengths: list[float]) -> torch.Tensor:
        starts = None
        if params.start == "image":
            pick = [derive(seed, "sdas", dataset, category, "start", i) for i in indices]
            starts = normal[[number % len(normal) for number in pick]]
        labels = torch.full((len(indices),), label) if conditional else None
        return sample_images(
            *(model, scheduler, runtime),
            steps=steps,
            strengths=torch.tensor(strengths),
            seeds=[seed_of(*names, i) for i in indices],
            labels=labels,
            size=config["image_size"],
            start_images=starts,
            start_fraction=params.start_fraction,
            guide=judge and partial(log_gradient, judge, labels, params.guidance_scale, runtime),
            rounding=params.rounding,
        )

    return draw


def seed_of(seed: int, dataset: str, category: str, index: int) -> int:
    """The seed of the noise of an image."""
    return derive(seed, "sdas", dataset, category, index)


def share_of_range(seed: int, dataset: str, category: str, key: int | str) -> float:
    """Where s lies in its range, uniform in [0, 1): of an image, or of a batch by its name."""
    generator = torch_generator(seed, "sdas", dataset, category, "strength", key)
    return torch.rand((), generator=generator).item()


def sample_sdas(
    stage: Any,
    ddpm: Path,
    manifest: Path,
    dataset: str,
    category: str,
    seed: int,
    out: Path,
    classifier: Path | None = None,
) -> None:
    """Write ``images/*.png``, ``manifest.csv`` (index, s, seed, steps, ...) and ``grid.png``.

    ``grid.npz`` has what the grid shows: ``images`` uint8 ``[rows, strengths, S, S, 3]``, the real
    ``normal`` images ``[rows, S, S, 3]`` beside them, and the ``strengths``.

    classifier: folder of the stage `classifier`, where ``sdas.guidance_scale`` is above 0.
    """
    params: Sdas = stage.sdas
    config = check_model(ddpm, category, classifier, params.guidance_scale, params.steps, "sdas")
    runtime = start(stage.compute)
    inputs = {"ddpm": ddpm / "config.json", "manifest": manifest}
    if classifier is not None:
        inputs["classifier"] = classifier / "config.json"
    record = Record(
        "sdas", stage.model_dump(), inputs, dataset=dataset, category=category, seed=seed
    )
    normal = load_images(
        [item for item in read_manifest(manifest) if item.split == "train"], config["image_size"]
    )
    names = (seed, dataset, category)
    draw = load_sampler(ddpm, classifier, normal, params, params.steps, names, runtime)
    low, high = params.strength
    checkpoints = Checkpoints(out, training_identity(record.content))
    rows = _drawn(checkpoints, out, params.batch_size)
    batches = -(-params.images // params.batch_size)
    first = -(-len(rows) // params.batch_size)
    for number, _ in progress(first, batches, f"sdas {dataset}/{category}"):
        indices = list(range(params.images))[number * params.batch_size :][: params.batch_size]
        keys = indices
        if params.strength_per == "batch":
            keys = [f"batch {number}"] * len(indices)
        strengths = [low + (high - low) * share_of_range(*names, key) for key in keys]
        for index, s, image in zip(indices, strengths, draw(indices, strengths), strict=True):
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
                    "seed": seed_of(*names, index),
                    "steps": params.steps,
                    "start": params.start,
                    "guidance_scale": params.guidance_scale,
                    "checkpoint_sha256": config["sha256"],
                    "sha256": sha256(out / name),
                }
            )
        checkpoints.save(rows=rows)
    grid = [
        draw([i] * len(params.grid_strengths), params.grid_strengths)
        for i in range(params.grid_images)
    ]
    save_figure(out / "grid.png", _strength_figure(normal, grid, params.grid_strengths, category))
    _save_grid(out / "grid.npz", normal, grid, params.grid_strengths)
    write_csv(out / "manifest.csv", rows, list(rows[0]))
    record.write(out, runtime.name, images=len(rows), texture=_texture_energy(normal, grid))
    checkpoints.finish()


def _drawn(checkpoints: Checkpoints, out: Path, batch_size: int) -> list[dict[str, Any]]:
    """Rows of the images that an earlier, killed run has drawn; whole batches, and unchanged."""
    state = checkpoints.load()
    rows: list[dict[str, Any]] = []
    for row in state["rows"] if state is not None else []:
        path = out / row["path"]
        if not path.is_file() or sha256(path) != row["sha256"]:
            print(f"{path}: missing or changed, drawn again from there")
            return rows[: len(rows) // batch_size * batch_size]
        rows.append(row)
    if rows:
        print(f"resumed after {len(rows)} images")
    return rows


def _save_grid(
    path: Path, normal: torch.Tensor, grid: list[torch.Tensor], strengths: Sequence[float]
) -> None:
    with atomic(path) as temporary:
        np.savez_compressed(
            temporary,
            images=torch.stack(grid).permute(0, 1, 3, 4, 2).numpy(),
            normal=np.stack(
                [normal[i % len(normal)].permute(1, 2, 0).numpy() for i in range(len(grid))]
            ),
            strengths=np.array(strengths, np.float64),
        )


def _texture_energy(normal: torch.Tensor, grid: list[torch.Tensor]) -> dict[str, float]:
    """Fine-texture energy of normal images and of s = 0 samples: should agree.

    Median absolute Laplacian in grey levels of [0, 1]. Samples that are smoother than the real
    images teach the detector that smooth means anomalous.
    """

    def energy(images: torch.Tensor) -> float:
        grey = images.float().mean(1, keepdim=True) / 255
        kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
        return round(torch.nn.functional.conv2d(grey, kernel).abs().median().item(), 5)

    return {"normal": energy(normal), "sampled": energy(torch.stack([row[0] for row in grid]))}


def _strength_figure(
    normal: torch.Tensor, grid: list[torch.Tensor], strengths: Sequence[float], category: str
) -> Any:
    """Rows: one seed each; columns: a real normal image, then the same seed at growing s."""
    import matplotlib.pyplot as plt

    rows, columns = len(grid), len(strengths) + 1
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1.5 * columns, 1.55 * rows + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for row, images in enumerate(grid):
        pictures = [normal[row % len(normal)], *images]
        titles = ["normal (real)", *(f"s = {s:g}" for s in strengths)]
        for axis, picture, title in zip(axes[row], pictures, titles, strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=9)
    figure.suptitle(f"{category}: SDAS strength, one seed per row", fontsize=10)
    return figure
