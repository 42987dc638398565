"""From a category's folders to its manifest: every file checked, listed and hashed."""

import sys

from realnet.config.stage_params import DataParams
from realnet.datasets.manifest import build, left_out, write
from realnet.stages.job import Job


def run(job: Job[DataParams]) -> None:
    """Check every file of a category, then write ``manifest.csv`` and ``summary.json``.

    Inputs: ``raw``, the dataset's folder with one folder per category. Images are listed, not
    copied. UserError, before anything is written: see :func:`realnet.datasets.manifest.build`.
    """
    manifest = build(job.inputs["raw"], job.dataset, job.category, job.params.prepare)
    write(job.out, manifest)
    for line in left_out(manifest.summary):
        print(f"realnet data prepare: {job.name}: {line}", file=sys.stderr)
    for line in manifest.differs or ():
        print(f"realnet data prepare: {job.name}: {line} (allowed)", file=sys.stderr)
