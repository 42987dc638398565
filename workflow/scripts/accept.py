"""Results of which only the code has changed: finding them and marking them as current.

Snakemake keeps, for each result, the inputs, parameters and command of the job that made it. A
result is accepted when Snakemake records it again with the present ones; nothing is computed, and
no result file is touched.
"""

import os
from typing import Any

from realnet.provenance.stage_code import FOLDER

OLD_CODE = "realnet/"  # version 0.1.0 had the modules themselves as inputs


def code_only(workflow: Any, old: bool = False) -> list[Any]:
    """Jobs that Snakemake would rerun only because their code differs from the recorded one.

    old: only those whose results were made by version 0.1.0.
    """
    jobs = [job for job in workflow.dag.needrun_jobs() if not old or _is_old(workflow, job)]
    return [job for job in jobs if _is_code_only(workflow, job)]


def others(workflow: Any, jobs: list[Any]) -> int:
    """Number of further jobs that Snakemake would run; targets without results are not counted."""
    return sum(bool(job.output) for job in workflow.dag.needrun_jobs()) - len(jobs)


def _is_old(workflow: Any, job: Any) -> bool:
    return any(path.startswith(OLD_CODE) for path in _recorded(workflow, job))


def accept(workflow: Any, jobs: list[Any]) -> None:
    """Record the results of these jobs as made by the present code."""
    for job in jobs:
        workflow.async_run(workflow.persistence.finished(job))


def _is_code_only(workflow: Any, job: Any) -> bool:
    persistence, reason = workflow.persistence, workflow.dag.reason(job)
    if reason.forced or reason.incomplete_output or not job.output:
        return False
    if not all(os.path.exists(path) for path in job.output) or not persistence.has_metadata(job):
        return False
    if persistence.params_changed(job):
        return False
    recorded = {path for path in _recorded(workflow, job) if not _is_code(path)}
    inputs = [path for path in job.input if not _is_code(path)]
    return recorded == set(inputs) and all(_is_same(workflow, job, path) for path in inputs)


def _is_same(workflow: Any, job: Any, path: Any) -> bool:
    """Whether an input is the one that the job has read: by its checksum, or older than results."""
    if not os.path.exists(path):
        return False
    if os.path.getmtime(path) <= min(os.path.getmtime(output) for output in job.output):
        return True
    checksums = workflow.persistence.input_checksums(job, path)
    limit = workflow.dag_settings.max_checksum_file_size
    same = (path.is_same_checksum(checksum, limit) for checksum in checksums)
    return bool(checksums) and all(workflow.async_run(one) for one in same)


def _recorded(workflow: Any, job: Any) -> set[str]:
    """Inputs of the job that made the results, in Snakemake's own records."""
    return {path for output in job.output for path in workflow.persistence.input(output) or ()}


def _is_code(path: str) -> bool:
    return path.startswith((OLD_CODE, f"{FOLDER}/"))
