"""The reverse process: images of adjustable strength from a trained diffusion model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from realnet.compute.runtime import Runtime
from realnet.config.sections import Sdas, SdasStart
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.core.seeds import SeedPath
from realnet.diffusion.denoiser import load_ddpm
from realnet.diffusion.guidance import load_guide, log_gradient
from realnet.diffusion.scheduler import SDASScheduler, build_scheduler

Guide = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (x_t, t [B]) -> scaled gradient
Sampler = Callable[[list[int], list[float]], torch.Tensor]  # indices, strengths -> images


@dataclass(frozen=True)
class Chain:
    """The reverse process that all images of a batch share.

    steps: respaced timesteps; size: of the images, in pixels.
    start_fraction: share of the steps that a chain from start images has.
    rounding: ``round``, or ``truncate`` as the official code does.
    """

    steps: int
    size: int
    start_fraction: float = 1.0
    rounding: str = "round"


@dataclass(frozen=True)
class SampleBatch:
    """What is sampled, per image.

    strengths ``[B]`` >= 0; labels ``[B]`` for a class-conditional model, else None.
    start_images: uint8 ``[B, 3, S, S]``; then the chain starts from them, noised to the timestep
    that leaves ``start_fraction`` of the steps, instead of from pure noise (our option).
    """

    seeds: Sequence[int]
    strengths: torch.Tensor
    labels: torch.Tensor | None = None
    start_images: torch.Tensor | None = None


@torch.no_grad()
def sample_images(
    model: torch.nn.Module,
    scheduler: SDASScheduler,
    runtime: Runtime,
    chain: Chain,
    batch: SampleBatch,
    guide: Guide | None = None,
) -> torch.Tensor:
    """Sample one batch; every image has its own strength and its own generator.

    guide: gives the scaled gradient of log p(y | x_t) for x_t ``[B, 3, S, S]`` and t ``[B]``.
    Returns uint8 ``[B, 3, S, S]``.
    """
    # 1. x_T: noise of each image's own generator
    generators = [torch.Generator().manual_seed(s) for s in batch.seeds]
    size = chain.size
    noise = torch.stack([torch.randn(3, size, size, generator=g) for g in generators])
    scheduler.set_timesteps(chain.steps)
    timesteps = scheduler.timesteps.tolist()
    sample = noise.to(runtime.device)
    # 2. or start images, noised: q(x_t | x_0)
    if batch.start_images is not None:
        kept = max(1, round(chain.start_fraction * len(timesteps)))
        timesteps = timesteps[len(timesteps) - kept :]
        clean = batch.start_images.to(runtime.device).float() / 127.5 - 1
        alpha = scheduler.alphas_cumprod[timesteps[0]]
        sample = alpha.sqrt() * clean + (1 - alpha).sqrt() * sample
    strengths = batch.strengths.to(runtime.device)
    labels = batch.labels.to(runtime.device) if batch.labels is not None else None
    # 3. x_t -> x_{t-1}
    for timestep in timesteps:
        with runtime.autocast():
            when = torch.full((len(sample),), timestep, device=runtime.device)
            output = model(sample, when, labels)
        guidance = guide(sample, when) if guide is not None else None
        # The step in fp32: what bf16 costs within the network is in docs/fidelity.md, numerics.
        sample, _ = scheduler.step(
            output.float(),
            timestep,
            sample,
            generators,
            return_dict=False,
            strength=strengths,
            guidance=guidance,
        )
    # 4. to 8 bits
    levels = (sample.clamp(-1, 1) + 1) * 127.5
    return (levels.round() if chain.rounding == "round" else levels).to(torch.uint8).cpu()


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """An RGB image uint8 ``[H, W, 3]`` after JPEG compression; Pillow's defaults otherwise."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


# --- from the files of trained models ------------------------------------------------------------


@dataclass(frozen=True)
class SamplerSpec:
    """Which models sample, for which category, and how.

    ddpm, classifier: folders of those stages (no classifier: no guidance).
    steps: of the parameter section named ``section``.
    """

    ddpm: Path
    classifier: Path | None
    params: Sdas | SdasStart
    steps: int
    section: str
    dataset: str
    category: str
    seed: int

    @property
    def seeds(self) -> SeedPath:
        return SeedPath(self.seed, ("sdas", self.dataset, self.category))

    def seed_of(self, index: int) -> int:
        """The seed of the noise of an image."""
        return self.seeds.derive(index)

    def strength_of(self, limits: Sequence[float], key: int | str) -> float:
        """s, uniform in ``limits``, of an image (by index), or of a batch (by name)."""
        low, high = limits
        share = torch.rand((), generator=self.seeds.generator("strength", key)).item()
        return low + (high - low) * share

    def inputs(self, manifest: Path) -> dict[str, Path]:
        """The files that the samples depend on, for the provenance record."""
        inputs = {"ddpm": self.ddpm / "config.json", "manifest": manifest}
        if self.classifier is not None:
            inputs["classifier"] = self.classifier / "config.json"
        return inputs

    def check(self) -> dict[str, Any]:
        """The config of the diffusion model, read before anything is loaded.

        UserError: the model, the category, the guidance and the steps do not go together.
        """
        scale, ddpm = self.params.guidance_scale, self.ddpm
        if (scale > 0) != (self.classifier is not None):
            raise UserError(
                f"sdas.guidance_scale is {scale:g}, which needs"
                f" {'the folder of the stage' if self.classifier is None else 'no'} classifier"
                f" (--classifier {self.classifier or 'FOLDER'})"
            )
        config = read_json(ddpm / "config.json")
        categories = config.get("categories")
        if not categories:
            raise UserError(
                f"{ddpm}: these weights name no categories, so they are only to start a training"
                " from (ddpm.init); import them with --dataset or --category"
            )
        if self.category not in categories:
            raise UserError(f"{ddpm}: trained for {', '.join(categories)}, not for {self.category}")
        if scale > 0 and len(categories) == 1:
            raise UserError(
                f"sdas.guidance_scale is {scale:g}, but {ddpm} has only one category, so there is"
                " nothing to guide away from; set it to 0"
            )
        most = config["ddpm"]["schedule"]["num_train_timesteps"]
        if self.steps > most:
            raise UserError(
                f"{self.section}.steps is {self.steps}, but the model was trained with {most}"
                " timesteps; give at most that many"
            )
        return config


def load_sampler(spec: SamplerSpec, normal: torch.Tensor | None, runtime: Runtime) -> Sampler:
    """Load the models of ``spec``; returns what samples images by index and strength.

    The index determines seed and start image, independent of the batch. ``normal``: training images
    to start from, uint8 ``[N, 3, S, S]``, if ``start`` is ``image``.
    """
    params = spec.params
    model, trained, config = load_ddpm(spec.ddpm, runtime)
    scheduler = build_scheduler(trained)
    classifier = None
    if spec.classifier is not None:
        classifier = load_guide(spec.classifier, runtime, config, trained.schedule)
    label = config["categories"].index(spec.category)
    conditional = trained.scope == "dataset" and len(config["categories"]) > 1
    chain = Chain(spec.steps, config["image_size"], params.start_fraction, params.rounding)

    def sample(indices: list[int], strengths: list[float]) -> torch.Tensor:
        starts = None
        if params.start == "image":
            if normal is None:
                raise ValueError("start: image needs the normal images")
            starts = normal[[spec.seeds.derive("start", i) % len(normal) for i in indices]]
        labels = torch.full((len(indices),), label)
        seeds = [spec.seed_of(i) for i in indices]
        guide = None
        if classifier is not None:
            guide = partial(log_gradient, classifier, labels, params.guidance_scale, runtime)
        given = labels if conditional else None
        batch = SampleBatch(seeds, torch.tensor(strengths), given, starts)
        return sample_images(model, scheduler, runtime, chain, batch, guide)

    return sample
