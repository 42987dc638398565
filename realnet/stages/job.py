"""What one job is: the argument of every stage."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

from realnet.config.stage_params import P


@dataclass(frozen=True)
class Job(Generic[P]):
    """One stage of one run.

    params: the sections that the stage reads.
    dataset, categories: what it is for; several categories only for a model of a whole dataset.
    seed: of the experiment matrix.
    inputs: name -> file or folder of an earlier stage (``manifest``, ``backbone``, ``sdas``, ...).
    out: the folder to write to.
    """

    params: P
    out: Path
    dataset: str = ""
    categories: tuple[str, ...] = ()
    seed: int = 0
    variant: str = "base"
    inputs: Mapping[str, Path] = field(default_factory=dict)

    @property
    def category(self) -> str:
        """The category, where there is exactly one."""
        (category,) = self.categories
        return category

    @property
    def identity(self) -> dict[str, str | int]:
        """Dataset, category and seed, as records and results name the run."""
        return {"dataset": self.dataset, "category": self.category, "seed": self.seed}

    @property
    def name(self) -> str:
        """Dataset and category, as titles and progress bars show them."""
        return "/".join((self.dataset, *self.categories))
