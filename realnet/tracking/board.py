"""`realnet runs`: the leaderboard, read from MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realnet.core.errors import UserError
from realnet.core.io import write_json
from realnet.tracking.client import (
    all_pages,
    connect,
    database,
    plainly,
    store_uri,
    without_password,
)
from realnet.tracking.names import HEADLINE

SHOWN = (*HEADLINE, "aupimo", "seconds/total")
SPREAD = ("/low", "/high", "/std")
NAMED = ("dataset", "variant", "category", "seed")


@dataclass(frozen=True)
class Filter:
    """Only the runs with these values; None: any."""

    dataset: str | None = None
    variant: str | None = None
    category: str | None = None


def leaderboard(
    experiment: str | None = None,
    only: Filter | None = None,
    sort: str = HEADLINE[0],
    limit: int = 20,
    every: bool = False,
    out: Path | None = None,
) -> str:
    """A table of runs, the best first; ``out``: the same as JSON, with all metrics and digits.

    Only the means of variants, unless a category is given or ``every`` is true: then their runs.
    ``experiment``: by default the one that was tracked last.

    Raises:
        UserError: no store; no such experiment, dataset, variant, category or metric.
    """
    uri = store_uri()
    path = database(uri)
    if path is not None and not path.is_file():
        raise UserError(f"{path}: no such database; `realnet track` creates it from the results")
    with plainly(uri):
        client = connect(uri)
        place = _experiment(client, uri, experiment)
        found = all_pages(client.search_runs, experiment_ids=[place], max_results=1000)
        runs = [run for run in found if "realnet.fingerprint" in run.data.tags]
    if not runs:
        raise UserError(
            f"MLflow at {without_password(uri)}: it has no runs; `realnet track` writes them"
        )
    only = only or Filter()
    for name, value in vars(only).items():
        runs = _having(runs, name, value)
    level = "cell" if every or (only.category or "mean") != "mean" else "variant"
    runs = [run for run in runs if run.data.tags["level"] == level]
    known = sorted({name for run in runs for name in run.data.metrics})
    if sort not in known:
        plain = [n for n in known if not n.endswith(SPREAD) and not n.startswith(("by_", "peak_"))]
        raise UserError(f"--sort {sort}: no such metric; known: {', '.join(plain)}")
    falling = not sort.startswith(("seconds/", "peak_memory_mb/")) and not sort.endswith("/std")
    with_it = [run for run in runs if sort in run.data.metrics]
    without = [run for run in runs if sort not in run.data.metrics]
    order = sorted(with_it, key=lambda run: run.data.metrics[sort], reverse=falling) + without
    if out is not None:
        write_json(out, [_record(run) for run in order[:limit]])
    return render(order[:limit], sort, len(order))


def _experiment(client: Any, uri: str, name: str | None) -> str:
    """The id of the experiment of that name; without a name, of the one that was tracked last."""
    ours = [e for e in all_pages(client.search_experiments) if "realnet.tracked" in e.tags]
    if not ours:
        raise UserError(
            f"MLflow at {without_password(uri)}: it has no experiment of `realnet track`;"
            " run that first"
        )
    names = {e.name: e.experiment_id for e in ours}
    if name is None:
        return max(ours, key=lambda e: e.tags["realnet.tracked"]).experiment_id
    if name not in names:
        known = ", ".join(sorted(names))
        raise UserError(f"--experiment {name}: no such experiment; one of {known}")
    return names[name]


def _having(runs: Sequence[Any], name: str, value: str | None) -> list[Any]:
    """The runs whose tag ``name`` is ``value``; all where it is None."""
    if value is None:
        return list(runs)
    chosen = [run for run in runs if run.data.tags[name] == value]
    if not chosen:
        known = sorted({run.data.tags[name] for run in runs})
        raise UserError(f"--{name} {value}: no such run; one of {', '.join(known)}")
    return chosen


def _record(run: Any) -> dict[str, Any]:
    tags = run.data.tags
    names = (*NAMED, "method", "device", "commit", "results", "registered_model")
    shown = {name: tags[name] for name in names if name in tags}
    return shown | {"run_id": run.info.run_id, "metrics": dict(sorted(run.data.metrics.items()))}


def render(runs: Sequence[Any], sort: str, total: int) -> str:
    """An aligned table: metrics in percent, with interval or standard deviation over seeds."""
    columns = [name for name in SHOWN if any(name in run.data.metrics for run in runs)]
    if sort not in columns:
        columns.insert(0, sort)
    head = [*NAMED, *(_title(name) for name in columns)]
    body = [
        [*(run.data.tags[name] for name in NAMED), *(_cell(run.data.metrics, n) for n in columns)]
        for run in runs
    ]
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    lines = [
        "  ".join(
            text.ljust(width) if i < len(NAMED) else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, ["-" * width for width in widths], *body]
    ]
    if total > len(runs):
        lines.append(f"{len(runs)} of {total}; --limit {total} shows all")
    return "\n".join(lines)


def _title(name: str) -> str:
    return {"seconds/total": "minutes"}.get(name, name)


def _cell(metrics: Mapping[str, float], name: str) -> str:
    """A metric as text: percent with its interval and standard deviation, minutes, or a number."""
    if name not in metrics:
        return "-"
    value = metrics[name]
    if name.startswith("seconds/"):
        return f"{value / 60:.1f}" if name == "seconds/total" else f"{value:.1f}"
    if name.startswith(("counts/", "peak_memory_mb/")) or name.endswith("/step"):
        return f"{value:.0f}"
    text = f"{100 * value:.1f}"
    if f"{name}/low" in metrics:
        text += f" [{100 * metrics[f'{name}/low']:.1f}, {100 * metrics[f'{name}/high']:.1f}]"
    if f"{name}/std" in metrics:
        text += f" ± {100 * metrics[f'{name}/std']:.1f}"
    return text
