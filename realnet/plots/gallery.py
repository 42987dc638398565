"""All figures of a report, and the list that describes them."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from realnet.core.io import read_json, write_json
from realnet.plots import (
    ablation,
    against_paper,
    channels,
    cost,
    curves,
    losses,
    panels,
    residual_maps,
    scores,
    strength,
    style,
    synthesis,
)
from realnet.plots.made import Entry, Skipped
from realnet.tables.runs import Results

INDEX = "index.json"


def make_figures(
    found: Results, results: Path, groups: ablation.Groups | None = None
) -> Iterator[Entry]:
    """Every figure of every dataset, or the reason why it cannot be drawn.

    ``groups``: name -> (title, variants), of ``groups`` in params.yaml.

    Raises:
        UserError: a malformed file beside the evaluations.
    """
    makers = (
        against_paper.make,
        partial(ablation.make, groups=groups or {}),
        cost.make,
        panels.make,
        curves.make,
        scores.make,
        strength.make,
        synthesis.make,
        channels.make,
        residual_maps.make,
        losses.make,
    )
    for dataset in found.matrix.datasets:
        for make in makers:
            yield from make(found, results, dataset)


def write_figures(entries: Iterable[Entry], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Write each figure as SVG and PNG into the folder, and ``index.json``, which is returned.

    The index has ``figures``, each with name, dataset (null: all), title, caption, files, width and
    height (inches), and ``skipped``, each with name, dataset, title and reason. Files of an earlier
    index and of skipped figures are removed: they would be out of date.
    """
    old = _files(folder / INDEX)
    shown: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    for entry in entries:
        _add(entry, folder, shown, skipped)
    index = {"figures": shown, "skipped": skipped}
    write_json(folder / INDEX, index)
    old |= {f"{entry['name']}{suffix}" for entry in skipped for suffix in (".svg", ".png")}
    for name in old - {name for figure in shown for name in figure["files"]}:
        (folder / name).unlink(missing_ok=True)
    return index


def _add(entry: Entry, folder: Path, shown: list, skipped: list) -> None:
    if isinstance(entry, Skipped):
        skipped.append(
            {
                "name": entry.name,
                "dataset": entry.dataset,
                "title": entry.title,
                "reason": entry.reason,
            }
        )
        return
    width, height = entry.figure.get_size_inches().tolist()
    shown.append(
        {
            "name": entry.name,
            "dataset": entry.dataset,
            "title": entry.title,
            "caption": entry.caption,
            "files": style.save(entry.figure, folder, entry.name, entry.dpi),
            "width": round(width, 3),
            "height": round(height, 3),
        }
    )


def _files(index: Path) -> set[str]:
    """The files in the folder that an earlier index names."""
    if not index.is_file():
        return set()
    stored = read_json(index)
    names = [name for figure in stored.get("figures", ()) for name in figure.get("files", ())]
    return {name for name in names if Path(name).name == name}
