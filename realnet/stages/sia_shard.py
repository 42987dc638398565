"""Stage `sia_shard`: sample one shard of a Synthetic Industrial Anomaly dataset."""

from realnet.config.stage_params import SiaParams
from realnet.diffusion.sampler import SamplerSpec
from realnet.diffusion.sia_images import SiaImages
from realnet.stages.job import Job


def run(job: Job[SiaParams], shard: int) -> None:
    """Sample the shard of this number where it is missing; write its images and its record."""
    images_of(job).sample(shard)


def images_of(job: Job[SiaParams]) -> SiaImages:
    """The dataset of the job.

    Reads ``ddpm``, ``manifest`` and, where ``sdas.guidance_scale`` is above 0, ``classifier``.
    """
    spec = SamplerSpec(
        ddpm=job.inputs["ddpm"],
        classifier=job.inputs.get("classifier"),
        params=job.params.sdas,
        steps=job.params.sia.steps,
        section="sia",
        dataset=job.dataset,
        category=job.category,
        seed=job.seed,
    )
    return SiaImages(spec, job.params, job.inputs["manifest"], job.out)
