"""Images of the Synthetic Industrial Anomaly dataset (SIA), sampled shard by shard.

Image i is image i of the stage `sdas` where the settings of both are equal, including the batch
size (the last, short batch of that stage may be rounded differently); here each image has its own
s, and none is compressed as JPEG. Neither the number of images nor the shards nor interruptions
change an image.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from realnet.compute.runtime import start
from realnet.config.stage_params import SiaParams
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.diffusion.sampler import SamplerSpec, load_sampler
from realnet.diffusion.shards import SampleIndices, alone, complete, make_shard, shards_of


@dataclass(frozen=True)
class SiaImages:
    """One SIA dataset: which models sample it, with which settings, and where to.

    ``images/shardNNN/IIIII.png`` below ``out`` are lossless and of the diffusion model's size.
    """

    spec: SamplerSpec
    params: SiaParams
    manifest: Path  # of the normal images
    out: Path

    def settings(self) -> dict[str, Any]:
        """What the images depend on: of `compute` all but the number of processes."""
        params = self.params
        compute = {k: v for k, v in params.compute.model_dump().items() if k != "processes"}
        sections = {"sia": params.sia.model_dump(), "sdas": params.sdas.model_dump()}
        return sections | {"compute": compute}

    def sample(self, only: int | None = None) -> list[dict[str, Any]]:
        """Sample the shards that are missing (or of them the one numbered ``only``).

        Returns their records, with ``causes`` (everything that the images depend on), ``rows`` of
        the manifest, ``device`` and ``wall_s``. UserError: model and settings do not go together,
        no such shard, shards of other settings in ``out``, or another process at work on the same
        shard.
        """
        sia, spec = self.params.sia, self.spec
        plan = shards_of(sia, self.out)
        if only is not None and only >= len(plan):
            raise UserError(
                f"--shard {only}: {sia.images} images (sia.images) in shards of {sia.shard} make"
                f" shards 0 to {len(plan) - 1}"
            )
        if not self.manifest.is_file():
            raise UserError(f"{self.manifest}: no such file; write it with `realnet data prepare`")
        runtime = start(self.params.compute)
        config = spec.check()
        causes = self._causes(config)

        @cache  # loaded when the first image is sampled
        def sampler() -> SampleIndices:
            normal = None
            if self.params.sdas.start == "image":
                train = [item for item in read_manifest(self.manifest) if item.split == "train"]
                normal = load_images(train, config["image_size"])
            sample = load_sampler(spec, normal, runtime)

            def sample_indices(indices: list[int]) -> torch.Tensor:
                return sample(indices, [spec.strength_of(sia.strength, i) for i in indices])

            return sample_indices

        def describe(index: int) -> dict[str, Any]:
            s = spec.strength_of(sia.strength, index)
            return {"s": s, "seed": spec.seed_of(index), "category": spec.category}

        records = []
        for shard in plan if only is None else [plan[only]]:
            with alone(shard):
                done = complete(shard, causes)
                if done is None:
                    size = sia.batch_size
                    done = make_shard(shard, causes, size, sampler(), describe, runtime.name)
                records.append(done)
        return records

    def _causes(self, config: dict[str, Any]) -> dict[str, Any]:
        settings, classifier = self.settings(), self.spec.classifier
        return {
            "dataset": self.spec.dataset,
            "category": self.spec.category,
            "seed": self.spec.seed,
            "image_size": config["image_size"],
            "model": config["sha256"],
            "classifier": read_json(classifier / "config.json")["sha256"] if classifier else None,
            **{key: value for key, value in settings["sia"].items() if key != "images"},
            **settings["sdas"],
            "compute": settings["compute"],
        }
