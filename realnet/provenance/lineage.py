"""What a result was made from: the ``stage.json`` files behind it, wherever the results lie now."""

from pathlib import Path, PurePath
from typing import Any

from realnet.core.errors import UserError
from realnet.core.io import read_json


def behind(root: Path, folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Stage -> its folder and its record, of the result in ``folder`` and of all it was made from.

    ``root``: folder of the results, wherever it lies now: the records name their inputs by paths
    that were valid where they were written. Stages without a ``stage.json`` there (an imported
    model's) are left out. UserError: a file of that name that is no record.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    todo = [folder]
    while todo:
        here = todo.pop()
        path = here / "stage.json"
        if not path.is_file():
            continue
        record = read_json(path)
        try:
            if record["stage"] in found:
                continue
            found[record["stage"]] = here, record
            sources = [source["path"] for source in record["inputs"].values()]
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: not the record of a stage; make it again") from None
        todo += [place for source in sources if (place := moved(root, source)) is not None]
    return found


def records(root: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Stage -> its record; see :func:`behind`."""
    return {stage: record for stage, (_, record) in behind(root, folder).items()}


def moved(root: Path, source: str) -> Path | None:
    """The folder below ``root`` that a recorded file lies in now; None: it is no result.

    A recorded path ends like the present one: the longest such end is it.
    """
    parts = PurePath(source).parts[:-1]
    for start in range(len(parts)):
        if parts[start] != "/" and (root.joinpath(*parts[start:]) / "stage.json").is_file():
            return root.joinpath(*parts[start:])
    return None
