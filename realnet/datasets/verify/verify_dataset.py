"""`realnet data verify`: read every file of a dataset and report every problem.

Near-duplicates are not looked for. The report's schema: ``verify_report.py``.
"""

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

from tqdm import tqdm

from realnet.config.params import Params, load
from realnet.config.sections import MaskRule, Prepare
from realnet.core.errors import UserError
from realnet.core.io import write_json
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.datasets.layouts import Listing, list_categories, list_category, mask_rule
from realnet.datasets.verify.verify_checks import (
    about_images,
    compare_manifest,
    compare_published,
    duplicates,
    other_files,
)
from realnet.datasets.verify.verify_files import KINDS, Problem, problem, see, see_unused_mask
from realnet.datasets.verify.verify_report import Checked, report, summary


def run(
    names: Sequence[str],
    params: str | Path,
    root: Path | None,
    manifests: Path,
    json: Path | None,
    workers: int | None,
    show: int,
) -> bool:
    """The command: print the summary, write the report; whether there was no error.

    UserError: parameters, no such dataset or category. Nothing is written then.
    """
    loaded = load(params)
    root = Path(loaded.data.root) if root is None else root
    targets = resolve_targets(names, loaded, root)
    checked = verify(targets, root, manifests, loaded.prepare, workers, progress=True)
    made = report(checked)
    print(summary(checked, show))
    if json is not None:
        write_json(json, made)
        print(f"report: {json}")
    return made["ok"]


def resolve_targets(
    names: Sequence[str], params: Params, root: str | Path
) -> list[tuple[str, str]]:
    """(dataset, category) of each ``DATASET`` or ``DATASET/CATEGORY``; none: what params name.

    UserError: no such dataset or category folder. A category that a whole dataset should have,
    by its publication, is in the list even where its folder is missing.
    """
    root, own = Path(root), params.prepare.layouts
    wanted: list[tuple[str, list[str] | None]] = []
    for name in names:
        dataset, _, category = name.strip("/").partition("/")
        wanted.append((dataset, [category] if category else None))
    if not names:
        for dataset, listed in params.experiment.datasets.items():
            wanted.append((dataset, None if listed == "all" else list(listed)))
    targets: dict[tuple[str, str], None] = {}
    for dataset, categories in wanted:
        folder = root / dataset
        if not dataset or not folder.is_dir():
            raise UserError(_no_dataset(root, dataset))
        found = list_categories(folder, dataset, own)
        known = list(KNOWN_CATEGORIES.get(dataset, found) if dataset not in own else found)
        if not known:
            raise UserError(
                f"{folder}: no categories, that is, no folders with training images; expected"
                " <category>/train/good/*, or a layout of its own under prepare.layouts"
            )
        for category in known if categories is None else categories:
            if categories and category not in found and not (folder / category).is_dir():
                raise UserError(
                    f"{folder}: no category {category!r} in dataset {dataset}; found"
                    f" {', '.join(found) or 'none'}"
                )
            targets[dataset, category] = None
    return list(targets)


def _no_dataset(root: Path, dataset: str) -> str:
    there = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    advice = (
        "render it with `realnet data demo`"
        if dataset == "demo"
        else "put the dataset there, or a link to it"
    )
    return f"{root / dataset}: no such folder; {advice}. Found in {root}: {', '.join(there) or '-'}"


def verify(
    targets: Sequence[tuple[str, str]],
    root: str | Path,
    manifests: str | Path,
    settings: Prepare,
    workers: int | None = None,
    progress: bool = False,
) -> list[Checked]:
    """Check categories below ``root`` (``data/raw``) against themselves, against the published
    counts and against ``manifests/<dataset>/<category>/manifest.csv`` where that is there.

    ``workers`` threads read the files (None: one per CPU of this process); decoding and hashing
    run outside Python's lock. ``progress``: a bar on stderr, if that is a terminal.
    """
    root = Path(root)
    listings = [_list(root, *target, settings) for target in targets]
    total = sum(len(found.entries) for found in listings if isinstance(found, Listing))
    bar = tqdm(total=total, unit="image", disable=None if progress else True)
    checked = []
    with bar, ThreadPoolExecutor(workers or _cpus()) as pool:
        try:
            for (dataset, category), listing in zip(targets, listings, strict=True):
                folder = _folder(root, dataset, category, listing)
                if isinstance(listing, UserError):
                    message = str(listing).removeprefix(f"{folder}: ")
                    only = (problem("layout", folder, message),)
                    checked.append(Checked(dataset, category, None, 0, 0, (), only, 0.0))
                    continue
                bar.set_description(f"{dataset}/{category}")
                manifest = Path(manifests) / dataset / category / "manifest.csv"
                start = time.perf_counter()
                rule = mask_rule(dataset, listing, settings)
                seen, problems = _read_all(pool, listing, rule, bar)
                problems += [
                    problem("excluded", one.entry.path, one.reason) for one in listing.excluded
                ]
                problems += duplicates(seen) + about_images(seen, folder)
                problems += other_files(listing, folder)
                problems += compare_published(
                    dataset, category, listing, folder, settings.allow_partial
                )
                if not listing.has_masks:
                    problems.append(problem("no-masks", folder, "its anomalous images have none"))
                if manifest.is_file():
                    problems += compare_manifest(manifest, seen, root / dataset)
                checked.append(
                    Checked(
                        dataset,
                        category,
                        manifest if manifest.is_file() else None,
                        images=len(seen),
                        masks=sum(s.entry.mask_path is not None for s in seen),
                        seen=tuple(seen),
                        problems=_ordered(problems),
                        seconds=time.perf_counter() - start,
                    )
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return checked


def _list(root: Path, dataset: str, category: str, settings: Prepare) -> Listing | UserError:
    try:
        return list_category(root / dataset, dataset, category, settings)
    except UserError as error:
        return error


def _folder(root: Path, dataset: str, category: str, listing: Listing | UserError) -> Path:
    """Folder of a category, or that of the dataset if categories have no folders."""
    folder = root / dataset / category
    by_table = isinstance(listing, Listing) and listing.layout.split is not None
    return root / dataset if not folder.is_dir() and (by_table or category == dataset) else folder


def _read_all(
    pool: ThreadPoolExecutor, listing: Listing, rule: MaskRule, bar: tqdm
) -> tuple[list, list[Problem]]:
    """Every listed image with its mask, in their order, and what was wrong with each file."""
    seen = []
    for one in pool.map(see, listing.entries, repeat(listing.has_masks), repeat(rule)):
        seen.append(one)
        bar.update()
    problems = [found for one in seen for found in one.problems]
    problems += pool.map(see_unused_mask, listing.unused_masks)
    return seen, problems


def _ordered(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    rank = {kind: index for index, kind in enumerate(KINDS)}
    return tuple(sorted(problems, key=lambda p: (rank[p.kind], p.path.as_posix(), p.message)))


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
