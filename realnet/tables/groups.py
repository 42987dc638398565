"""`realnet report --group NAME`: the table of one group of variants (``groups`` in params.yaml)."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from realnet.config.params import as_json, load
from realnet.config.sections import Group
from realnet.core.errors import UserError
from realnet.core.io import write_text
from realnet.tables import formats, result_tables
from realnet.tables.runs import Matrix, collect, matrix_of


def report_group(
    results: Path,
    params: str,
    name: str,
    metrics: Sequence[Path] = (),
    allow_missing: bool = False,
) -> None:
    """Write ``tables/ablation_<name>.{csv,md,tex}`` under ``results``.

    ``params``: a parameter file, or JSON of experiment, variants, report and groups; the matrix
    has the group's variants, of which the first is the reference. ``metrics`` and
    ``allow_missing``: as for ``realnet report``. UserError for an unknown group or a missing file.
    """
    matrix, group = group_matrix(params, name)
    found = collect(results, matrix, metrics, allow_missing)
    table = replace(result_tables.ablation_table(found), title=group.title)
    path = results / "tables" / f"ablation_{name}"
    for suffix, write in WRITERS.items():
        write_text(path.with_suffix(suffix), write(table))


WRITERS = {".csv": formats.to_csv, ".md": formats.to_markdown, ".tex": formats.to_latex}


def group_matrix(params: str, name: str) -> tuple[Matrix, Group]:
    """The matrix with a group's variants, and the group; see :func:`report_group`."""
    values = _sections(params)
    group = _group(values.pop("groups"), name)
    values["experiment"] = values["experiment"] | {"variants": list(group.variants)}
    return matrix_of(json.dumps(values)), group


def _sections(params: str) -> dict[str, Any]:
    """experiment, variants, report and groups as plain values."""
    values = as_json(params)
    if values is None:
        values = load(params).model_dump(mode="json")
    wanted = ("experiment", "variants", "report", "groups")
    for key in wanted:
        if not isinstance(values.get(key), dict):
            raise UserError(f"--params: section {key} is missing; --group needs it")
    return {key: values[key] for key in wanted}


def _group(groups: dict[str, Any], name: str) -> Group:
    if name not in groups:
        known = ", ".join(groups) or "none"
        raise UserError(f"--group {name}: no such group of variants; params.yaml has: {known}")
    try:
        return Group.model_validate(groups[name])
    except ValidationError as error:
        raise UserError(f"--params: groups.{name}: {error.errors()[0]['msg']}") from None
