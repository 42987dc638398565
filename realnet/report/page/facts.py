"""Header of the page and cost by stage, from the records alone."""

import statistics
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from realnet.config.params import as_json, read_yaml
from realnet.core.errors import first_names
from realnet.provenance.lineage import Trace
from realnet.tables.published import title
from realnet.tables.runs import Results

SHOWN = 3  # values that a fact names

PACKAGES = ("torch", "timm", "diffusers", "numpy")


class Fact(NamedTuple):
    """One entry of the page's header; ``title`` is a tooltip with details."""

    name: str
    value: str
    title: str = ""


class Cost(NamedTuple):
    """Totals of the records of one stage."""

    stage: str
    runs: int
    seconds: float
    median: float
    memory: int | None  # MiB
    devices: str
    commits: tuple[str, ...]


def facts(found: Results, traced: Trace, params: str) -> list[Fact]:
    """The header of the page. ``params``: parameter file or JSON, for the preset's name."""
    matrix = found.matrix
    entries = [
        Fact("Datasets", ", ".join(_dataset(found, name) for name in found.categories)),
        Fact("Variants", ", ".join(matrix.variants)),
        Fact("Seeds", ", ".join(map(str, matrix.seeds))),
        Fact("Preset", preset_of(params) or "not given"),
        Fact("Evaluated", f"{len(found.runs)} of {len(found.files)} runs"),
    ]
    records = traced.records
    if not records:
        return entries
    commits = _each(r.get("git_commit") or "outside git" for r in records)
    whole = sum(r["wall_s"] for r in records if isinstance(r.get("wall_s"), int | float))
    entries += [
        Fact("Finished", _period(records), "finish of the first and the last stage, UTC"),
        Fact("Device", ", ".join(_each(str(r.get("device")) for r in records))),
        Fact("Commit", first_names([short_commit(c) for c in commits], SHOWN), "\n".join(commits)),
        Fact("Compute", duration(whole), "total wall time of all stages"),
    ]
    software = {"Python": _each(str(r["python"]) for r in records if r.get("python"))}
    for package in PACKAGES:
        software[package] = _each(
            r["versions"][package] for r in records if package in _versions(r)
        )
    entries.append(
        Fact(
            "Software", ", ".join(f"{n} {first_names(v, SHOWN)}" for n, v in software.items() if v)
        )
    )
    return [fact for fact in entries if fact.value]


def costs(traced: Trace) -> list[Cost]:
    """One Cost per stage, in the order in which stages run."""
    table = []
    for stage, records in traced.by_stage().items():
        seconds = [float(r["wall_s"]) for r in records if r.get("wall_s") is not None] or [0.0]
        memory = [r["peak_memory_mb"] for r in records if r.get("peak_memory_mb") is not None]
        table.append(
            Cost(
                stage,
                len(records),
                sum(seconds),
                statistics.median(seconds),
                max(memory, default=None),
                ", ".join(_each(str(r.get("device")) for r in records)),
                tuple(_each(short_commit(r.get("git_commit") or "none") for r in records)),
            )
        )
    return table


def preset_of(params: str) -> str | None:
    """The preset that a parameter file or JSON text names."""
    values = as_json(params)
    return (read_yaml(params) if values is None else values).get("preset")


def duration(seconds: float) -> str:
    """``4.2 s``, ``3 min 05 s``, ``2 h 40 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min"


def short_commit(commit: str) -> str:
    """Ten digits, and ``+dirty`` if tracked files differed from the commit."""
    digits, plus, rest = commit.partition("+")
    return digits[:10] + plus + rest


def _dataset(found: Results, name: str) -> str:
    count = len(found.categories[name])
    return f"{title(name)} ({count} {'category' if count == 1 else 'categories'})"


def _period(records: list[dict[str, Any]]) -> str:
    """One time, or the first and the last; UTC, to the minute."""
    times = sorted(t for r in records if (t := _time(r.get("finished"))) is not None)
    if not times:
        return "not recorded"
    first, last = times[0], times[-1]
    start = f"{first:%Y-%m-%d %H:%M}"
    if f"{last:%Y-%m-%d %H:%M}" == start:
        return f"{start} UTC"
    return f"{start} – {last:%H:%M} UTC" if first.date() == last.date() else (
        f"{start} – {last:%Y-%m-%d %H:%M} UTC"
    )  # fmt: skip


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None


def _versions(record: dict[str, Any]) -> dict[str, str]:
    return record.get("versions") or {}


def _each(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
