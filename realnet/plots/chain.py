"""The earlier stages that a result depends on, from the ``stage.json`` files of the results."""

from pathlib import Path

from realnet import registry
from realnet.provenance.lineage import behind
from realnet.tables.runs import Results, Run

# In the order of the pipeline; without those that no evaluation depends on.
STAGES = tuple(name for name in registry.STAGES if name not in ("data", "sdas_check", "sia"))


def chain(results: Path, folder: Path) -> dict[str, Path]:
    """Stage -> its folder under ``results``, for the result in ``folder`` and all that it depends
    on, in the order of the pipeline."""
    found = behind(results, folder)
    return {stage: found[stage][0] for stage in sorted(found, key=_order)}


def _order(stage: str) -> tuple[int, str]:
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)


def chains(found: Results, results: Path, dataset: str) -> dict[Run, dict[str, Path]]:
    """The chain of every existing evaluation of a dataset."""
    return {
        run: chain(results, found.files[run].parent) for run in found.runs if run.dataset == dataset
    }


def reference(found: Results, dataset: str) -> dict[str, Path]:
    """Category -> folder of the evaluation of the reference variant and the first seed that has it.

    Categories without one are omitted.
    """
    folders = {}
    for category in found.categories[dataset]:
        for seed in found.matrix.seeds:
            run = Run(dataset, category, seed, found.matrix.variants[0])
            if run in found.runs:
                folders[category] = found.files[run].parent
                break
    return folders
