"""Numbers of the paper and of others, from ``paper.yaml`` and ``others.yaml``, with their sources.

Means of the paper are of the protocol ``official_best`` (:mod:`realnet.evaluation.protocols`).
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

CERTAINTIES = ("certain", "high", "medium")


class Number(NamedTuple):
    """A published value, percent, as its source prints it."""

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
    """How a dataset's own authors write its name, where the paper has it."""
    return paper()["datasets"].get(dataset, {}).get("title", dataset)


def number(dataset: str, category: str, metric: str) -> Number | None:
    """The paper's, of a category or of ``"mean"``; None where no source has it."""
    entry = paper()["datasets"].get(dataset, {})
    if category != "mean":
        entry = entry.get("categories", {}).get(category, {})
    found = entry.get(metric)
    return None if found is None else Number(**found)


def source(key: str) -> str:
    return paper()["sources"][key]


def claims(dataset: str) -> list[dict[str, Any]]:
    """What the paper's ablations say in numbers about a dataset: the entries of paper.yaml."""
    return [claim for claim in paper()["claims"] if claim["dataset"] == dataset]


def mean(numbers: list[Number | None], digits: int) -> Number | None:
    """Of several values, as certain as the least certain one; None where one is not known."""
    if None in numbers or not numbers:
        return None
    worst = max(numbers, key=lambda n: CERTAINTIES.index(n.certainty))
    return Number(
        round(sum(n.value for n in numbers) / len(numbers), digits), worst.certainty, worst.source
    )
