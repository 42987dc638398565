"""The request of `realnet metrics`: files and options."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realnet.metrics import LIMITS


@dataclass(frozen=True)
class Request:
    """What to measure: files, and options of the command line.

    ``scores``, ``masks``: see docs/metrics.md for all accepted forms; larger is more anomalous,
    masks are anomalous where > 0. ``labels``: .npy or .csv; default: the names of the folders,
    else whether the mask has an anomalous pixel. An image's score is the maximum of its map after
    ``pool`` x ``pool`` averaging (default 1), of the sigmoid of the map with ``logits``; unless it
    is given in ``image_scores``, or in a scores.npz and ``pool`` is not given.

    ``limits``: of PRO, the headline first; ``pro_limit``: the headline, if it is another one.
    ``compat``: also the official metrics, of probabilities or (``logits``) of their logits.
    """

    scores: Path
    masks: Path | None = None
    labels: Path | None = None
    pool: int | None = None
    pro_limit: float | None = None
    limits: Sequence[float] = LIMITS
    image_scores: Path | None = None
    resize: str | None = None  # "masks" or "maps"
    compat: bool = False
    logits: bool = False
    resamples: int = 1000
    seed: int = 0
    suffix: str = ""
    subset: bool = False
