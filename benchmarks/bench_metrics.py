"""The pixel metrics compared with other implementations, on one category of 83 x 256 x 256.

    python benchmarks/bench_metrics.py [--small] [--full] [--out TABLE.md]
        [--anomalib-python peers/bin/python]

Ours is *everything* in one call: pixel AUROC, AP and F1-max, and AU-PRO at five limits. The others
compute what their row says. The lower bound is `np.sort` of the normal scores.

anomalib, ADEval and the loops over thresholds need other packages
(requirements-anomalib.txt): pass their interpreter with ``--anomalib-python``; without it they are
skipped. The loops take minutes, so a part of their thresholds is evaluated and the time scaled,
unless with ``--full``. Everything is warmed up and repeated; ours and the lower bound also between
the others, to reduce the effect of other load. Times are minimum and median. Memory is measured in
separate processes, beyond scores and masks.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from metric_data import category
from peer import load, timed

from realnet import metrics
from realnet.metrics.official import pro_official

HERE = Path(__file__).parent
OURS, FLOOR = "ours: everything", "np.sort of the normal scores"


@dataclass(frozen=True)
class Row:
    name: str
    what: str
    seconds: list[float]
    value: float | None = None  # of the metric that `what` names first


def everything(margins: np.ndarray, masks: np.ndarray) -> tuple:
    found = metrics.localise(margins, masks)
    return found.pro, found.auroc, found.ap, found.f1_max


def streamed(margins: np.ndarray, masks: np.ndarray, size: int = 8) -> float:
    defects = metrics.DefectPixels()
    cuts = [(k, slice(k, k + size)) for k in range(0, len(margins), size)]
    for first, cut in cuts:
        defects.add(margins[cut], masks[cut], first)
    counts = metrics.NormalCounts(defects)
    for first, cut in cuts:
        counts.add(margins[cut], masks[cut], first)
    return counts.localisation().pro[0.3]


def here(margins: np.ndarray, masks: np.ndarray, repeat: int) -> list[Row]:
    """What needs no other packages than this project's own."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    pro, auroc, ap, _ = everything(margins, masks)
    known = timed(lambda: metrics.label_regions(masks), 3 * repeat)[1]
    # Other masks each time, so that nothing is cached.
    others = iter([np.roll(masks, turn, axis=0) for turn in range(1, repeat + 2)])
    labelled = timed(lambda: metrics.label_regions(next(others)), repeat)[1]
    stream, streaming = timed(lambda: streamed(margins, masks), repeat)
    truth, flat = masks.ravel(), margins.ravel()
    area, roc = timed(lambda: roc_auc_score(truth, flat), 3, warm=0)
    precision, pr = timed(lambda: average_precision_score(truth, flat), 3, warm=0)
    rows = [
        *ours_and_floor(margins, masks, repeat),
        Row("ours: regions remembered", "hash of the masks; part of the above", known),
        Row("ours: regions labelled", "once per dataset", labelled),
        Row(
            "ours: streaming, 8 images a batch", "as the first line, two passes", streaming, stream
        ),
        Row("sklearn roc_auc_score", "AUROC", roc, float(area)),
        Row("sklearn average_precision_score", "AP", pr, float(precision)),
    ]
    rows += uncertainty(margins, masks)
    _agree(auroc, area, "AUROC")
    _agree(ap, precision, "AP")
    _agree(stream, pro[0.3], "AU-PRO, streaming")
    return rows


def ours_and_floor(margins: np.ndarray, masks: np.ndarray, repeat: int) -> list[Row]:
    (pro, *_), ours = timed(lambda: everything(margins, masks), repeat, warm=2)
    normal = margins[~masks]
    _, floor = timed(lambda: np.sort(normal), repeat, warm=2)
    return [
        Row(OURS, "AU-PRO at 5 limits, AUROC, AP, F1-max", ours, pro[0.3]),
        Row(FLOOR, "the floor", floor),
    ]


def uncertainty(margins: np.ndarray, masks: np.ndarray) -> list[Row]:
    labels = masks.any((1, 2))
    scores, strata = margins.max((1, 2)), ["bad" if bad else "good" for bad in labels]
    stats, counted = timed(
        lambda: metrics.per_image(margins, masks, scores, labels, strata), 3, warm=1
    )
    _, drawn = timed(lambda: [metrics.bootstrap(stats, m) for m in metrics.BOOTSTRAPPED], 3, warm=1)
    return [
        Row("ours: statistics per image", "once per evaluation, for intervals", counted),
        Row("ours: image bootstrap", "5 metrics x 1000 resamples", drawn),
    ]


def _agree(first: float, second: float, name: str) -> None:
    if abs(first - second) > 1e-12:
        print(f"{name}: {first!r} is not {second!r}", file=sys.stderr)


def elsewhere(python: str, script: str, folder: Path, *options: str) -> tuple[list[Row], dict]:
    """Rows and versions of a peer, or nothing with a line that says why."""
    command = [python, str(HERE / script), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{script}: left out: {reason}", file=sys.stderr)
        return [], {}
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return [Row(**row) for row in answer["rows"]], answer["versions"]


# --- memory --------------------------------------------------------------------------------------


def memory(folder: Path) -> dict[str, float]:
    """Bytes per pixel beyond scores and masks, first call (labels included), by two measures."""
    result = {}
    for measure in ("allocated", "resident"):
        command = [sys.executable, __file__, "--memory", measure, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result[measure] = float(done.stdout)
    return result


def measure_memory(measure: str, folder: str) -> float:
    margins, masks = load(folder)
    warm = np.zeros((4, 8, 8), bool)
    warm[1:, :2] = True
    everything(np.arange(256, dtype=np.float32).reshape(warm.shape), warm)  # code and threads
    if measure == "allocated":
        tracemalloc.start()
        everything(margins, masks)
        return tracemalloc.get_traced_memory()[1] / margins.size
    before = _status("VmRSS")
    everything(margins, masks)
    return (_status("VmHWM") - before) / margins.size


def _status(field: str) -> int:
    """Of this process, in bytes, where the kernel reports it (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


# --- output --------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    ours = next(row for row in rows if row.name == OURS)
    floor = next(row for row in rows if row.name == FLOOR)
    head = ["", "computes", "least", "median", "x ours, least", "x ours, median", "value"]
    body = [head, ["---", "---", *["---:"] * 5]]
    for row in rows:
        least, median = min(row.seconds), statistics.median(row.seconds)
        body.append(
            [
                row.name,
                row.what,
                _time(least),
                _time(median),
                f"{least / min(ours.seconds):.2f}",
                f"{median / statistics.median(ours.seconds):.2f}",
                "" if row.value is None or row.value != row.value else f"{row.value:.6f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in body
    ]
    least = min(ours.seconds) / min(floor.seconds)
    median = statistics.median(ours.seconds) / statistics.median(floor.seconds)
    return "\n".join([*lines, "", f"Ours / np.sort: {least:.2f} (least), {median:.2f} (median)."])


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load_now = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return f"{model}, {cores} cores; load {load_now}; Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="20 images of 128 px, a few seconds")
    parser.add_argument("--full", action="store_true", help="every threshold of the slow loops")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--anomalib-python", metavar="PATH", help="interpreter that has the peers")
    parser.add_argument("--out", type=Path, metavar="TABLE.md", help="also write the table there")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        print(measure_memory(*given.memory))
        return
    before = machine()
    margins, masks = category(20, 128) if given.small else category()
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "scikit-learn")}
    rows = here(margins, masks, given.repeat)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "margins.npy", margins)
        np.save(folder / "masks.npy", masks)
        if given.anomalib_python:
            part = () if given.full else ("--part", "20")
            for script, options in (
                ("anomalib_aupro.py", ()),
                ("adeval_aupro.py", ()),
                ("threshold_loops.py", part),
            ):
                found, used = elsewhere(given.anomalib_python, script, folder, *options)
                rows, versions = rows + found, versions | used
                for row, again in zip(
                    rows[:2], ours_and_floor(margins, masks, given.repeat), strict=True
                ):
                    row.seconds.extend(again.seconds)
        used = memory(folder)
    share = f"{masks.mean():.1%} anomalous, {metrics.label_regions(masks).count} regions"
    shape = " x ".join(map(str, margins.shape))
    packages = ", ".join(itertools.starmap("{} {}".format, versions.items()))
    text = "\n".join(
        [
            f"{shape} = {margins.size:,} pixels, {share}, float32 logits.",
            f"{before}; {packages}.",
            "",
            table(rows),
            f"Memory beyond the input, labelling included: {used['allocated']:.1f} bytes a pixel"
            f" allocated, {used['resident']:.1f} resident, at the peak.",
        ]
    )
    print(text)
    if given.full:
        print(f"official PRO as this project computes it: {pro_official(margins, masks):.6f}")
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
