"""Stage `sia`: the whole Synthetic Industrial Anomaly dataset of a category, with its metadata."""

from realnet.compute.runtime import start
from realnet.config.stage_params import SiaParams
from realnet.core.io import sha256, write_csv, write_json
from realnet.datasets.licence import terms
from realnet.diffusion.shards import remove_surplus, shards_of
from realnet.provenance.record import Record
from realnet.stages.job import Job
from realnet.stages.sia_shard import images_of

FIELDS = ("path", "index", "s", "seed", "category", "sha256")


def run(job: Job[SiaParams]) -> None:
    """Sample the shards that are missing, then write the metadata of the images.

    That is ``manifest.csv``, the contact sheet ``sheet.png`` and ``sia.json``: counts, settings,
    model, licence. Shards beyond ``sia.images``, of an earlier and larger dataset, are removed.
    """
    images, out = images_of(job), job.out
    settings = images.settings()
    parts = images.sample()
    record = Record("sia", settings, images.spec.inputs(job.inputs["manifest"]), **job.identity)
    remove_surplus(out, shards_of(job.params.sia, out))
    rows = [row for part in parts for row in part["rows"]]
    write_csv(out / "manifest.csv", rows, FIELDS)
    from realnet.plots.sia_sheet import contact_sheet

    contact_sheet(out, rows, f"{job.name}, seed {job.seed}, {job.params.sia.steps} steps")
    strengths, causes = [row["s"] for row in rows], parts[0]["causes"]
    write_json(
        out / "sia.json",
        {
            **job.identity,
            "images": len(rows),
            "image_size": causes["image_size"],
            "shards": len(parts),
            "s": {
                "lowest": min(strengths),
                "mean": sum(strengths) / len(strengths),
                "highest": max(strengths),
            },
            "settings": settings,
            "model_sha256": causes["model"],
            "classifier_sha256": causes["classifier"],
            "manifest_sha256": sha256(out / "manifest.csv"),
            "licence": terms(job.dataset),
        },
    )
    drawing = {
        "devices": sorted({part["device"] for part in parts}),
        "wall_s": round(sum(part["wall_s"] for part in parts), 2),
    }
    record.write(out, start(job.params.compute).name, images=len(rows), drawing=drawing)
