"""Shared by the scripts of other implementations, which time themselves in their own process.

Each is called as ``python SCRIPT.py FOLDER [--repeat N]``, possibly with the interpreter of another
environment, and prints one line of JSON. FOLDER holds margins.npy (float32) and masks.npy (bool),
both [N, H, W].
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def load(folder: str | Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(Path(folder) / "margins.npy"), np.load(Path(folder) / "masks.npy")


def timed(function: Callable, repeat: int, warm: int = 1) -> tuple[object, list[float]]:
    """The last result, and the seconds of ``repeat`` calls after ``warm`` ones."""
    seconds = []
    for turn in range(warm + repeat):
        start = time.perf_counter()
        result = function()
        if turn >= warm:
            seconds.append(time.perf_counter() - start)
    return result, seconds


def arguments(repeat: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--repeat", type=int, default=repeat)
    return parser


def answer(**fields) -> None:
    """``rows``: list of {name, what, seconds, value}; ``versions``: {package: version}."""
    print(json.dumps(fields))
