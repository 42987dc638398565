"""Stage `patchcore`: fit PatchCore, the baseline, to the normal images of one category."""

import os

from realnet.compute.runtime import start
from realnet.config.stage_params import PatchCoreParams
from realnet.core.errors import UserError
from realnet.core.io import read_json, save_weights, write_json
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.detectors.patchcore import FILE, PatchFeatures, check_layers, fit
from realnet.models.features import load_backbone
from realnet.provenance.record import Record
from realnet.stages.job import Job


def run(job: Job[PatchCoreParams]) -> None:
    """Write ``memory.safetensors`` (``memory`` float32 ``[M, D]``) and ``model.json``.

    Inputs: ``manifest`` and ``backbone``. UserError: no such layer, or no training images.
    """
    params, size = job.params.patchcore, job.params.data.image_size
    runtime = start(job.params.compute)
    manifest, backbone = job.inputs["manifest"], job.inputs["backbone"]
    inputs = {"manifest": manifest, "backbone": backbone / "backbone.json"}
    record = Record("patchcore", job.params.model_dump(), inputs, **job.identity)
    extractor = runtime.place(load_backbone(backbone))
    check_layers(params, extractor, size)
    images = load_images([item for item in read_manifest(manifest) if item.split == "train"], size)
    if not len(images):
        raise UserError(f"{manifest}: no training images, so nothing to remember")

    names = ("patchcore", job.dataset, job.category)
    fitted = fit(PatchFeatures(extractor, params, runtime), images, job.seed, *names)
    digest = save_weights(job.out / FILE, {"memory": fitted.rows})
    facts = {
        "patches": fitted.patches,
        "rows": len(fitted.rows),
        "width": fitted.rows.shape[1],
        "radius": fitted.radius,
    }
    write_json(
        job.out / "model.json",
        {
            "method": "patchcore",
            **job.identity,
            "image_size": size,
            "patchcore": params.model_dump(),
            # Relative, so that a results folder can be moved or pulled elsewhere as a whole.
            "backbone": {
                "path": os.path.relpath(backbone, job.out),
                "sha256": read_json(backbone / "backbone.json")["sha256"],
            },
            "memory": facts,
            "typical": fitted.typical,
            "threshold": fitted.threshold,
            "sha256": digest,
        },
    )
    record.write(job.out, runtime.name, **facts)
