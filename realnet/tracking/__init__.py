"""MLflow: a run per evaluation, a parent run per variant, the trained models, and a leaderboard.

The database is derived from `results/` and can be deleted. Only :func:`track` writes to it.
"""

from realnet.tracking.contents import cell_content, cells, matrix_of, run_params
from realnet.tracking.store import reminder, track, track_pending

__all__ = [
    "cell_content",
    "cells",
    "matrix_of",
    "reminder",
    "run_params",
    "track",
    "track_pending",
]
