"""`realnet metrics`: the benchmark's metrics of any model's anomaly maps, from files."""

import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from realnet.core.errors import UserError
from realnet.core.io import write_json
from realnet.evaluation.maps.inputs import Images, Reader, open_images
from realnet.evaluation.maps.passes import Passed, images_alone, two_passes
from realnet.metrics import (
    BOOTSTRAPPED,
    LIMITS,
    Localisation,
    PerImage,
    UndefinedMetricWarning,
    bootstrap,
    image_ap,
    image_auroc,
    image_f1_max,
    interval,
    pro_at,
    summary,
)
from realnet.metrics.official import official_metrics

LEVEL = 0.95
OFFICIAL_POOL = 16
TIES = 0.001  # share of tied pairs from which on they are worth a word
IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pro", "aupimo")


def measure(
    scores: Path,
    masks: Path | None = None,
    labels: Path | None = None,
    pool: int | None = None,
    pro_limit: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The metrics of the maps in files, as :func:`run` writes them to ``--json``."""
    return _measure(scores, masks, labels, pool, pro_limit, **options)[0]


def _measure(
    scores: Path,
    masks: Path | None = None,
    labels: Path | None = None,
    pool: int | None = None,
    pro_limit: float | None = None,
    limits: Sequence[float] = LIMITS,
    image_scores: Path | None = None,
    resize: str | None = None,
    compat: bool = False,
    logits: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    suffix: str = "",
    subset: bool = False,
) -> tuple[dict[str, Any], PerImage]:
    """The result, and the statistics that curves are drawn from.

    ``scores``, ``masks``: see docs/metrics.md for all that they may be; larger is more anomalous,
    masks are anomalous where > 0. ``labels``: .npy or .csv; default: the folders' names, else
    whether the mask has an anomalous pixel. An image's score is the maximum of its map after
    ``pool`` x ``pool`` averaging (default 1), of the sigmoid of the map where ``logits``; unless
    it is given in ``image_scores``, or in a scores.npz and no ``pool`` is given.

    ``limits``: of PRO, the headline first; ``pro_limit``: the headline, if it is another one.
    ``compat``: also the official metrics, of probabilities or (``logits``) of their logits.

    Metrics are fractions, None where undefined; ``undefined`` then says why.
    """
    stored = pool is None and image_scores is None
    images = open_images(scores, masks, labels, image_scores, suffix, subset, stored)
    if resize and images.mask_of is None:
        raise UserError("--resize-masks and --resize-maps: there are no masks")
    from_file = images.scores is not None
    probabilities = logits or images.logits
    reader = Reader(Images(**vars(images) | {"logits": logits}), resize)
    limits = _ordered(limits, pro_limit)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UndefinedMetricWarning)
        passed = None if images.mask_of is None else two_passes(reader, pool or 1, limits)
        statistics = passed.statistics if passed else images_alone(reader, pool or 1)
        measured = _image_metrics(statistics) | _pixel_metrics(passed)
        if compat:
            measured |= _official(reader, passed, pool, probabilities, scores)
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    if passed is None:
        notes.append(f"{', '.join(PIXEL_METRICS)}: undefined, no masks")
    notes += _notes(reader, passed, statistics)
    notes += [
        f"{key} is below 0.5: are larger scores more anomalous, and do maps and masks match?"
        for key in ("image_auroc", "pixel_auroc")
        if measured[key] < 0.5
    ]
    for note in notes:
        print(f"realnet metrics: {note}", file=sys.stderr)
    result = measured | {
        "pro_limit": limits[0],
        "image_score_pool": None if from_file else pool or 1,
        "images": len(statistics.labels),
        "anomalous_images": int(statistics.labels.sum()),
        "normal_images": int((statistics.labels == 0).sum()),
        "image_size": list(reader.size) if reader.size else None,
        **_details(passed),
        **_intervals(statistics, resamples, seed),
    }
    reasons = _reasons(passed, statistics)
    undefined = {k: reasons.get(k, "see the notes") for k, v in result.items() if _is_nan(v)}
    return _plain(result) | {"undefined": undefined, "notes": notes}, statistics


def run(
    json: Path | None = None, curves: Path | None = None, seed: int = 0, **arguments: Any
) -> None:
    """:func:`measure`, printed as a table; written to ``json``, and drawn to ``curves``."""
    from realnet.evaluation.maps.table import table
    from realnet.plots.metric_curves import curve_files, write_curves

    if json is not None and json.is_dir():
        raise UserError(f"{json}: is a folder; --json needs the name of a file")
    files = curve_files(curves) if curves else ()
    result, statistics = _measure(seed=seed, **arguments)
    if json is not None:
        write_json(json, result)
    if files:
        write_curves(*files, statistics, result)
    print(table(result))


def _ordered(limits: Sequence[float], headline: float | None) -> tuple[float, ...]:
    """Without repetitions, the headline first. UserError: not in (0, 1]."""
    chosen = tuple(dict.fromkeys(([] if headline is None else [headline]) + list(limits)))
    for limit in chosen:
        if not 0 < limit <= 1:
            raise UserError(f"PRO limit {limit:g}: expected a false positive rate in (0, 1]")
    if not chosen:
        raise UserError("--limits: expected at least one false positive rate, e.g. 0.3,0.05")
    return chosen


def _image_metrics(stats: PerImage) -> dict[str, float]:
    functions = (image_auroc, image_ap, image_f1_max)
    values = [function(stats.scores, stats.labels) for function in functions]
    return dict(zip(IMAGE_METRICS, values, strict=True))


def _pixel_metrics(passed: Passed | None) -> dict[str, Any]:
    counts = ("regions", "defect_pixels", "normal_pixels", "tied_pairs")
    if passed is None:
        return dict.fromkeys(PIXEL_METRICS, math.nan) | dict.fromkeys(counts)
    found = passed.found
    defective = found.aupimo[found.regions.defect_pixels > 0]
    aupimo = float(defective.mean()) if len(defective) else math.nan
    return summary(found) | {"aupimo": aupimo, "tied_pairs": _tied(found)}


def _tied(found: Localisation) -> float | None:
    """Share of the pairs (defect pixel, normal pixel) with equal scores: what ranks cannot tell."""
    if not found.defined:
        return None
    ranks = found.ranks
    tied = (ranks.reaching - ranks.above) * ranks.thresholds.counts
    return math.fsum(tied.tolist()) / (found.defect_pixels * found.normal_pixels)


def _details(passed: Passed | None) -> dict[str, Any]:
    if passed is None:
        return dict.fromkeys(("pro_at", "by_defect", "by_size"))
    found = passed.found
    return {
        "pro_at": pro_at(found),
        "by_defect": found.by_defect(passed.kinds),
        "by_size": found.by_size(),
    }


def _intervals(stats: PerImage, resamples: int, seed: int) -> dict[str, Any]:
    if not resamples:
        return {"intervals": None, "bootstrap": None}
    found = {}
    for metric in BOOTSTRAPPED:
        low, high = interval(bootstrap(stats, metric, resamples, seed), LEVEL)
        found[metric] = None if math.isnan(low) else [low, high]
    return {
        "intervals": found,
        "bootstrap": {"count": resamples, "level": LEVEL, "seed": seed},
    }


def _official(
    reader: Reader, passed: Passed | None, pool: int | None, logits: bool, path: Path
) -> dict[str, float]:
    """The three official numbers; all maps are held in memory for them."""
    if passed is None:
        raise UserError("--compat: the official metrics need masks")
    low, high = passed.span
    if not logits and not 0 <= low <= high <= 1:
        raise UserError(
            f"{path}: --compat measures probabilities, found maps from {low:g} to {high:g};"
            " if they are logits, say --logits"
        )
    parts = [(expit(maps) if logits else maps, masks) for _, maps, masks in reader.batches()]
    maps, masks = (np.concatenate(part) for part in zip(*parts, strict=True))
    return official_metrics(maps, masks, pool or OFFICIAL_POOL)


def _notes(reader: Reader, passed: Passed | None, stats: PerImage) -> list[str]:
    """What a reader of the numbers should know about the maps, masks and labels."""
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
            " rounded or saturated scores; measure logits in float32, if there are any"
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
    empty = int((passed.labels & (stats.defect_pixels == 0)).sum()) - len(reader.lost)
    if empty > 0:
        notes.append(f"{_number(empty, 'anomalous image')} without a pixel in the mask")
    marked = int((~passed.labels & (stats.defect_pixels > 0)).sum())
    if marked:
        notes.append(f"{_number(marked, 'normal image')} with anomalous pixels in the mask")
    return notes


def _reasons(passed: Passed | None, stats: PerImage) -> dict[str, str]:
    """Of each metric that may be undefined, why it would be."""
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


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _plain(value: Any) -> Any:
    """NaN, which JSON has not, as None, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return None if _is_nan(value) else value
