"""Overhead of the workflow: planning, status and no-op runs, and the start of each job.

    python benchmarks/bench_dag.py [--sizes 3x1x3 12x3x8 36x3x8] [--rounds N]
    python benchmarks/bench_dag.py --jobs [--rounds N]

Sizes are categories x seeds x variants, of the four published datasets with all their images (tiny
placeholders). Created in a temporary copy of the project: the trees and, for the no-op run, empty
outputs with the right names, accepted by ``--touch``. The Snakefile, its planning and Snakemake's
metadata about files are the real ones.

``--jobs`` runs the DAG at smoke scale, then starts the command of each stage again and stops it at
its first batch: the first step of its loop or, without one, the first call of a network.
"""

import argparse
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from checkout import copy_files
from trees import make_tree
from trees import table as published

VARIANTS = ("base", "texture", "afs_random", "afs_pca", "rrs_none", "rrs_max", "no_ranking_norm")
VARIANTS += ("patchcore",)
# Run as `python -c START <arguments of realnet>`; prints when the first batch begins.
START = """
import os, sys
def first(*_):
    os.write(1, b"first batch\\n")
    os._exit(0)
import realnet.core.progress as bars
if sys.argv[1] in ("evaluate", "patchcore"):
    import torch
    torch.nn.modules.module.register_module_forward_pre_hook(first)
elif sys.argv[1:3] == ["data", "prepare"]:
    import realnet.datasets.images as images
    images.read_image = first
else:
    whole = bars.progress
    def progress(*arguments):
        for step in whole(*arguments):
            first()
            yield step
    bars.progress = progress
from realnet.cli import main
main()
"""


def measured(command: list[str], folder: Path) -> tuple[float, float, float, str]:
    """Wall and CPU seconds, peak MiB (children included) and the output of a command."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        job = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(job.pid, 0)
        wall = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if status:
        raise SystemExit(f"{shlex.join(command)}: {text[-3000:]}")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, text


def best(command: list[str], folder: Path, rounds: int) -> tuple[float, float, float, str]:
    """The round with the least CPU time: other load on the machine can only add."""
    return min((measured(command, folder) for _ in range(rounds)), key=lambda found: found[1])


# --- planning ------------------------------------------------------------------------------------


def trees(root: Path, categories: int) -> dict[str, list[str]]:
    """Placeholders for the first ``categories`` published categories, and their matrix."""
    names = [(d, c) for d in ("mvtec_ad", "mpdd", "btad", "visa") for c in published()[d]]
    matrix: dict[str, list[str]] = {}
    for dataset, category in names[:categories]:
        matrix.setdefault(dataset, []).append(category)
    for dataset, chosen in matrix.items():
        make_tree(dataset, root / dataset, chosen, size=(8, 8))
    return matrix


def plan(size: str, rounds: int, work: Path) -> list[str]:
    """One row of the table."""
    categories, seeds, variants = map(int, size.split("x"))
    folder = copy_files(work / size)
    matrix = trees(folder / "data/raw", categories)
    datasets = ", ".join(f"{d}: [{', '.join(f'{c!r}' for c in cs)}]" for d, cs in matrix.items())
    experiment = (
        f"experiment={{datasets: {{{datasets}}}, seeds: {list(range(seeds))},"
        f" variants: [{', '.join(VARIANTS[:variants])}]}}"
    )
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    config = ["--config", "preset=smoke", experiment]

    planning = best([*command, "-n", "--quiet", "rules", "reason", *config], folder, rounds)
    status = best([*command, "--summary", *config], folder, rounds)
    outputs = re.findall(r"^(results/\S+)\t", status[3], flags=re.MULTILINE)
    for name in outputs:
        path = folder / name if Path(name).suffix else folder / name / "00000.png"  # a directory
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    touched = measured([*command, "--touch", "--forceall", *config], folder)
    nothing = best([*command, *config], folder, rounds)
    if "Nothing to be done" not in nothing[3]:
        raise SystemExit(f"{size}: there was something to do\n{nothing[3][-2000:]}")
    jobs = re.search(r"^total\s+(\d+)$", planning[3], flags=re.MULTILINE).group(1)
    shutil.rmtree(folder)
    cells = [f"{wall:.1f} / {cpu:.1f} s" for wall, cpu, *_ in (planning, status, nothing)]
    cells += [f"{touched[0]:.0f} s", f"{max(planning[2], nothing[2]):.0f} MiB"]
    return [size.replace("x", " × "), jobs, str(len(outputs)), *cells]


# --- jobs ----------------------------------------------------------------------------------------


def jobs(rounds: int, work: Path) -> list[list[str]]:
    """Rows of stage, wall and CPU seconds to the first batch, and peak memory."""
    folder = copy_files(work / "jobs")
    targets = [
        f"results/evaluate/demo/hex_nut/seed0/{name}/metrics.json" for name in ("base", "patchcore")
    ]
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", "preset=smoke"]
    measured([*command, "--", *targets], folder)
    shown = measured([*command, "-n", "-p", "--forceall", "--", *targets], folder)[3]
    found: dict[str, list[str]] = {}
    for words in re.findall(r"-m realnet ((?!\.).*?) > results/logs", shown):
        arguments = shlex.split(words)
        stage = " ".join(arguments[:2]) if arguments[0] == "data" else arguments[0]
        found.setdefault(stage, arguments)
    rows = []
    for stage, arguments in found.items():
        walls, cpus, peaks, _ = zip(
            *(measured([sys.executable, "-c", START, *arguments], folder) for _ in range(rounds)),
            strict=True,
        )
        middle = [f"{statistics.median(values):.1f} s" for values in (walls, cpus)]
        rows.append([stage, *middle, f"{max(peaks):.0f} MiB"])
    return [*rows, *overhead(work, rounds)]


def overhead(work: Path, rounds: int, count: int = 60) -> list[list[str]]:
    """Snakemake's overhead per job, measured with jobs that do nothing."""
    folder = work / "empty"
    folder.mkdir()
    text = 'rule all:\n    input: expand("{n}", n=range(%d))\nrule one:\n    output: "{n}"\n'
    text += '    shell: "touch {output}"\n'
    seconds = []
    for _ in range(rounds):
        pair = []
        for number in (1, count):
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            (folder / "Snakefile").write_text(text % number)
            pair.append(
                measured([sys.executable, "-m", "snakemake", "--cores", "1", "--quiet"], folder)
            )
        seconds.append(
            [(b - a) / (count - 1) for a, b in zip(pair[0][:2], pair[1][:2], strict=True)]
        )
    wall, cpu = (statistics.median(values) for values in zip(*seconds, strict=True))
    return [["Snakemake, per job", f"{wall:.2f} s", f"{cpu:.2f} s", ""]]


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["3x1x3", "12x3x8", "36x3x8"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--jobs", action="store_true", help="start of each stage, not planning")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.jobs:
            head = ["job", "wall", "CPU", "peak memory"]
            print(table(head, jobs(arguments.rounds, Path(temporary))))
            return
        head = ["categories × seeds × variants", "jobs", "files", "plan (`-n`)"]
        head += ["status (`--summary`)", "no-op run", "`--touch`", "peak memory"]
        rows = []
        for size in arguments.sizes:
            rows.append(plan(size, arguments.rounds, Path(temporary)))
            print(table(head, rows[-1:]), flush=True)
        print(f"\n{table(head, rows)}\n\nwall / CPU seconds, of the round with the least CPU time")


if __name__ == "__main__":
    main()
