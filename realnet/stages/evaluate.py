"""Stage `evaluate`: score the test images with the last checkpoint, and measure.

If the training kept the checkpoint that was best on the test set, that one is measured too.
"""

from pathlib import Path

import numpy as np

from realnet.compute.runtime import start
from realnet.config.stage_params import EvaluateParams
from realnet.core.errors import UserError, as_user_error
from realnet.core.io import write_csv, write_json
from realnet.detectors.base import AnomalyDetector
from realnet.detectors.loading import load
from realnet.evaluation.assemble import Assembled, Resampling, assemble, plain
from realnet.evaluation.details import write_curves, write_regions
from realnet.evaluation.protocols import LAST, protocols
from realnet.evaluation.residuals import save_residuals
from realnet.evaluation.score import Scored, TestSet, read_test_set, score
from realnet.evaluation.stored import save_arrays, save_per_image
from realnet.metrics import MetricInputError, per_image
from realnet.provenance.record import Record
from realnet.stages.job import Job


def run(job: Job[EvaluateParams]) -> None:
    """Write ``metrics.json``, ``scores.npz``, ``images.csv``, ``regions.csv``, ``curves.npz``,
    ``per_image.npz``, ``residuals.npz`` (RealNet only) and ``qualitative.png``.

    Inputs: ``manifest``, and ``model``: the folder of the stage `realnet` or `patchcore`.

    All files describe the last checkpoint, except ``protocols`` in ``metrics.json``, which has the
    exact and the official metrics of both: see :mod:`realnet.evaluation.protocols`.

    A dataset may have no masks. Then ``has_masks`` is false in ``metrics.json`` and in
    ``scores.npz``, whose masks are all False; pixel metrics are null; image metrics use the labels
    of the manifest. Images that the manifest has as not ``pixel_labelled`` count in image metrics
    only; then ``scores.npz`` and ``images.csv`` have ``pixel_labelled`` too.
    """
    runtime = start(job.params.compute)
    params, model, manifest = job.params.evaluate, job.inputs["model"], job.inputs["manifest"]
    record = Record(
        "evaluate",
        job.params.model_dump(),
        {"manifest": manifest, "model": model / "model.json"},
        **job.identity,
        variant=job.variant,
    )
    detector = load(model, runtime)
    _check_trained_for(detector, model, job)
    test = read_test_set(manifest, detector.image_size)
    info = detector.info

    with as_user_error(MetricInputError):
        last = score(detector, test, runtime, params, info.steps)
        best = None  # the checkpoint that was best on the test set
        if info.best_step is not None:
            selected = load(model, runtime, "best")
            best = score(selected, test, runtime, params, info.best_step)
        statistics = per_image(
            *(last.margins, test.truth, last.scores, test.labels, test.defects),
            *(params.pro_limit, test.pixel_labelled),
        )
        assembled = assemble(last.found, statistics, Resampling(job.category))

    _write_scores(job.out, test, last)
    write_regions(job.out / "regions.csv", last.found, test.paths, test.defects)
    write_curves(
        *(job.out / "curves.npz", last.margins, test.truth, last.scores, test.labels),
        test.pixel_labelled,
    )
    save_per_image(job.out / "per_image.npz", statistics)
    save_residuals(
        *(job.out / "residuals.npz", detector, test.images, runtime, params.batch_size),
        test.labels,
    )
    by_protocol = protocols(last.metrics, best.metrics if best else None)
    measured = _measured(job, test, assembled, detector.method, by_protocol)
    write_json(job.out / "metrics.json", measured)
    _write_figure(job, detector, test, last)
    record.write(job.out, runtime.name)


def _check_trained_for(detector: AnomalyDetector, model: Path, job: Job[EvaluateParams]) -> None:
    trained = (detector.info.dataset, detector.info.category)
    if trained != (job.dataset, job.category):
        raise UserError(f"{model}: trained for {'/'.join(trained)}, not for {job.name}")


def _write_scores(out: Path, test: TestSet, scored: Scored) -> None:
    """``scores.npz``, from which everything can be measured again, and ``images.csv``."""
    labelled = test.pixel_labelled
    partly = {} if labelled.all() else {"pixel_labelled": labelled}
    arrays = {
        "margins": scored.margins,
        "masks": test.masks,
        "has_masks": np.array(test.has_masks),
        "image_scores": scored.scores,
        "labels": test.labels,
        "paths": np.array(test.paths),
        "defects": np.array(test.defects),
    }
    save_arrays(out / "scores.npz", arrays | partly)
    rows = [
        {"path": item.path, "label": item.label, "defect": item.defect, "score": float(score)}
        | {"pixel_labelled": int(item.pixel_labelled)}
        for item, score in zip(test.items, scored.scores, strict=True)
    ]
    columns = ["path", "label", "defect", "score", *partly]
    write_csv(out / "images.csv", [{key: row[key] for key in columns} for row in rows], columns)


def _measured(
    job: Job[EvaluateParams],
    test: TestSet,
    assembled: Assembled,
    method: str,
    by_protocol: dict[str, dict[str, object] | None],
) -> dict[str, object]:
    """The content of ``metrics.json``."""
    labelled = test.pixel_labelled
    vanished = (test.labels == 1) & labelled & ~test.masks.any((1, 2))  # defects lost by resizing
    return plain(
        {
            **assembled.metrics,
            **assembled.intervals,
            **assembled.details,
            **job.identity,
            "variant": job.variant,
            "method": method,
            "checkpoint": LAST,
            "has_masks": test.has_masks,
            "counts": {
                "test_normal": int((test.labels == 0).sum()),
                "test_anomalous": int((test.labels == 1).sum()),
                "anomalous_without_pixels": int(vanished.sum()) if test.has_masks else None,
                "image_only": int((~labelled).sum()),
            },
            "protocols": by_protocol,
        }
    )


def _write_figure(
    job: Job[EvaluateParams], detector: AnomalyDetector, test: TestSet, scored: Scored
) -> None:
    from realnet.plots.qualitative import ScoredImages, qualitative
    from realnet.plots.style import save_figure

    shown = ScoredImages(
        images=test.images.permute(0, 2, 3, 1).numpy(),
        masks=test.truth,
        margins=scored.margins,
        scores=scored.scores,
        labels=test.labels,
        names=[f"{item.defect}/{item.path.name}" for item in test.items],
        separation=scored.found.separation if scored.found else None,
        pixel_labelled=test.pixel_labelled,
    )
    figure = qualitative(
        shown,
        job.params.evaluate.figure_images,
        threshold=detector.threshold,
        unit="logit margin" if detector.method == "realnet" else "distance",
        title=f"{job.dataset} / {job.category} · seed {job.seed} · {job.variant}",
    )
    save_figure(job.out / "qualitative.png", figure)
