"""`realnet metrics`: the benchmark's metrics for any model's anomaly maps, from files."""

import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from realnet.core.errors import UserError, as_user_error, first_names
from realnet.core.io import write_json
from realnet.evaluation.assemble import (
    IMAGE_METRICS,
    PIXEL_METRICS,
    Resampling,
    assemble,
    is_nan,
    plain,
)
from realnet.evaluation.maps.inputs import Reader, open_images
from realnet.evaluation.maps.passes import Passed, images_alone, two_passes
from realnet.evaluation.maps.request import Request
from realnet.metrics import (
    Localisation,
    MetricInputError,
    PerImage,
    UndefinedMetricWarning,
)
from realnet.metrics.official import official_metrics

OFFICIAL_POOL = 16
SHOWN = 5  # images that a note names
TIES = 0.001  # share of tied pairs above which a note is printed


def measure(request: Request) -> dict[str, Any]:
    """The metrics of the maps in files, as :func:`run` writes them to ``--json``.

    Metrics are fractions, None where undefined; ``undefined`` then says why.
    """
    return _measure(request)[0]


def run(request: Request, json: Path | None = None, curves: Path | None = None) -> None:
    """Measure and print a table; write the result to ``json`` and plot ``curves``."""
    from realnet.evaluation.maps.table import table
    from realnet.plots.metric_curves import curve_files, write_curves

    if json is not None and json.is_dir():
        raise UserError(f"{json}: is a folder; --json needs the name of a file")
    files = curve_files(curves) if curves else ()
    result, statistics = _measure(request)
    if json is not None:
        write_json(json, result)
    if files:
        write_curves(*files, statistics, result)
    print(table(result))


def _measure(request: Request) -> tuple[dict[str, Any], PerImage]:
    """The result, and the statistics that curves are plotted from."""
    images = open_images(request)
    if request.resize and images.mask_of is None:
        raise UserError("--resize-masks and --resize-maps: there are no masks")
    pool, limits = request.pool or 1, _ordered(request.limits, request.pro_limit)
    reader = Reader(replace(images, logits=request.logits), request.resize)

    with warnings.catch_warnings(record=True) as caught, as_user_error(MetricInputError):
        warnings.simplefilter("always", UndefinedMetricWarning)
        passed = None if images.mask_of is None else two_passes(reader, pool, limits)
        statistics = passed.statistics if passed else images_alone(reader, pool)
        resampling = Resampling(count=request.resamples, seed=request.seed)
        assembled = assemble(passed.found if passed else None, statistics, resampling)
        official = {}
        if request.compat:
            official = _official(reader, passed, request, request.logits or images.logits)
    metrics = assembled.metrics
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    if passed is None:
        notes.append(f"{', '.join(PIXEL_METRICS)}: undefined, no masks")
    notes += _notes(reader, passed, statistics)
    notes += [
        f"{key} is below 0.5: are larger scores more anomalous, and do maps and masks match?"
        for key in ("image_auroc", "pixel_auroc")
        if (metrics[key] or 0) < 0.5
    ]
    for note in notes:
        print(f"realnet metrics: {note}", file=sys.stderr)
    result = {
        **metrics,
        "tied_pairs": _tied(passed.found) if passed else None,
        **official,
        "pro_limit": limits[0],
        "image_score_pool": None if images.scores is not None else pool,
        "images": len(statistics.labels),
        "anomalous_images": int(statistics.labels.sum()),
        "normal_images": int((statistics.labels == 0).sum()),
        "image_size": list(reader.size) if reader.size else None,
        **assembled.details,
        **assembled.intervals,
    }
    reasons = _reasons(passed, statistics)
    undefined = {k: reasons.get(k, "see the notes") for k, v in result.items() if is_nan(v)}
    return plain(result) | {"undefined": undefined, "notes": notes}, statistics


def _ordered(limits: Sequence[float], headline: float | None) -> tuple[float, ...]:
    """The distinct limits, the headline first. UserError: not in (0, 1]."""
    chosen = tuple(dict.fromkeys(([] if headline is None else [headline]) + list(limits)))
    for limit in chosen:
        if not 0 < limit <= 1:
            raise UserError(f"PRO limit {limit:g}: expected a false positive rate in (0, 1]")
    if not chosen:
        raise UserError("--limits: expected at least one false positive rate, e.g. 0.3,0.05")
    return chosen


def _tied(found: Localisation) -> float | None:
    """Share of the pairs (defect pixel, normal pixel) with equal scores."""
    if not found.defined:
        return None
    ranks = found.ranks
    tied = (ranks.reaching - ranks.above) * ranks.thresholds.counts
    return math.fsum(tied.tolist()) / (found.defect_pixels * found.normal_pixels)


def _official(
    reader: Reader, passed: Passed | None, request: Request, logits: bool
) -> dict[str, float]:
    """The three official metrics; they need all maps in memory."""
    if passed is None:
        raise UserError("--compat: the official metrics need masks")
    low, high = passed.span
    if not logits and not 0 <= low <= high <= 1:
        raise UserError(
            f"{request.scores}: --compat measures probabilities, found maps from {low:g} to"
            f" {high:g}; for logits, use --logits"
        )
    parts = [(expit(maps) if logits else maps, masks) for _, maps, masks in reader.batches()]
    maps, masks = (np.concatenate(part) for part in zip(*parts, strict=True))
    kept = reader.pixel_labelled  # the official labels come from the masks
    return official_metrics(maps[kept], masks[kept], request.pool or OFFICIAL_POOL)


def _notes(reader: Reader, passed: Passed | None, stats: PerImage) -> list[str]:
    """Properties of maps, masks and labels that affect how to read the numbers."""
    notes = []
    if reader.dtype is not None and reader.dtype.itemsize == 1:
        levels = "two" if reader.dtype.kind == "b" else "256"
        notes.append(f"the maps have 8 bits: {levels} values, so pixels tie; store float32")
    if passed is None:
        return notes
    tied = _tied(passed.found) or 0
    if tied > TIES:
        notes.append(
            f"{tied:.1%} of the pairs of a defect and a normal pixel are ties, which count half:"
            " rounded or saturated scores; measure float32 logits if available"
        )
    if reader.lost:
        notes.append(
            f"{_number(len(reader.lost), 'image')} lost the whole defect when the mask was resized,"
            f" the first {reader.images.names[min(reader.lost)]}"
        )
    before = sum(reader.full_size.values())
    if reader.full_size and before != passed.found.regions.count:
        notes.append(
            f"{before} regions became {passed.found.regions.count} when the masks were resized"
        )
    apart = np.flatnonzero(~reader.pixel_labelled).tolist()
    if apart:
        names = first_names([str(reader.images.names[index]) for index in apart], SHOWN)
        notes.append(
            f"{_number(len(apart), 'image')} without pixel ground truth, in image metrics only:"
            f" {names}"
        )
    without = passed.labels & reader.pixel_labelled & (stats.defect_pixels == 0)
    empty = int(without.sum()) - len(reader.lost)
    if empty > 0:
        notes.append(f"{_number(empty, 'anomalous image')} without a pixel in the mask")
    marked = int((~passed.labels & (stats.defect_pixels > 0)).sum())
    if marked:
        notes.append(f"{_number(marked, 'normal image')} with anomalous pixels in the mask")
    return notes


def _reasons(passed: Passed | None, stats: PerImage) -> dict[str, str]:
    """Why each metric is undefined, if it is."""
    images = "no anomalous images" if not stats.labels.any() else "no normal images"
    if passed is None:
        pixels = normals = "no masks"
    else:
        pixels = "no anomalous pixels" if not passed.found.defect_pixels else "no normal pixels"
        normals = pixels if not passed.found.defined else "no normal images"
    official = {"image_auroc_official": images, "pixel_auroc_official": pixels}
    return (
        dict.fromkeys(IMAGE_METRICS, images)
        | dict.fromkeys(PIXEL_METRICS, pixels)
        | {"aupimo": normals, **official}
    )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
