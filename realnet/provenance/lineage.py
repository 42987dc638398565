"""The ``stage.json`` files behind a result; the results folder may have been moved."""

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from realnet.core.errors import UserError
from realnet.core.io import read_json


@dataclass
class Trace:
    """Records, and for each evaluation the indices of those behind it."""

    folders: list[Path] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    chains: dict[Path, list[int]] = field(default_factory=dict)  # causes first

    def by_stage(self) -> dict[str, list[dict[str, Any]]]:
        """Stage -> its records; stages in the order in which they run."""
        order: dict[str, None] = {}
        for chain in sorted(self.chains.values(), key=len, reverse=True):
            order |= dict.fromkeys(self.records[k]["stage"] for k in chain)
        return {s: [r for r in self.records if r["stage"] == s] for s in order}


def trace(results: Path, evaluations: Iterable[Path]) -> Trace:
    """Follow the records from each folder of an evaluation to everything it was made from.

    A folder without ``stage.json`` ends its branch. UserError: a ``stage.json`` that is not a
    record.
    """
    found = Trace()
    numbers: dict[Path, int | None] = {}
    places: dict[str, Path | None] = {}
    causes: dict[int, list[Path]] = {}

    def visit(folder: Path) -> int | None:
        if folder in numbers:
            return numbers[folder]
        numbers[folder] = None
        path = folder / "stage.json"
        if path.is_file():
            record = plain(read_json(path))
            try:
                sources = [source["path"] for source in record["inputs"].values()]
                record = {"stage": str(record["stage"]), "params": {}} | record
            except (KeyError, TypeError, AttributeError):
                raise UserError(f"{path}: not the record of a stage; rerun the stage") from None
            number = len(found.records)
            numbers[folder] = number
            found.folders.append(folder)
            found.records.append(record)
            for source in sources:
                if source not in places:
                    places[source] = moved(results, source)
            causes[number] = [p for s in sources if (p := places[s]) is not None]
        return numbers[folder]

    def chain(folder: Path, done: dict[int, None]) -> None:
        at = visit(folder)
        if at is None or at in done:
            return
        for cause in causes[at]:
            if cause != folder:
                chain(cause, done)
        done[at] = None

    for folder in evaluations:
        done: dict[int, None] = {}
        chain(folder, done)
        found.chains[folder] = list(done)
    return found


def behind(root: Path, folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Stage -> folder and record, of the result in ``folder`` and all stages before it.

    ``root``: the present results folder. Stages without a ``stage.json`` (an imported model's)
    are left out. UserError: see :func:`trace`.
    """
    traced = trace(root, [folder])
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for number in reversed(traced.chains[folder]):
        record = traced.records[number]
        found.setdefault(record["stage"], (traced.folders[number], record))
    return found


def records(root: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Stage -> its record; see :func:`behind`."""
    return {stage: record for stage, (_, record) in behind(root, folder).items()}


def moved(root: Path, source: str) -> Path | None:
    """The present folder below ``root`` of a recorded file; None: it is not a result.

    Both paths end alike: the longest common end is taken.
    """
    parts = PurePath(source).parts[:-1]
    for start in range(len(parts)):
        if parts[start] != "/" and (root.joinpath(*parts[start:]) / "stage.json").is_file():
            return root.joinpath(*parts[start:])
    return None


def relative(path: Path, results: Path) -> str:
    """Path relative to the results folder; unchanged if it is outside."""
    return path.relative_to(results).as_posix() if path.is_relative_to(results) else str(path)


def plain(value: Any) -> Any:
    """Values for JSON, with null for NaN and infinities."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json_text(key: str, value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def flatten(
    values: Mapping[str, Any],
    text: Callable[[str, Any], str] = as_json_text,
    whole: Collection[str] = (),
    prefix: str = "",
) -> dict[str, str]:
    """Nested mappings as ``section.key`` -> ``text(key, value)``.

    Empty mappings and those under a key of ``whole`` are kept as values.
    """
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value and key not in whole:
            found |= flatten(value, text, whole, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = text(key, value)
    return found
