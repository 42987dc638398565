"""Size of common errors in metrics of anomaly maps: docs/metrics_pitfalls.md's tables.

    python benchmarks/metric_pitfalls.py [--write] [--figure FILE.png] [--scores FILE] [NAME …]

Prints every table, or those named. ``--write`` puts them into the page, between its marks. Small
made maps, the same every time; a minute at most. ``--scores`` takes a scores.npz of the benchmark
instead, for the two tables that are about the distribution of scores. What is compared with the
exact metrics of realnet.metrics are restatements, in as few lines as possible, of what
is done elsewhere.
"""

import argparse
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from realnet.evaluation.maps import Request, measure
from realnet.evaluation.maps.table import table as measured_table
from realnet.evaluation.stored import pixel_labelled
from realnet.metrics import image_ap, image_auroc, localise, pixel_metrics
from realnet.metrics.official import pro_official

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, DEFINITIONS = DOCS / "metrics_pitfalls.md", DOCS / "metrics.md"
LIMIT = 0.3
CONFIDENCE = np.float32(3)  # factor on the logits: another calibration, the same ranking
Maps = tuple[np.ndarray, np.ndarray, np.ndarray]  # logits, masks, confident softmax
Table = list[list[str]]  # the heading, then the rows


# --- what is done elsewhere ----------------------------------------------------------------------


def linear_thresholds(maps: np.ndarray, count: int) -> np.ndarray:
    """Evenly from the largest score down, as most loops have them."""
    return np.linspace(maps.max(), maps.min(), count, endpoint=False, dtype=np.float64)


def quantile_thresholds(maps: np.ndarray, masks: np.ndarray, count: int) -> np.ndarray:
    """At even ranks of the normal scores."""
    ascending = np.sort(maps[~masks])
    return ascending[np.linspace(len(ascending) - 1, 0, count).round().astype(int)]


def curve_at(
    maps: np.ndarray, masks: np.ndarray, thresholds: np.ndarray, connectivity: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """False positive rate and mean overlap per region of ``score >= threshold``, descending."""
    normal = np.sort(maps[~masks])
    rates = 1 - np.searchsorted(normal, thresholds) / len(normal)
    overlaps = []
    for scores, mask in zip(maps, masks, strict=True):
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)
        for region in range(1, count):
            inside = np.sort(scores[labels == region])
            overlaps.append(1 - np.searchsorted(inside, thresholds) / len(inside))
    return rates, np.mean(overlaps, axis=0)


def stretched(rates: np.ndarray, overlaps: np.ndarray) -> float:
    """The rates that were reached up to the limit become [0, 1]."""
    kept = rates <= LIMIT
    rates, overlaps = rates[kept], overlaps[kept]
    return float(np.trapezoid(overlaps, (rates - rates[0]) / (rates[-1] - rates[0])))


def over_reached(rates: np.ndarray, overlaps: np.ndarray) -> float:
    """The area from 0, over the largest rate that was reached."""
    kept = np.r_[True, rates <= LIMIT]
    rates, overlaps = np.r_[0, rates][kept], np.r_[0, overlaps][kept]
    return float(np.trapezoid(overlaps, rates) / rates[-1])


def cut_short(rates: np.ndarray, overlaps: np.ndarray) -> float:
    """Over the limit, but the area ends at the last threshold before it."""
    kept = np.r_[True, rates <= LIMIT]
    return float(np.trapezoid(np.r_[0, overlaps][kept], np.r_[0, rates][kept]) / LIMIT)


def interpolated(rates: np.ndarray, overlaps: np.ndarray) -> float:
    """Over the limit, with the curve's value there."""
    rates, overlaps = np.r_[0, rates, 1], np.r_[0, overlaps, 1]
    kept = rates < LIMIT
    end = np.interp(LIMIT, rates, overlaps)
    return float(np.trapezoid(np.r_[overlaps[kept], end], np.r_[rates[kept], LIMIT]) / LIMIT)


def histogram_pro(maps: np.ndarray, masks: np.ndarray, bins: int) -> float:
    """From histograms of equal bins, closed at both ends."""
    edges = np.linspace(maps.min(), maps.max(), bins + 1)[:-1][::-1]
    return interpolated(*curve_at(maps, masks, edges))


def linear_f1(maps: np.ndarray, masks: np.ndarray, count: int) -> float:
    best = 0.0
    for threshold in np.linspace(maps.min(), maps.max(), count):
        flagged = maps >= threshold
        best = max(best, 2 * float((flagged & masks).sum() / (flagged.sum() + masks.sum())))
    return best


def trapezoid_ap(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the line through the points of precision and recall, from (0, 1)."""
    thresholds = np.unique(scores)[::-1]
    flagged = scores >= thresholds[:, None]
    hits = (flagged & labels).sum(1)
    return float(np.trapezoid(np.r_[1, hits / flagged.sum(1)], np.r_[0, hits / labels.sum()]))


def hidden_sigmoid(scores: np.ndarray) -> np.ndarray:
    """Applied, in float32, to any batch that has a score outside [0, 1]."""
    outside = scores.min() < 0 or scores.max() > 1
    return softmax(scores.astype(np.float32)) if outside else scores.astype(np.float32)


# --- the tables ----------------------------------------------------------------------------------


def maps() -> Maps:
    """32 images of 128 pixels: logits float32, masks bool, and a confident softmax of the logits.

    Every fourth image is normal. Defects are ellipses, some of the large ones rings; each raises
    smooth noise, some barely, with a halo around. Normal pixels have logits around -6.
    """
    generator = np.random.default_rng(7)
    logits = np.empty((32, 128, 128), np.float32)
    masks = np.zeros(logits.shape, np.uint8)
    for index, (logit, mask) in enumerate(zip(logits, masks, strict=True)):
        noise = cv2.GaussianBlur(generator.normal(size=logit.shape), (0, 0), 5)
        logit[:] = 3.5 * noise / noise.std() + 0.5 * generator.normal(size=logit.shape) - 6
        for _ in range(generator.integers(1, 5) if index % 4 else 0):
            radius = np.exp(generator.uniform(np.log(3), np.log(30)))
            axes = [max(1, round(radius * ratio)) for ratio in (1, generator.uniform(0.4, 1))]
            centre, angle = generator.integers(0, 128, 2).tolist(), generator.uniform(0, 180)
            shape = np.zeros(mask.shape, np.uint8)
            cv2.ellipse(shape, centre, axes, angle, 0, 360, 1, -1)
            if radius > 8 and generator.random() < 0.5:
                inner = [max(1, round(0.6 * axis)) for axis in axes]
                cv2.ellipse(shape, centre, inner, angle, 0, 360, 0, -1)
            np.maximum(mask, shape, out=mask)
            halo = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), 2)
            logit[:] = logit + generator.uniform(2, 14) * halo
    return logits, masks > 0, softmax(CONFIDENCE * logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    """The anomaly channel of a two-class softmax, in the dtype of the logits."""
    return 1 / (1 + np.exp(-logits))


def linear(given: Maps | None = None) -> Table:
    logits, masks, confident = given or maps()
    rows: list[tuple[str, Callable[[np.ndarray], float]]] = [
        ("exact (ranks)", lambda m: pixel_metrics(m, masks)["pro"]),
        ("100 thresholds at even ranks",
         lambda m: interpolated(*curve_at(m, masks, quantile_thresholds(m, masks, 100)))),
        ("1000 equal bins, interpolated", lambda m: histogram_pro(m, masks, 1000)),
        ("50 equal bins, interpolated", lambda m: histogram_pro(m, masks, 50)),
        ("1000 linear thresholds, stretched",
         lambda m: stretched(*curve_at(m, masks, linear_thresholds(m, 1000)))),
        ("1000 linear thresholds, stretched, holes filled", lambda m: pro_official(m, masks)),
        ("200 linear thresholds, stretched",
         lambda m: stretched(*curve_at(m, masks, linear_thresholds(m, 200)))),
    ]  # fmt: skip
    table = [["AU-PRO up to 0.3", "logits", "softmax", "confident softmax", "difference"]]
    for name, measured in rows:
        values = [measured(m) for m in (logits, softmax(logits), confident)]
        table.append([name, *(f"{v:.4f}" for v in values), f"{values[-1] - values[0]:+.4f}"])
    return table


def limit() -> Table:
    logits, masks, confident = maps()
    exact = pixel_metrics(logits, masks)["pro"]
    table = [["thresholds", "last rate up to 0.3", "stretched", "over reached", "cut short",
              "interpolated", "exact"]]  # fmt: skip
    for name, values in (("logits", logits), ("confident softmax", confident)):
        for count in (1000, 50):
            rates, overlaps = curve_at(values, masks, linear_thresholds(values, count))
            found = [f(rates, overlaps) for f in (stretched, over_reached, cut_short, interpolated)]
            last = rates[rates <= LIMIT][-1]
            numbers = [f"{value:.4f}" for value in (last, *found, exact)]
            table.append([f"{count} on {name}", *numbers])
    return table


def annulus() -> Table:
    """Rings: hits in the filled region over the area without the hole."""
    y, x = np.mgrid[:96, :96]
    distance = np.hypot(y - 48, x - 48)
    ring = (distance > 14) & (distance < 24)
    blob = distance < 24
    noise = np.random.default_rng(0).normal(size=ring.shape)
    alone = (ring[None], (noise + 8 * blob)[None].astype(np.float32))
    logits, masks, _ = maps()
    table = [["test set", "exact", "filled region over area"]]
    rows = [
        ("one ring, whole disc flagged", *alone),
        ("32 images, some with rings", masks, logits),
    ]
    holes = np.array([_filled(mask) for mask in masks])
    rows.append(("the same, holes filled in the masks", holes, logits))
    for name, truth, scores in rows:
        exact = pixel_metrics(scores, truth)["pro"]
        rates, overlaps = _filled_curve(scores, truth, quantile_thresholds(scores, truth, 5000))
        table.append([name, f"{exact:.4f}", f"{interpolated(rates, overlaps):.4f}"])
    return table


def _filled(mask: np.ndarray) -> np.ndarray:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, -1) > 0


def _filled_curve(
    scores: np.ndarray, masks: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    normal = np.sort(scores[~masks])
    rates = 1 - np.searchsorted(normal, thresholds) / len(normal)
    overlaps = []
    for values, mask in zip(scores, masks, strict=True):
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        for region in (labels == k for k in range(1, count)):
            inside = np.sort(values[_filled(region)])
            hits = len(inside) - np.searchsorted(inside, thresholds)
            overlaps.append(hits / region.sum())
    return rates, np.mean(overlaps, axis=0)


def connectivity() -> Table:
    """A diagonal scratch, found, and a stain, missed."""
    masks = np.zeros((2, 64, 64), bool)
    masks[0, np.arange(10, 50), np.arange(10, 50)] = True
    masks[1, 20:40, 20:40] = True
    scores = np.random.default_rng(0).normal(size=masks.shape)
    scores[0][masks[0]] += 6
    scores = scores.astype(np.float32)
    table = [["neighbours", "regions", "AU-PRO up to 0.3"]]
    for neighbours in (8, 4):
        counts = [
            cv2.connectedComponents(mask.astype(np.uint8), connectivity=neighbours)[0] - 1
            for mask in masks
        ]
        thresholds = np.unique(scores)[::-1]
        value = interpolated(*curve_at(scores, masks, thresholds, neighbours))
        table.append([str(neighbours), str(sum(counts)), f"{value:.4f}"])
    return table


def flip() -> Table:
    generator = np.random.default_rng(0)
    labels = np.r_[np.zeros(20, int), np.ones(60, int)]
    inverted = image_auroc(generator.normal(size=80) - 2.7 * labels, labels)
    chance = [image_auroc(generator.normal(size=80), labels) for _ in range(1000)]
    table = [["detector", "AUROC", "max(AUROC, 1 - AUROC)"]]
    table.append(["ranks defects lowest", f"{inverted:.4f}", f"{max(inverted, 1 - inverted):.4f}"])
    flipped = np.maximum(chance, 1 - np.array(chance)).mean()
    table.append(["guesses, mean of 1000", f"{np.mean(chance):.4f}", f"{flipped:.4f}"])
    return table


def sigmoid() -> Table:
    generator = np.random.default_rng(0)
    labels = np.tile([0, 0, 0, 1], 50)
    table = [["scores", "as they are", "through the sigmoid"]]
    good = 20 + 3 * labels + generator.random(200) * 2
    logits = 3 * labels + generator.normal(size=200)
    for name, scores, size in (
        ("20 to 25, perfectly ranked", good, 200),
        ("logits around 0, one batch", logits, 200),
        ("distances from 0.5 to 1.2, in batches of 8", 0.75 + logits / 15, 8),
    ):
        seen = np.concatenate([hidden_sigmoid(b) for b in np.split(scores, 200 // size)])
        values = image_auroc(scores, labels), image_auroc(seen, labels)
        table.append([name, *(f"{value:.4f}" for value in values)])
    return table


def f1() -> Table:
    logits, masks, confident = maps()
    table = [["thresholds", "logits", "softmax", "confident softmax"]]
    rows: list[tuple[str, Callable[[np.ndarray], float]]] = [
        ("every score", lambda m: pixel_metrics(m, masks)["pixel_f1_max"]),
        ("201 linear", lambda m: linear_f1(m, masks, 201)),
        ("21 linear", lambda m: linear_f1(m, masks, 21)),
    ]
    for name, measured in rows:
        values = [measured(m) for m in (logits, softmax(logits), confident)]
        table.append([name, *(f"{value:.4f}" for value in values)])
    return table


def storage(given: Maps | None = None) -> Table:
    logits, masks, confident = given or maps()
    stored = (
        ("float32 logits", logits),
        ("float16 logits", logits.astype(np.float16)),
        ("8-bit logits, smallest to largest", _eight_bits(logits)),
        ("float32 confident softmax", confident),
        ("float16 confident softmax", confident.astype(np.float16)),
        ("8-bit confident softmax", (confident * 255).round().astype(np.uint8)),
    )
    table = [["stored as", "values", "tied pairs", "AU-PRO up to 0.3", "pixel AP", "pixel AUROC"]]
    for name, values in stored:
        found = localise(values, masks, (LIMIT,))
        ranks = found.ranks
        ties = ((ranks.reaching - ranks.above) * ranks.thresholds.counts).sum()
        share = ties / (found.defect_pixels * found.normal_pixels)
        numbers = [found.pro[LIMIT], found.ap, found.auroc]
        table.append(
            [name, f"{len(np.unique(values)):,}", f"{share:.4%}", *(f"{n:.4f}" for n in numbers)]
        )
    return table


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return ((values - values.min()) / np.ptp(values) * 255).round().astype(np.uint8)


def labels() -> Table:
    """Scratches of 1 to 3 pixels in images of 512, masks resized to 128."""
    generator = np.random.default_rng(4)
    truth, lost, scores = [], [], []
    for index in range(60):
        mask = np.zeros((512, 512), np.uint8)
        defective = index >= 20
        if defective:
            ends = generator.integers(40, 470, 2)
            length = generator.integers(6, 60)
            along = (int(ends[0] + length), int(ends[1]))  # horizontal: rows may fall between
            cv2.line(mask, tuple(map(int, ends)), along, 1, int(generator.integers(1, 4)))
        small = mask[2::4, 2::4]  # nearest
        truth.append(int(defective))
        lost.append(int(defective and not small.any()))
        scores.append(generator.normal() + 2.2 * defective * (0.3 if lost[-1] else 1))
    truth, lost, scores = np.array(truth), np.array(lost), np.array(scores)
    table = [["label of an image", "normal", "anomalous", "image AUROC"]]
    for name, given in (
        ("its folder", truth), ("whether its resized mask has a pixel", truth - lost),
        ("its folder, lost ones left out", None),
    ):  # fmt: skip
        kept = lost == 0 if given is None else np.ones(60, bool)
        now = truth if given is None else given
        value = image_auroc(scores[kept], now[kept])
        table.append(
            [name, str(int((now[kept] == 0).sum())), str(int(now[kept].sum())), f"{value:.4f}"]
        )
    return table


def precision() -> Table:
    generator = np.random.default_rng(0)
    table = [["scores", "anomalous", "AP (steps)", "area (trapezoid)"]]
    some = np.r_[np.zeros(70, bool), np.ones(30, bool)]
    few = np.r_[np.zeros(95, bool), np.ones(5, bool)]
    for name, scores, truth in (
        ("all equal", np.zeros(100), some),
        ("rounded to 3 values", (generator.normal(size=100) + some).clip(-1, 1).round(), some),
        ("distinct", generator.normal(size=100) + some, some),
        ("distinct", generator.normal(size=100) + 1.5 * few, few),
    ):
        values = image_ap(scores, truth), trapezoid_ap(scores, truth)
        table.append([name, f"{truth.mean():.0%}", *(f"{value:.4f}" for value in values)])
    return table


def pooled() -> Table:
    """The AUROC of all pixels together, against the mean of the AUROCs of single images."""
    logits, masks, _ = maps()
    shift = np.random.default_rng(0).normal(size=(len(logits), 1, 1)).astype(np.float32)
    table = [["maps", "pooled", "mean of images", "images left out"]]
    for name, values in (
        ("as they are", logits),
        ("each image shifted by N(0, 4²)", logits + 4 * shift),
        ("each image from 0 to 1", _each(logits)),
    ):
        there = masks.any((1, 2))
        single = [
            pixel_metrics(v[None], m[None])["pixel_auroc"]
            for v, m in zip(values[there], masks[there], strict=True)
        ]
        whole = pixel_metrics(values, masks)["pixel_auroc"]
        table.append([name, f"{whole:.4f}", f"{np.mean(single):.4f}", str(int((~there).sum()))])
    return table


def _each(values: np.ndarray) -> np.ndarray:
    low = values.min((1, 2), keepdims=True)
    return (values - low) / (values.max((1, 2), keepdims=True) - low)


def summation() -> Table:
    """Running sums along sorted pixels, as cumulative curves have them."""
    table = [["pixels", "ones counted in float32", "1/n summed in float32", "in float64"]]
    for count in (1_000_000, 10_000_000, 30_000_000):
        counted = int(np.cumsum(np.ones(count, np.float32))[-1])
        rates = [
            float(np.cumsum(np.full(count * 3 // 10, 1 / count, dtype), dtype=dtype)[-1])
            for dtype in (np.float32, np.float64)
        ]
        table.append([f"{count:,}", f"{counted:,}", *(f"{rate:.4f}" for rate in rates)])
    return table


TABLES: dict[str, Callable[[], Table]] = {
    function.__name__: function
    for function in (linear, limit, annulus, connectivity, flip, sigmoid, f1, storage, labels,
                     precision, pooled, summation)
}  # fmt: skip


def example() -> str:
    """What `realnet metrics` prints for the made maps; for docs/metrics.md."""
    logits, masks, _ = maps()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("maps.npy", "masks.npy")]
        for file, values in zip(files, (logits, masks), strict=True):
            np.save(file, values)
        return measured_table(measure(Request(*files)))


def markdown(table: Table) -> str:
    """The first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(table[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [table[0], rule, *table[1:]])


def written(page: str, tables: dict[str, str]) -> str:
    """``page`` with each table between ``<!-- table: NAME -->`` and ``<!-- end -->``."""
    for name, text in tables.items():
        marks = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = marks.subn(lambda m, text=text: f"{m[1]}\n{text}\n\n{m[2]}", page)
        if count != 1:
            raise SystemExit(f"{count} places for the table {name}, expected one")
    return page


# --- the figure ----------------------------------------------------------------------------------


def figure(path: Path) -> None:
    """The same ranking as logits and as softmax: where thresholds fall, and what comes out."""
    from matplotlib.figure import Figure

    from realnet.core.io import save_figure
    from realnet.metrics import pro_curve

    logits, masks, confident = maps()
    drawn = Figure(figsize=(11.5, 3.4), layout="constrained")
    scores, curves, dots = drawn.subplots(1, 3, width_ratios=(1.05, 1, 1.25))
    normal, defect, exact, wrong = "#8a8a8a", "#d55e00", "#000000", "#0072b2"

    edges = np.linspace(0, 1, 51)
    for mask, colour, name in ((~masks, normal, "normal"), (masks, defect, "defect")):
        shares = np.histogram(confident[mask], edges)[0] / mask.sum()
        scores.stairs(shares, edges, color=colour, label=f"{name} pixels", linewidth=1.5)
    inside = (confident[~masks] < edges[1]).mean()
    scores.annotate(
        f"{inside:.0%} of the normal pixels\nshare the lowest 4 of 200 steps",
        (0.02, inside), (0.12, 0.04), fontsize=8,
        arrowprops={"arrowstyle": "->", "color": normal, "linewidth": 0.8},
    )  # fmt: skip
    scores.set(title="Scores after a confident softmax", xlabel="score", ylabel="share of pixels",
               yscale="log", ylim=(1e-4, 1.5), xlim=(0, 1))  # fmt: skip
    scores.legend(fontsize=8, frameon=False, loc="upper right")

    rate, overlap = pro_curve(logits, masks)
    curves.plot(rate, overlap, color=exact, linewidth=1.6, label="exact")
    rates, overlaps = curve_at(confident, masks, linear_thresholds(confident, 200))
    kept = rates <= LIMIT
    curves.plot(rates[kept], overlaps[kept], ".-", color=wrong, markersize=3, linewidth=0.8,
                label="200 linear thresholds,\nconfident softmax")  # fmt: skip
    last = rates[kept][-1]
    curves.axvline(LIMIT, ymax=0.76, color=exact, linewidth=0.8, linestyle="--")
    curves.axvline(last, ymax=0.76, color=wrong, linewidth=0.8, linestyle="--")
    curves.text(LIMIT - 0.005, 0.06, "limit", ha="right", fontsize=8)
    curves.text(last + 0.005, 0.16, f"last threshold,\nrate {last:.2f}", color=wrong, fontsize=8)
    curves.set(title="They see the start of the curve", xlabel="false positive rate",
               ylabel="mean overlap per region", xlim=(0, 0.35), ylim=(0, 1))  # fmt: skip
    curves.legend(fontsize=8, frameon=False, loc="upper left")

    rows = linear()[1:][::-1]
    for place, (_, before, _, after, _) in enumerate(rows):
        values = float(before), float(after)
        dots.plot(values, (place, place), color=normal, linewidth=1, zorder=1)
        dots.scatter(values[0], place, color=exact, s=26, zorder=2)
        dots.scatter(values[1], place, color=wrong, s=26, zorder=3)
    dots.scatter([], [], color=exact, s=26, label="on logits")
    dots.scatter([], [], color=wrong, s=26, label="on their confident softmax")
    dots.axvline(float(rows[-1][1]), color=exact, linewidth=0.8, linestyle=":")
    names = [row[0].replace(", ", ",\n") for row in rows]
    dots.set_yticks(range(len(rows)), names, fontsize=8)
    dots.set(title="AU-PRO of one and the same ranking", xlabel="AU-PRO up to 0.3")
    dots.legend(fontsize=8, frameon=False, loc="upper left")
    for axis in (scores, curves, dots):
        axis.title.set_fontsize(10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
    save_figure(path, drawn)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TABLES)}")
    parser.add_argument(
        "--write", action="store_true", help=f"put them into {PAGE.name} and {DEFINITIONS.name}"
    )
    parser.add_argument("--figure", type=Path, help="also draw the page's figure")
    parser.add_argument("--scores", type=Path, help="a scores.npz, to see how it is there")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.names) - set(TABLES))
    if unknown:
        parser.error(f"no table {unknown[0]}; one of {', '.join(TABLES)}")
    if given.scores:
        with np.load(given.scores) as stored:
            kept = pixel_labelled(stored)
            logits, masks = stored["margins"][kept], stored["masks"][kept] > 0
        own = (logits, masks, softmax(CONFIDENCE * logits))
        for rows in (linear(own), storage(own)):
            print(markdown(rows) + "\n")
        return
    found = {name: markdown(TABLES[name]()) for name in given.names or TABLES}
    for name, text in found.items():
        print(f"{name}\n\n{text}\n")
    if given.write:
        shown = {"example": f"```\n{example()}\n```"}
        for page, texts in ((PAGE, found), (DEFINITIONS, shown)):
            page.write_text(written(page.read_text(encoding="utf-8"), texts), encoding="utf-8")
    if given.figure:
        figure(given.figure)


if __name__ == "__main__":
    main()
