"""Reproducibility on another machine of the same kind, simulated on one machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from realnet.core.io import sha256

pytestmark = pytest.mark.pipeline

RUN = "demo/hex_nut/seed0/base"
TARGET = f"results/evaluate/{RUN}/metrics.json"
MADE = (
    "results/data/demo/hex_nut",
    "results/backbone/base",
    *(f"results/{stage}/{RUN}" for stage in ("ddpm", "sdas", "afs", "realnet", "evaluate")),
)
# Keys of a record that differ between runs. Each copy has its own commit.
OF_THE_RUN = ("wall_s", "peak_memory_mb", "finished", "git_commit", "sampling_s", "images_per_s")
# Python imports this module at startup if it finds it: it lists directories in another order.
SHUFFLED = """
import os, random
order = random.Random(7)
listdir, scandir = os.listdir, os.scandir

def shuffled(entries):
    entries = list(entries)
    order.shuffle(entries)
    return entries

class Scan:
    def __init__(self, path="."):
        with scandir(path) as entries:
            self.entries = iter(shuffled(entries))
    def __iter__(self): return self
    def __next__(self): return next(self.entries)
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def close(self): pass

os.listdir = lambda path=".": shuffled(listdir(path))
os.scandir = Scan
print("shuffled", file=open(os.environ["SHUFFLED"], "a"))
"""


def contents(root: Path) -> dict[str, str]:
    """Path -> digest of every file of the run; of records without times and costs."""
    found = {}
    for folder in MADE:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.name == "stage.json":
                record = json.loads(path.read_text())
                kept = {key: value for key, value in record.items() if key not in OF_THE_RUN}
                found[name] = json.dumps(kept, sort_keys=True)
            elif path.is_file():
                found[name] = sha256(path)
    return found


def test_results_do_not_depend_on_cores_folder_clock_or_file_order(finished, tmp_path):
    """One core instead of two (so other numbers of threads, where allowed), another depth of
    folders, another time zone, locale and hash seed, and directories listed in another order."""
    other = tmp_path / "another" / "and a much longer" / "name of the folder"
    subprocess.run(["git", "clone", "-q", str(finished.root), str(other)], check=True)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(SHUFFLED)
    settings = {
        "PYTHONPATH": str(hooks),
        "SHUFFLED": str(tmp_path / "shuffled"),
        "PYTHONHASHSEED": "12345",
        "TZ": "Pacific/Auckland",
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "2",
    }
    one_core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--", TARGET],
        cwd=other,
        env=os.environ | settings,
        preexec_fn=lambda: os.sched_setaffinity(0, {one_core}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    # Counts the workflow and each of its jobs.
    assert (tmp_path / "shuffled").read_text().count("shuffled") >= 8
    wanted, found = contents(finished.root), contents(other)
    assert {name for name in wanted if wanted[name] != found.get(name)} == set()
    assert set(found) == set(wanted) and len(found) > 40
