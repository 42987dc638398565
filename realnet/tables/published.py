"""Numbers of the paper and of others, from ``paper.yaml`` and ``others.yaml``, with their sources.

The paper's means follow the protocol ``official_best`` (:mod:`realnet.evaluation.protocols`).
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from realnet.tables.runs import complete

CERTAINTIES = ("certain", "high", "medium")


class Number(NamedTuple):
    """A published value in percent, as printed in its source."""

    value: float
    certainty: Literal["certain", "high", "medium"]
    source: str  # a key of ``sources`` in paper.yaml

    @property
    def certain(self) -> bool:
        return self.certainty == "certain"


@cache
def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def paper() -> dict[str, Any]:
    """``paper.yaml``: sources, datasets, claims."""
    return _read("paper.yaml")


def others() -> dict[str, Any]:
    """``others.yaml``: what others measured, under other protocols."""
    return _read("others.yaml")


def title(dataset: str) -> str:
    """A dataset's name as its authors write it; its key if paper.yaml does not have it."""
    return paper()["datasets"].get(dataset, {}).get("title", dataset)


def number(dataset: str, category: str, metric: str) -> Number | None:
    """The paper's number for a category or ``"mean"``; None if no source has it."""
    entry = paper()["datasets"].get(dataset, {})
    if category != "mean":
        entry = entry.get("categories", {}).get(category, {})
    found = entry.get(metric)
    return None if found is None else Number(**found)


def source(key: str) -> str:
    return paper()["sources"][key]


def claims(dataset: str) -> list[dict[str, Any]]:
    """The claims of paper.yaml that give a number for this dataset."""
    return [claim for claim in paper()["claims"] if claim["dataset"] == dataset]


def mean(numbers: list[Number | None], digits: int) -> Number | None:
    """Mean of several values, as certain as the least certain one; None if one is unknown."""
    if not (known := complete(numbers)):
        return None
    worst = max(known, key=lambda n: CERTAINTIES.index(n.certainty))
    return Number(
        round(sum(n.value for n in known) / len(known), digits), worst.certainty, worst.source
    )
