"""Stage `sdas_check`: compare the s = 0 samples of a diffusion model with normal images.

A stage of its own: the check needs the backbone and SDAS does not, so SDAS neither waits for the
backbone nor is sampled again for another one. Nothing is made from the check.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from realnet.compute.runtime import Runtime, start
from realnet.config.stage_params import SdasCheckParams
from realnet.core.io import write_json
from realnet.core.progress import progress
from realnet.core.seeds import SeedPath
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.diffusion.sample_check import LIMITS, Health, advice, check_samples, exceeds
from realnet.diffusion.sampler import Sampler, SamplerSpec, load_sampler
from realnet.models.features import FeatureExtractor, load_backbone
from realnet.provenance.record import Record
from realnet.stages.job import Job

BATCH = 16
SHOWN = 6  # samples in the figure


def run(job: Job[SdasCheckParams]) -> None:
    """Write ``check.json`` (result, warnings, distances) and ``samples.png``; log the result.

    Reads ``ddpm``, ``backbone``, ``manifest`` and, where ``sdas.guidance_scale`` is above 0,
    ``classifier``. Samples are those of SDAS (steps, start, guidance, seeds) with s = 0, without
    losses of JPEG. ``result`` is ``ok``, ``warning``, or ``not checked`` with the ``reason``.
    """
    params, manifest = job.params, job.inputs["manifest"]
    spec = SamplerSpec(
        ddpm=job.inputs["ddpm"],
        classifier=job.inputs.get("classifier"),
        params=params.sdas,
        steps=params.sdas.steps,
        section="sdas",
        dataset=job.dataset,
        category=job.category,
        seed=job.seed,
    )
    config = spec.check()
    runtime = start(params.compute)
    inputs = spec.inputs(manifest) | {"backbone": job.inputs["backbone"] / "backbone.json"}
    record = Record("sdas_check", params.model_dump(), inputs, **job.identity)
    train = [item for item in read_manifest(manifest) if item.split == "train"]
    normal = load_images(train, config["image_size"])

    count = min(params.sdas_check.images, len(normal) // 2)
    found: dict[str, Any] = {"images": count, "model_sha256": config["sha256"], "warnings": []}
    shown = torch.empty(0, *normal.shape[1:], dtype=torch.uint8)
    if count < 2:
        reason = "sdas_check.images is 0"
        if params.sdas_check.images:
            reason = f"{len(normal)} normal images and sdas_check.images"
            reason += f" {params.sdas_check.images}; two halves of two images are needed"
        found |= {"images": 0, "result": "not checked", "reason": reason}
        print(f"{job.name}: diffusion model not checked: {reason}")
    else:
        shown = sampled(load_sampler(spec, normal, runtime), count, job.name)
        extractor = runtime.place(load_backbone(job.inputs["backbone"]))
        features = pooled(extractor, shown, runtime), pooled(extractor, normal, runtime)
        seeds = SeedPath(job.seed, ("sdas_check", job.dataset, job.category))
        health = check_samples(shown.numpy(), normal.numpy(), features, seeds)
        found |= described(health)
        if findings := health.findings():
            what = f"{job.name}: s = 0 samples are not like normal images: {'; '.join(findings)};"
            found["warnings"] = [f"{what} {advice(config['ddpm'], params.sdas.model_dump())}"]
            print(f"warning: {found['warnings'][0]}")
        else:
            print(f"{job.name}: s = 0 samples of the diffusion model are like normal images")
    found["result"] = found.get("result", "warning" if found["warnings"] else "ok")
    _figure(job, normal, shown)
    write_json(job.out / "check.json", job.identity | found)
    record.write(job.out, runtime.name, result=found["result"], warnings=found["warnings"])


def sampled(sample: Sampler, count: int, name: str) -> torch.Tensor:
    """``count`` samples of s = 0, uint8 ``[count, 3, S, S]``."""
    parts = []
    for number, _ in progress(0, -(-count // BATCH), f"sdas_check {name}"):
        indices = list(range(count))[number * BATCH :][:BATCH]
        parts.append(sample(indices, [0.0] * len(indices)))
    return torch.cat(parts)


@torch.no_grad()
def pooled(
    extractor: FeatureExtractor, images: torch.Tensor, runtime: Runtime
) -> Sequence[np.ndarray]:
    """Spatial means of each layer's features, float32 ``[N, C_k]``, of uint8 images."""
    batches = []
    for batch in images.split(BATCH):
        with runtime.autocast():
            maps = extractor(batch.to(runtime.device).float() / 255)
        batches.append([layer.float().mean((2, 3)).cpu() for layer in maps])
    return [torch.cat(layer).numpy() for layer in zip(*batches, strict=True)]


def described(health: Health) -> dict[str, Any]:
    """The numbers of ``check.json``."""
    distances = {
        name: {
            "distance": compared.distance,
            "halves": compared.halves,
            "ratio": compared.ratio if np.isfinite(compared.ratio) else None,
            "limit": LIMITS[name].distance,
            "ratio_limit": LIMITS[name].ratio,
            "exceeded": exceeds(name, compared),
        }
        for name, compared in health.compared.items()
    }
    return {
        "distances": distances,
        "brightness": dict(zip(("samples", "normal"), health.brightness, strict=True)),
        "contrast": dict(zip(("samples", "normal"), health.contrast, strict=True)),
        "spectrum_db": {"fine": health.fine, "coarse": health.coarse},
    }


def _figure(job: Job[SdasCheckParams], normal: torch.Tensor, samples: torch.Tensor) -> None:
    """Normal images beside s = 0 samples; only the former where nothing was sampled."""
    from realnet.plots.sample_sheet import sample_sheet
    from realnet.plots.style import save_figure

    def pictures(images: torch.Tensor) -> np.ndarray:
        return images[:SHOWN].permute(0, 2, 3, 1).numpy()

    rows = {"real, normal": pictures(normal), "s = 0": pictures(samples)}
    save_figure(job.out / "samples.png", sample_sheet(rows, SHOWN))
