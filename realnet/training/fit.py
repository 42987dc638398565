"""The training loop that every stage shares: resume, learning rate, checks, checkpoints, stop.

A stage writes its mathematics as the body of the loop::

    fit = Fit("realnet/demo/nut", 500, 100, checkpoints, runtime, model, optimiser, schedule)
    for step in fit.steps():
        loss = ...
        loss.backward()
        rate = fit.apply_gradients()
        fit.log({"step": step, "loss": loss.item(), "lr": rate})

Nothing in here depends on the stage. A training that was interrupted and resumed gives the bits of
one that was not, since all that a step depends on is either in the checkpoint or derived from
its number.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from realnet.compute.distributed import check_alike, stops
from realnet.compute.runtime import Runtime
from realnet.core.progress import progress
from realnet.training.checkpoint import Checkpoints, check_finite

Row = dict[str, float]  # of history.csv


class Stateful(Protocol):
    """Anything with a state dict: a module, an optimiser, a schedule, an average of weights."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> object: ...


class RandomState:
    """A generator from which every step draws, so that a resumed run continues its sequence."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.generator.set_state(state_dict["state"].clone())


@dataclass
class Fit:
    """One training, resumed from its checkpoint where there is one.

    name: for messages and the progress bar.
    total: how many updates of the weights the training has.
    checkpoint_every: updates between checkpoints; None: only when asked to stop.
    model: whose weights must be equal in all processes.
    optimiser, schedule: stepped by :meth:`apply_gradients`.
    others: further parts of the state, by their name in the checkpoint.
    """

    name: str
    total: int
    checkpoint_every: int | None
    checkpoints: Checkpoints
    runtime: Runtime
    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    others: Mapping[str, Stateful] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._first = 0
        self._bar: tqdm | None = None
        if (state := self.checkpoints.load()) is not None:
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self.history, self._first = state["history"], state["step"]
            print(f"resumed at step {self._first}")
        check_alike(self.model, self.runtime, self._first)

    @property
    def _parts(self) -> dict[str, Stateful]:
        own: dict[str, Stateful] = {
            "model": self.model,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
        }
        return own | dict(self.others)

    def steps(self) -> Iterator[int]:
        """The numbers of the updates that remain; after each one the checkpoint, where one is due.

        Raises :class:`realnet.core.stopping.Stopped` after the step, and its checkpoint, in which
        the process was asked to stop; RuntimeError where the processes' weights differ.
        """
        for step, bar in progress(self._first, self.total, self.name):
            self._bar = bar
            yield step
            done, every = step + 1, self.checkpoint_every
            due = every is not None and done % every == 0 and done < self.total
            if stops(self.runtime) or due:
                check_alike(self.model, self.runtime, step)
                if self.runtime.is_main:
                    state = {name: part.state_dict() for name, part in self._parts.items()}
                    self.checkpoints.save(step=done, history=self.history, **state)

    def apply_gradients(self) -> float:
        """Update the weights and clear the gradients; the learning rate of this update."""
        rate = float(self.schedule.get_last_lr()[0])
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.schedule.step()
        return rate

    def log(self, row: Row) -> None:
        """Append a row of the history. UserError where its ``loss`` is not finite."""
        check_finite(row["loss"], int(row["step"]), self.name)
        self.history.append(row)
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
