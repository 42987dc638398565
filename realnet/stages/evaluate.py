"""Stage `evaluate`: score the test images with the last checkpoint, and measure.

Where the training kept the checkpoint that was best on the test set, that one is measured too.
"""

from pathlib import Path
from typing import Any

import numpy as np

from realnet.compute.runtime import start
from realnet.core.errors import UserError
from realnet.core.io import atomic, save_figure, write_csv, write_json
from realnet.datasets.images import load_images, load_masks
from realnet.datasets.items import read_manifest
from realnet.detectors.base import AnomalyDetector
from realnet.detectors.loading import load
from realnet.evaluation.details import write_curves, write_intervals, write_regions
from realnet.evaluation.protocols import (
    LAST,
    details,
    localisation,
    official,
    protocols,
    strict_metrics,
)
from realnet.evaluation.residuals import save_residuals
from realnet.metrics import Localisation
from realnet.plots.qualitative import qualitative
from realnet.provenance.record import Record


def evaluate(
    stage: Any,
    manifest: Path,
    model: Path,
    dataset: str,
    category: str,
    seed: int,
    variant: str,
    out: Path,
) -> None:
    """Write ``metrics.json``, ``scores.npz``, ``images.csv``, ``regions.csv``, ``curves.npz``,
    ``per_image.npz``, ``residuals.npz`` (of RealNet) and ``qualitative.png``.

    All is of the last checkpoint but ``protocols`` in ``metrics.json``, which has the exact and the
    official metrics of both: see :mod:`realnet.evaluation.protocols`.

    Own data may come without masks. Then ``has_masks`` is false in ``metrics.json`` and in
    ``scores.npz``, whose masks are all False; what is measured on pixels is null; image metrics
    are as always, by the labels of the manifest.
    """
    runtime = start(stage.compute)
    inputs = {"manifest": manifest, "model": model / "model.json"}
    identity = {"dataset": dataset, "category": category, "seed": seed, "variant": variant}
    record = Record("evaluate", stage.model_dump(), inputs, **identity)
    params = stage.evaluate
    detector = load(model, runtime)
    if (detector.info.dataset, detector.info.category) != (dataset, category):
        raise UserError(
            f"{model}: trained for {detector.info.dataset}/{detector.info.category},"
            f" not for {dataset}/{category}"
        )
    items = [item for item in read_manifest(manifest) if item.split == "test"]
    size = detector.image_size
    has_masks = any(item.mask_path for item in items)
    images, masks = load_images(items, size), load_masks(items, size).numpy()
    labels = np.array([item.label for item in items], np.uint8)

    kinds = [item.defect for item in items]
    truth = masks if has_masks else None

    def measured(
        detector: AnomalyDetector,
    ) -> tuple[np.ndarray, np.ndarray, Localisation | None, tuple[dict, dict]]:
        """Margins, image scores, exact metrics of the maps, and the metrics of both kinds."""
        settings = (runtime, params.batch_size, params.image_score_pool)
        maps, scores = detector.predict(images, *settings)
        margins = maps.numpy()
        found = localisation(margins, truth, labels, params)
        exact = strict_metrics(found, scores, labels)
        # The official metrics are of probabilities, which another method's maps are not.
        logits = truth if detector.method == "realnet" else None
        return margins, scores, found, (exact, official(margins, logits, params))

    margins, scores, found, last = measured(detector)
    info = detector.info
    kept = info.best_step is not None
    best = measured(load(model, runtime, "best"))[-1] if kept else None

    with atomic(out / "scores.npz") as temporary:
        np.savez_compressed(
            temporary,
            margins=margins,
            masks=masks,
            has_masks=np.array(has_masks),
            image_scores=scores,
            labels=labels,
            paths=np.array([str(item.path) for item in items]),
            defects=np.array(kinds),
        )
    rows = [
        {"path": item.path, "label": item.label, "defect": item.defect, "score": float(score)}
        for item, score in zip(items, scores, strict=True)
    ]
    write_csv(out / "images.csv", rows, ["path", "label", "defect", "score"])
    write_regions(out / "regions.csv", found, [str(item.path) for item in items], kinds)
    write_curves(out / "curves.npz", margins, truth, scores, labels)
    drawn = (margins, truth, scores, labels, kinds, params.pro_limit, category)
    intervals = write_intervals(out / "per_image.npz", *drawn)
    save_residuals(out / "residuals.npz", detector, images, runtime, params.batch_size, labels)
    lost = (labels == 1) & ~masks.any((1, 2))
    write_json(
        out / "metrics.json",
        {
            **last[0],
            **intervals,
            **details(found, kinds),
            **identity,
            "method": detector.method,
            "checkpoint": LAST,
            "has_masks": has_masks,
            "counts": {
                "test_normal": int((labels == 0).sum()),
                "test_anomalous": int((labels == 1).sum()),
                "anomalous_without_pixels": int(lost.sum()) if has_masks else None,
            },
            "protocols": protocols(last, best, info.steps, info.best_step),
        },
    )
    names = [f"{item.defect}/{item.path.name}" for item in items]
    pictures = images.permute(0, 2, 3, 1).numpy()
    title = f"{dataset} / {category} · seed {seed} · {variant}"
    figure = qualitative(
        *(pictures, truth, margins, scores, labels, names),
        n=params.figure_images,
        threshold=detector.threshold,
        unit="logit margin" if detector.method == "realnet" else "distance",
        title=title,
    )
    save_figure(out / "qualitative.png", figure)
    record.write(out, runtime.name)
