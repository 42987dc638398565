"""What the Snakefile needs before it can build the DAG; plain functions, no Snakemake."""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from realnet.config.params import PROJECT, Params, parse, resolve
from realnet.config.sections import NAME, Prepare
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.datasets import layouts
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.datasets.items import read_manifest
from realnet.datasets.layouts import list_categories, list_category
from realnet.models.weight_packages import package_of

# The folder of the package, in which shipped split tables are; the workflow runs there.
SOURCES = Path(layouts.__file__).parents[2]
# Tables in results/tables in addition to one per dataset.
TABLES = ("main", "protocols", "per_category", "ablation", "sdas_check", "verdicts")


def settings(values: dict[str, Any], overrides: dict[str, Any]) -> Params:
    """``params.yaml`` < preset < command line, validated; a UserError names the first bad key."""
    return parse(resolve(values, _plain(overrides)))


def _plain(value: Any) -> Any:
    """Restore the number in ``--config 'ddpm={steps: 5}'``: Snakemake passes it as text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and not re.fullmatch(r"0\d+", value):  # BTAD's category 01 is a name
        try:
            return yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):  # 2020-99-99 is a ValueError
            return value
    return value


def matrix(params: Params) -> dict[str, tuple[str, ...]]:
    """Dataset -> categories, with ``all`` expanded. UserError: an unknown dataset or category."""
    found = {}
    for dataset, wanted in params.experiment.datasets.items():
        if dataset in (*TABLES, "cells") or dataset.startswith("ablation_"):
            raise UserError(f"experiment.datasets: {dataset} is the name of a table; rename it")
        known = categories_of(params, dataset)
        categories = known if wanted == "all" else tuple(dict.fromkeys(wanted))
        for category in categories:
            if category not in known:
                raise UserError(
                    f"experiment.datasets.{dataset}: no category {category!r}; one of"
                    f" {', '.join(known)}"
                )
        found[dataset] = categories
    return found


def categories_of(params: Params, dataset: str) -> tuple[str, ...]:
    """All categories of a dataset. UserError: it is not a known one, and has no images."""
    return KNOWN_CATEGORIES.get(dataset) or _own_categories(params, dataset)


def _own_categories(params: Params, dataset: str) -> tuple[str, ...]:
    """Categories of a custom dataset: by its images or, without images, its manifests."""
    root = _root(params, dataset)
    known = list_categories(root, dataset, params.prepare.layouts)
    known = known or sorted(
        path.parent.name for path in (PROJECT / "results/data" / dataset).glob("*/manifest.csv")
    )
    own = params.prepare.layouts.get(dataset)
    if not known and own is not None and own.table is not None:
        raise UserError(
            f"{_short(root)}/{own.table}: no such split table; put it there, or correct"
            f" prepare.layouts.{dataset}.table"
        )
    if not known:
        raise UserError(
            f"dataset {dataset!r} is not one of {', '.join(KNOWN_CATEGORIES)}, and"
            f" {_short(root)} has no training images where its layout expects them; put your"
            f" images there, or say in prepare.layouts.{dataset} where they are"
        )
    for name in known:
        if not re.fullmatch(NAME, name):
            raise UserError(
                f"{_short(root)}: {name!r} cannot be the name of a category, since results are"
                " named by it; rename it to letters A-Z and a-z, digits and _, not beginning with _"
            )
    return tuple(known)


def check_files(
    params: Params, cells: dict[str, tuple[str, ...]], variants: Sequence[str] | None = None
) -> None:
    """UserError for missing weights or textures, before any job has started.

    variants: the ones to check; None: those of the matrix. Files whose result exists already are
    not needed. Images are checked by :func:`raw_files`.
    """
    for name in params.experiment.variants if variants is None else variants:
        variant = params.variant(name)
        if variant.backbone.source == "package":
            package_of(variant.backbone)
        weights = variant.backbone.file
        if variant.backbone.source == "file" and not _backbone_is_made(params, name):
            if not weights:
                raise UserError("backbone.source is file, so backbone.file must name a state dict")
            if not (PROJECT / weights).is_file():
                raise UserError(
                    f"backbone.file: {weights}: no such file; put the state dict"
                    " (.safetensors or .pth) there, or choose another backbone.source"
                )
        _check_init(params, name, cells)
        textures = variant.synthesis.dtd_root
        if variant.synthesis.sources.get("dtd", 0) > 0 and not (PROJECT / textures).is_dir():
            raise UserError(
                f"synthesis.dtd_root: {textures}: no such folder; unpack the DTD textures there,"
                " or give source dtd no weight"
            )


def _backbone_is_made(params: Params, name: str) -> bool:
    """Whether the variant's backbone exists and was made with these parameters."""
    record = PROJECT / "results/backbone" / params.shared_variant("backbone", name) / "stage.json"
    return _is_made(record, "backbone", params.variant(name))


def _is_made(record: Path, section: str, params: Params) -> bool:
    """Whether a result's ``stage.json`` exists and records the same values of this section."""
    wanted = getattr(params, section).model_dump(mode="json")
    return record.is_file() and read_json(record)["params"][section] == wanted


def _check_init(params: Params, name: str, cells: dict[str, tuple[str, ...]]) -> None:
    """UserError: a diffusion model is to be trained from weights that do not exist."""
    variant, whole = params.variant(name), params.ddpm.scope == "dataset"
    init, place = variant.ddpm.init, f"{params.shared_variant('ddpm', name)}/stage.json"
    records = [
        PROJECT / "results/ddpm" / dataset / group / f"seed{seed}" / place
        for dataset, categories in cells.items()
        for group in (("all",) if whole else categories)
        for seed in params.experiment.seeds
    ]
    if (
        init is None
        or not params.uses_sdas(name)
        or all(_is_made(record, "ddpm", variant) for record in records)
    ):
        return
    for file in ("config.json", "model.safetensors"):
        if not (PROJECT / init / file).is_file():
            raise UserError(
                f"ddpm.init: {init}/{file}: no such file; make it with"
                f" `realnet import-ddpm FILE {init}`, or train from scratch with init: null"
            )


def _short(path: Path) -> str:
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)


def raw_files(params: Params, dataset: str, category: str) -> list[str]:
    """What `data` reads: the demo's record, or the category's images, masks and split table.

    If the images are gone but their manifest is not: what the manifest names. Snakemake then keeps
    the manifest, since no rule makes these files, and tables can still be rebuilt.
    UserError: no such category, or its folders do not have the expected content.
    """
    known = categories_of(params, dataset)
    if category not in known:
        raise UserError(f"dataset {dataset}: no category {category!r}; one of {', '.join(known)}")
    if dataset == "demo":
        return [f"{params.data.root}/demo/dataset.json"]
    manifest = PROJECT / "results/data" / dataset / category / "manifest.csv"
    if manifest.is_file() and not _root(params, dataset).is_dir():
        items = read_manifest(manifest)
        return sorted({str(p) for item in items for p in (item.path, item.mask_path) if p})
    settings = params.prepare.only(dataset).model_dump_json()
    files = list(_list_once(params.data.root, dataset, category, settings))
    for path in files:
        if "{" in path or "}" in path:  # Snakemake takes it for a wildcard, and has no escape
            raise UserError(f"{path}: file names with {{ or }} cannot be used; rename it")
    return files


@cache
def _list_once(data_root: str, dataset: str, category: str, settings: str) -> tuple[str, ...]:
    """Cached: a tree of tens of thousands of files is walked once. ``settings``: JSON."""
    root = PROJECT / data_root / dataset
    try:
        listing = list_category(root, dataset, category, Prepare.model_validate_json(settings))
    except UserError as error:
        raise UserError(str(error).replace(f"{PROJECT}/", "")) from None
    paths = {path for e in listing.entries for path in (e.path, e.mask_path) if path}
    shipped = []
    if listing.table is not None:
        missing = next((e.path for e in listing.entries if not e.path.is_file()), None)
        if missing is not None:
            raise UserError(
                f"{_short(missing)}: no such image, but the split table of {dataset} lists it"
            )
        if listing.table.is_relative_to(root):
            paths.add(listing.table)
        else:
            shipped.append(listing.table.relative_to(SOURCES).as_posix())
    start = len(root.as_posix())
    below = (f"{data_root}/{dataset}{path.as_posix()[start:]}" for path in paths)
    return tuple(sorted([*below, *shipped]))


def check_guidance(
    params: Params, cells: dict[str, tuple[str, ...]], variants: Sequence[str]
) -> None:
    """UserError: guided sampling of a dataset with a single category."""
    for name in variants:
        for dataset, categories in cells.items():
            if len(categories) < 2 and params.uses_classifier(name):
                raise UserError(
                    f"sdas.guidance_scale is above 0 for variant {name}, but {dataset} has"
                    f" only one category ({categories[0]}), and guidance needs two; set it to 0"
                )


def sia_shards(params: Params, variant: str) -> int:
    """Number of shards of a category's SIA dataset."""
    sia = params.variant(variant).sia
    return -(-sia.images // sia.shard)


def sia_shard_section(params: Params, variant: str, shard: int) -> str:
    """The parameters of one SIA shard: without the number of images after the shard, since more of
    them are no reason to sample it again."""
    values = json.loads(params.section_json("sia", variant))
    sia = values["sia"]
    sia["images"] = min(sia["images"], (shard + 1) * sia["shard"])
    return json.dumps(values, sort_keys=True)


def _root(params: Params, dataset: str) -> Path:
    return PROJECT / params.data.root / dataset
