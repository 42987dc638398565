"""Stage `sia`: the whole Synthetic Industrial Anomaly data set of a category, with its papers."""

from pathlib import Path
from typing import Any

from realnet.compute.runtime import start
from realnet.core.io import sha256, write_csv, write_json
from realnet.datasets.licence import terms
from realnet.diffusion.shards import remove_surplus, shards_of
from realnet.plots.sia_sheet import contact_sheet
from realnet.provenance.record import Record
from realnet.stages.sia_shard import draw_shards, settings_of

FIELDS = ("path", "index", "s", "seed", "category", "sha256")


def make_sia(
    stage: Any,
    ddpm: Path,
    manifest: Path,
    dataset: str,
    category: str,
    seed: int,
    out: Path,
    classifier: Path | None = None,
) -> None:
    """Draw what is missing of it (see ``draw_shards``), then write what goes with the images.

    That is ``manifest.csv``, the contact sheet ``sheet.png`` and ``sia.json``: counts, settings,
    model, licence. Shards from a time when the set was larger are removed.
    """
    inputs = {"ddpm": ddpm / "config.json", "manifest": manifest}
    if classifier is not None:
        inputs["classifier"] = classifier / "config.json"
    settings, where = settings_of(stage), {"dataset": dataset, "category": category, "seed": seed}
    parts = draw_shards(stage, ddpm, manifest, dataset, category, seed, out, classifier)
    record = Record("sia", settings, inputs, **where)
    remove_surplus(out, shards_of(stage.sia, out))
    rows = [row for part in parts for row in part["rows"]]
    write_csv(out / "manifest.csv", rows, FIELDS)
    contact_sheet(out, rows, f"{dataset}/{category}, seed {seed}, {stage.sia.steps} steps")
    strengths, causes = [row["s"] for row in rows], parts[0]["causes"]
    write_json(
        out / "sia.json",
        {
            **where,
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
            "licence": terms(dataset),
        },
    )
    drawing = {
        "devices": sorted({part["device"] for part in parts}),
        "wall_s": round(sum(part["wall_s"] for part in parts), 2),
    }
    record.write(out, start(stage.compute).name, images=len(rows), drawing=drawing)
