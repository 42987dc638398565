"""Read the evaluation's files; compute means over seeds and categories."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from realnet.config.params import Params, as_json, load
from realnet.config.sections import Experiment, Report
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.datasets.manifest import left_out

T = TypeVar("T")
METRICS = ("image_auroc", "pixel_auroc", "pro")
MEAN = "mean"
# Names from realnet/evaluation/protocols.py.
STRICT_LAST, STRICT_BEST = "strict_last", "strict_best"
OFFICIAL_LAST, OFFICIAL_BEST = "official_last", "official_best"
PROTOCOLS = (STRICT_LAST, STRICT_BEST, OFFICIAL_LAST, OFFICIAL_BEST)


def under(protocol: str, metric: str) -> str:
    """The key of a metric of METRICS under a protocol, as :meth:`Results.stat` takes it."""
    return f"{protocol}/{metric}{'_official' if protocol.startswith('official') else ''}"


def complete(values: Sequence[T | None]) -> list[T]:
    """The values, or none of them if one is missing: a mean over a part is not comparable."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


class Run(NamedTuple):
    """One run of the matrix: a dataset, category, seed and variant."""

    dataset: str
    category: str
    seed: int
    variant: str

    @property
    def name(self) -> str:
        """As printed; also how the paths of its results end."""
        return f"{self.dataset}/{self.category}/seed{self.seed}/{self.variant}"


@dataclass(frozen=True)
class Matrix:
    """What the report covers, in the order of the rows."""

    datasets: dict[str, tuple[str, ...] | None]  # None: all categories
    seeds: tuple[int, ...]
    variants: tuple[str, ...]  # the first is the reference
    # Every declared variant -> folder of its evaluation (its own, or that of base).
    folders: dict[str, str]
    digits: int
    bootstrap: int = 1000  # resampled test sets behind an interval; 0: no intervals
    level: float = 0.95


@dataclass(frozen=True)
class Stat:
    """Mean over seeds, as a fraction; std is None for a single seed.

    ``value`` is None where evaluations are missing and NaN where the metric is undefined.
    ``interval``: of the mean, over the choice of test images; None where not requested or unknown.
    """

    value: float | None
    std: float | None
    seeds: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Results:
    """The data behind tables and figures."""

    matrix: Matrix
    categories: dict[str, tuple[str, ...]]
    files: dict[Run, Path]
    runs: dict[Run, dict[str, Any]]  # contents of the metrics files that exist
    root: Path = Path("results")
    listed: bool = False  # whether the files were given; all others are then ignored
    # Cache of the samples of resamples.py.
    drawn: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def stat(self, dataset: str, variant: str, category: str, metric: str) -> Stat:
        """Statistics of one category, or of ``"mean"``: the mean over categories, taken per seed.

        ``metric``: one of METRICS, or a key of :func:`under`, which is missing if the protocol was
        not evaluated. The mean over categories needs all of them: a mean over the categories that
        happen to exist would not be comparable.
        """
        return _over_seeds(self.by_seed(dataset, variant, category, metric))

    def overall(self, variant: str, metric: str) -> Stat:
        """The mean over datasets of their means over categories, taken per seed."""
        return _over_seeds(self.by_seed(None, variant, MEAN, metric))

    def by_seed(
        self, dataset: str | None, variant: str, category: str, metric: str
    ) -> dict[int, float]:
        """Seed -> value, of which :meth:`stat` is the mean; only complete seeds.

        ``dataset`` None: all datasets, as in :meth:`overall`.
        """
        wanted = self.parts(dataset, category)
        found = {}
        for seed in self.matrix.seeds:
            means = []
            for part, names in wanted.items():
                runs = [self.runs.get(Run(part, name, seed, variant)) for name in names]
                values = [None if run is None else number(run, metric) for run in runs]
                if known := complete(values):
                    means.append(statistics.fmean(known))
            if len(means) == len(wanted):
                found[seed] = statistics.fmean(means)
        return found

    def parts(self, dataset: str | None, category: str) -> dict[str, tuple[str, ...]]:
        """Dataset -> the categories that a mean averages; ``dataset`` None: all datasets."""
        if dataset is None:
            return self.categories
        return {dataset: self.categories[dataset] if category == MEAN else (category,)}

    @cached_property
    def without_masks(self) -> tuple[tuple[str, str], ...]:
        """(dataset, category) of evaluations without masks: image metrics only."""
        unmasked = {
            (run.dataset, run.category)
            for run, values in self.runs.items()
            if values.get("has_masks") is False
        }
        order = [(d, name) for d, names in self.categories.items() for name in names]
        return tuple(pair for pair in order if pair in unmasked)

    @cached_property
    def left_out(self) -> dict[tuple[str, str], list[str]]:
        """(dataset, category) -> lines on the images that ``summary.json`` has as excluded or as in
        image metrics only."""
        found = {}
        for dataset, categories in self.categories.items():
            for category in categories:
                path = self.root / "data" / dataset / category / "summary.json"
                if path.is_file() and (lines := left_out(read_json(path))):
                    found[dataset, category] = lines
        return found

    def is_whole(self, dataset: str) -> bool:
        """Whether the matrix has all categories of a known dataset, as the paper's means do."""
        return set(self.categories[dataset]) == set(KNOWN_CATEGORIES.get(dataset, ()))

    def rows(self, dataset: str) -> tuple[str, ...]:
        """The categories, then the mean."""
        return (*self.categories[dataset], MEAN)


def _over_seeds(values: dict[int, float]) -> Stat:
    if not values:
        return Stat(None, None, 0)
    mean = statistics.fmean(values.values())
    has_std = len(values) > 1 and not math.isnan(mean)
    return Stat(mean, statistics.stdev(values.values()) if has_std else None, len(values))


def number(metrics: dict[str, Any], metric: str) -> float | None:
    """A metric of a metrics file: NaN if it is null (undefined).

    None if the metric's protocol was not evaluated.
    """
    protocol, _, name = metric.rpartition("/")
    values = metrics.get("protocols", {}).get(protocol) if protocol else metrics
    if values is None:
        return None
    return math.nan if values[name] is None else float(values[name])


def matrix_of(text: str) -> Matrix:
    """The matrix from a parameter file or from JSON of experiment, variants and report."""
    values = as_json(text)
    if values is not None:
        try:
            experiment = Experiment.model_validate(values.get("experiment"))
            report = Report.model_validate(values.get("report"))
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"]))
            raise UserError(
                f"--params: section {error.title.lower()}: {key} {problem['msg']}"
            ) from None
        params = Params.model_construct(variants=values.get("variants", {}))
    else:
        params = load(text)
        experiment, report = params.experiment, params.report
    unknown = [name for name in experiment.variants if name not in params.variants]
    if unknown:
        raise UserError(f"--params: variant {unknown[0]!r} is not among the variants")
    return Matrix(
        datasets={
            name: None if categories == "all" else _in_order(name, categories)
            for name, categories in sorted(experiment.datasets.items(), key=_place)
        },
        seeds=tuple(experiment.seeds),
        variants=tuple(experiment.variants),
        folders={v: params.shared_variant("evaluate", v) for v in params.variants},
        **report.model_dump(),
    )


def _place(item: tuple[str, Any]) -> tuple[int, str]:
    """Sort key: known datasets in the paper's order, then others by name."""
    known = list(KNOWN_CATEGORIES)
    return (known.index(item[0]) if item[0] in known else len(known), item[0])


def _in_order(dataset: str, categories: Iterable[str]) -> tuple[str, ...]:
    """Known categories in the order of their list, then others as given; each once."""
    names = list(dict.fromkeys(categories))
    known = [name for name in KNOWN_CATEGORIES.get(dataset, ()) if name in names]
    return (*known, *(name for name in names if name not in known))


def collect(
    results: Path, matrix: Matrix, files: Iterable[Path] = (), allow_missing: bool = False
) -> Results:
    """Read the runs of the matrix; ``files`` as for ``--metrics``, empty: search ``results``.

    A file that is missing or malformed, or whose content names another run than its path, is a
    UserError; ``allow_missing`` leaves out missing ones.
    """
    listed = {address_of(path): path for path in files}
    categories = {
        dataset: _categories(results, dataset, listed) if wanted is None else wanted
        for dataset, wanted in matrix.datasets.items()
    }
    paths: dict[Run, Path] = {}
    for dataset, names in categories.items():
        for category in names:
            for seed in matrix.seeds:
                for variant in matrix.variants:
                    address = Run(dataset, category, seed, matrix.folders[variant])
                    paths[Run(dataset, category, seed, variant)] = listed.get(
                        address, _path(results, address)
                    )
    present = {run: path for run, path in paths.items() if _is_there(path, listed)}
    missing = list(dict.fromkeys(path for run, path in paths.items() if run not in present))
    if missing and not allow_missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(
            f"{missing[0]}{more}: no such file; make it with `snakemake --cores all {missing[0]}`,"
            " or give --allow-missing"
        )
    runs = {run: read_run(path, run) for run, path in present.items()}
    return Results(matrix, categories, paths, runs, results, bool(listed))


def _path(results: Path, run: Run) -> Path:
    folder = results / "evaluate" / run.dataset / run.category / f"seed{run.seed}"
    return folder / run.variant / "metrics.json"


def address_of(path: Path) -> Run:
    """The run that a metrics file belongs to, from its path."""
    parts = path.parts[-5:]
    if len(parts) < 5 or parts[4] != "metrics.json" or not parts[2].startswith("seed"):
        raise UserError(
            f"{path}: expected a path ending in <dataset>/<category>/seed<k>/<variant>/metrics.json"
        )
    seed = parts[2].removeprefix("seed")
    if not seed.isdecimal():
        raise UserError(f"{path}: {parts[2]} is not seed<k>")
    return Run(parts[0], parts[1], int(seed), parts[3])


def _is_there(path: Path, listed: dict[Run, Path]) -> bool:
    """With a list, only its files count, and each must exist."""
    return path in listed.values() if listed else path.is_file()


def _categories(results: Path, dataset: str, listed: dict[Run, Path]) -> tuple[str, ...]:
    known = KNOWN_CATEGORIES.get(dataset, ())
    if listed:
        return _in_order(dataset, sorted(c.category for c in listed if c.dataset == dataset))
    if known:
        return known
    folders = [results / stage / dataset for stage in ("data", "evaluate")]
    names = {f.name for base in folders if base.is_dir() for f in base.iterdir() if f.is_dir()}
    if not names:
        raise UserError(f"dataset {dataset}: no categories found in {folders[0]} or {folders[1]}")
    return tuple(sorted(names))


def read_run(path: Path, run: Run) -> dict[str, Any]:
    """Read and check a metrics file. UserError: malformed, or of another run than its path says."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object with {', '.join(METRICS)}")
    for metric in METRICS:
        value = values.get(metric, math.nan)
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise UserError(
                f"{path}: {metric} is {values.get(metric, 'missing')},"
                " expected a fraction, or null where it is undefined"
            )
    for protocol in PROTOCOLS:
        given = values.get("protocols", {}).get(protocol)
        for metric in METRICS if given is not None else ():
            name = under(protocol, metric).removeprefix(f"{protocol}/")
            if name not in given:
                raise UserError(f"{path}: protocols.{protocol} has no {name}; rerun the evaluation")
    for key in ("dataset", "category", "seed"):
        if key in values and values[key] != getattr(run, key):
            raise UserError(
                f"{path}: {key} is {values[key]}, but {getattr(run, key)} in its path;"
                " remove it and rerun the evaluation"
            )
    return values
