"""The table of diffusion models: are their s = 0 samples like normal images?

From the files ``check.json`` of the stage `sdas_check`, of which the workflow makes one per
category, seed and variant whose SDAS images differ. Nothing is computed here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.tables.formats import Column, Name, Table
from realnet.tables.published import title
from realnet.tables.runs import Results

TITLES = {"grey_levels": "Grey levels", "spectrum": "Spectrum (dB)", "features": "Features"}
DIGITS = {"grey_levels": 1, "spectrum": 1, "features": 2}
NOTES = (
    "s = 0 samples of each diffusion model beside normal training images: 1-Wasserstein distance of"
    " grey levels, root mean square difference of the radially averaged spectra, energy distance of"
    " pooled backbone features. “Halves” is the same distance between random halves of the normal"
    " images, “ratio” the distance by it. What the limits are, and what to do: docs/training.md.",
)


def sample_check_table(results: Results) -> Table:
    """One row per checked diffusion model, category and seed. UserError: a malformed file."""
    columns = [
        Column("dataset", "Dataset", "text"),
        Column("category", "Category", "text"),
        Column("seed", "Seed", "number"),
        Column("variant", "Variant", "text"),
        Column("images", "Images", "number"),
    ]
    for name, heading in TITLES.items():
        columns += [
            Column(name, "distance", "number", heading),
            Column(f"{name}_halves", "halves", "number", heading),
            Column(f"{name}_ratio", "ratio", "number", heading),
        ]
    columns.append(Column("result", "Result", "text"))
    groups: list[list[list[Any]]] = []
    warnings: list[str] = []
    for dataset in results.matrix.datasets:
        rows = []
        for path, category, seed, variant in _files(results, dataset):
            found = read_json(path)
            try:
                rows.append(
                    [Name(dataset, title(dataset)), category, seed, variant, found["images"]]
                    + [field for name in TITLES for field in _fields(found, name)]
                    + [found["result"]]
                )
                label = f"{variant}, seed {seed}"
                warnings += [f"Warning ({label}): {text}." for text in found["warnings"]]
                if "reason" in found:
                    warnings.append(f"{dataset}/{category} ({label}): {found['reason']}.")
            except (KeyError, TypeError):
                raise UserError(
                    f"{path}: not the result of a check; remove it and rerun snakemake"
                ) from None
        if rows:
            groups.append(rows)
    lines = [*NOTES, *warnings]
    if not groups:
        lines = ["No diffusion model was checked: no variant of the report samples from one."]
        if results.listed:
            lines = ["No diffusion model was looked up, since the evaluations were listed."]
    return Table("Diffusion models", columns, groups, lines, results.matrix.digits)


def _fields(found: dict[str, Any], name: str) -> list[float | None]:
    """Distance, distance of halves and ratio, rounded; None where nothing was measured."""
    if "distances" not in found:
        return [None, None, None]
    measured, digits = found["distances"][name], DIGITS[name]
    ratio = measured["ratio"]
    return [
        round(measured["distance"], digits),
        round(measured["halves"], digits + 1),
        None if ratio is None else round(ratio, 1),
    ]


def _files(results: Results, dataset: str) -> Iterator[tuple[Path, str, int, str]]:
    """(file, category, seed, variant) of each check that exists, of the variants of the matrix.

    Variants that do not change the sampling use the check of `base`.
    """
    if results.listed:
        return
    for category in results.categories[dataset]:
        for seed in results.matrix.seeds:
            for variant in dict.fromkeys(("base", *results.matrix.variants)):
                where = f"{dataset}/{category}/seed{seed}/{variant}/check.json"
                path = results.root / "sdas_check" / where
                if path.is_file():
                    yield path, category, seed, variant
