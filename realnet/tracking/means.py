"""The run of a variant on a dataset: means over its evaluations, which are its child runs."""

import hashlib
import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from realnet.config.params import Params
from realnet.core.errors import as_user_error
from realnet.core.io import read_json
from realnet.tracking.contents import LAYOUT, CellContent, Content, run_params
from realnet.tracking.names import QUALITY


def variant_contents(cells: Iterable[CellContent], params: Params) -> list[Content]:
    """A run per dataset and variant that has evaluations, in their order."""
    names = {name for overlay in params.variants.values() for name in run_params(overlay)}
    groups: dict[str, list[CellContent]] = defaultdict(list)
    for cell in cells:
        groups[cell.parent].append(cell)
    return [mean_content(key, members, names) for key, members in groups.items()]


def mean_content(key: str, cells: Sequence[Content], varied: Collection[str]) -> Content:
    """Means over seeds of the means over categories, of the metrics that all evaluations have.

    With several seeds also ``<metric>/std`` over them, where every category has every seed.
    Parameters: of those in ``varied`` (by which variants differ) the ones that all evaluations
    share. MLflow compares runs by their parameters, and a hundred equal ones would hide the others.
    """
    common = set.intersection(*(set(cell.metrics) for cell in cells))
    names = sorted(n for n in common if not n.startswith("counts/"))
    names = [name for name in names if not name.endswith(("/low", "/high"))]
    shared = set.intersection(*(set(cell.params.items()) for cell in cells))
    text = "".join([*sorted(cell.fingerprint for cell in cells), *sorted(varied)])
    first = cells[0].tags
    seeds = sorted({int(cell.tags["seed"]) for cell in cells})
    categories = list(dict.fromkeys(cell.tags["category"] for cell in cells))
    metrics = {}
    for name in names:
        of_seed = {
            seed: [cell.metrics[name] for cell in cells if cell.tags["seed"] == str(seed)]
            for seed in seeds
        }
        means = [statistics.fmean(values) for values in of_seed.values()]
        mean = statistics.fmean(means)
        metrics[name] = round(mean, 2) if name.startswith(("seconds/", "peak_")) else mean
        whole = all(len(values) == len(categories) for values in of_seed.values())
        if name in QUALITY and len(seeds) > 1 and whole:
            metrics[f"{name}/std"] = statistics.stdev(means)
    return Content(
        key=key,
        fingerprint=hashlib.sha256(f"{LAYOUT}{key}{text}".encode()).hexdigest(),
        tags={
            **{name: first[name] for name in ("dataset", "variant", "preset")},
            "category": "mean",
            "seed": ",".join(map(str, seeds)),
            "level": "variant",
            **{
                name: ",".join(sorted({cell.tags[name] for cell in cells}))
                for name in ("method", "device", "commit")
            },
            "categories": ",".join(categories),
            "cells": str(len(cells)),
        },
        params={name: value for name, value in sorted(shared) if name in varied},
        metrics=metrics,
        seconds=sum(cell.seconds for cell in cells),
        finished=max(cell.finished for cell in cells),
    )


def mean_intervals(cells: Sequence[Content]) -> dict[str, float]:
    """``<metric>/low`` and ``/high`` of the means, where every evaluation has ``per_image.npz``.

    The image bootstrap of the evaluations themselves (`metrics.json`), with the same resamples.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for cell in cells:
        groups[cell.tags["category"]].append(Path(cell.tags["results"]))
    folders = [folder for members in groups.values() for folder in members]
    if not all((folder / "per_image.npz").is_file() for folder in folders):
        return {}
    from realnet.evaluation.stored import load_per_image
    from realnet.metrics import BOOTSTRAPPED, MetricInputError, interval, mean_samples

    drawn = read_json(folders[0] / "metrics.json")["bootstrap"]
    statistics_of = {
        category: [load_per_image(folder / "per_image.npz") for folder in members]
        for category, members in groups.items()
    }
    found: dict[str, float] = {}
    for metric in BOOTSTRAPPED:
        with as_user_error(MetricInputError):
            samples = mean_samples(statistics_of, metric, drawn["count"], drawn["seed"])
        low, high = interval(samples, drawn["level"])
        if not math.isnan(low):
            found |= {f"{metric}/low": low, f"{metric}/high": high}
    return found
