"""Which earlier stages a result rests on, from the ``stage.json`` files beside the results."""

from pathlib import Path

from realnet.errors import UserError
from realnet.io import read_json
from realnet.reporting.collect import Cell, Results

# In the order of the pipeline.
STAGES = ("backbone", "ddpm", "classifier", "sdas", "afs", "realnet", "patchcore", "evaluate")


def chain(results: Path, folder: Path) -> dict[str, Path]:
    """Stage -> its folder, for the result in ``folder`` and all that it was made from.

    The folders are those under ``results``, wherever the files were made; stages without a
    ``stage.json`` there (an imported model's) are left out.
    """
    found: dict[str, Path] = {}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if not (here / "stage.json").is_file():
            continue
        record = read_json(here / "stage.json")
        stage = record.get("stage") if isinstance(record, dict) else None
        if stage is None or not isinstance(record.get("inputs"), dict):
            raise UserError(f"{here / 'stage.json'}: not a record of a stage; make it again")
        if stage in found:
            continue
        found[stage] = here
        for entry in record["inputs"].values():
            place = _under(results, Path(entry["path"]).parent)
            if place is not None:
                waiting.append(place)
    return {stage: found[stage] for stage in sorted(found, key=_order)}


def _order(stage: str) -> tuple[int, str]:
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)


def _under(results: Path, folder: Path) -> Path | None:
    """The place of a stage's folder under ``results``, wherever it was made; None: not there."""
    parts = folder.parts
    for place in range(len(parts) - 1, -1, -1):
        here = results / Path(*parts[place:])  # a variant may have a stage's name, too
        if parts[place] in STAGES and (here / "stage.json").is_file():
            return here
    return None


def chains(found: Results, results: Path, dataset: str) -> dict[Cell, dict[str, Path]]:
    """The chain of every evaluation of a data set that is there."""
    return {
        cell: chain(results, found.files[cell].parent)
        for cell in found.cells
        if cell.dataset == dataset
    }


def reference(found: Results, dataset: str) -> dict[str, Path]:
    """Category -> folder of the evaluation of the reference variant and the first seed that has it.

    Categories without any are left out.
    """
    folders = {}
    for category in found.categories[dataset]:
        for seed in found.matrix.seeds:
            cell = Cell(dataset, category, seed, found.matrix.variants[0])
            if cell in found.cells:
                folders[category] = found.files[cell].parent
                break
    return folders
