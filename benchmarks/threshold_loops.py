"""PRO by loops over linear thresholds, as most published code computes it; reimplemented here.

``official_pro``: what the RealNet authors' evaluation does. 1000 thresholds from the largest score
down; at *each* of them every mask is relabelled, and the hits inside every region, its holes
filled, are divided by the region's area without them. The false positive rates up to 0.3 are then
stretched over [0, 1]. ``sampled_pro``: the loop of many benchmarks, 200 thresholds, without
filling holes.

Needs scikit-image; run like anomalib_aupro.py. ``--part K`` evaluates only K evenly spaced
thresholds and scales the time; then there is no value.
"""

import importlib.metadata

import numpy as np
from peer import answer, arguments, load, timed
from skimage.measure import label, regionprops

LIMIT = 0.3


def official_pro(maps: np.ndarray, masks: np.ndarray, part: int = 0) -> float:
    """PRO, or NaN after ``part`` of the 1000 thresholds."""
    top, bottom = maps.max(), maps.min()
    step = (top - bottom) / np.float32(1000)
    thresholds = [top - np.float32(k) * step for k in range(1000)]
    rates, overlaps = _walk(maps, masks, _some(thresholds, part), _filled)
    if part:
        return float("nan")
    kept = rates <= LIMIT
    return _stretched(rates[kept], overlaps[kept])


def sampled_pro(maps: np.ndarray, masks: np.ndarray, part: int = 0) -> float:
    """PRO, or NaN after ``part`` of the 200 thresholds."""
    thresholds = np.linspace(maps.min(), maps.max(), 200, endpoint=False)
    rates, overlaps = _walk(maps, masks, _some(thresholds, part), _plain)
    if part:
        return float("nan")
    kept = rates < LIMIT
    return _stretched(rates[kept][::-1], overlaps[kept][::-1])


def _some(thresholds, part: int):
    return thresholds[:: max(1, len(thresholds) // part)][:part] if part else thresholds


def _walk(maps, masks, thresholds, shares) -> tuple[np.ndarray, np.ndarray]:
    normal = ~masks
    rates, overlaps = [], []
    for threshold in thresholds:
        hits = maps > threshold
        found = [
            share
            for hit, mask in zip(hits, masks, strict=True)
            for share in shares(hit, regionprops(label(mask, connectivity=2)))
        ]
        overlaps.append(np.mean(found))
        rates.append(np.logical_and(hits, normal).sum() / normal.sum())
    return np.array(rates), np.array(overlaps)


def _filled(hit, regions):
    for region in regions:
        top, left, bottom, right = region.bbox
        inside = np.logical_and(hit[top:bottom, left:right], region.image_filled)
        yield inside.sum() / region.area


def _plain(hit, regions):
    for region in regions:
        rows, columns = region.coords.T
        yield hit[rows, columns].sum() / region.area


def _stretched(rates: np.ndarray, overlaps: np.ndarray) -> float:
    return float(np.trapezoid(overlaps, (rates - rates.min()) / (rates.max() - rates.min())))


def main() -> None:
    parser = arguments(repeat=1)
    parser.add_argument("--part", type=int, default=0)
    given = parser.parse_args()
    margins, masks = load(given.folder)
    rows = []
    for name, function, count in (
        ("official PRO, 1000 thresholds, relabelled", official_pro, 1000),
        ("usual PRO, 200 thresholds, relabelled", sampled_pro, 200),
    ):
        walked = min(given.part, count) or count
        value, seconds = timed(
            lambda f=function: f(margins, masks, given.part), given.repeat, warm=0
        )
        note = "" if walked == count else f" ({walked} walked, scaled)"
        seconds = [taken * count / walked for taken in seconds]
        rows.append({"name": name + note, "what": "PRO", "seconds": seconds, "value": value})
    answer(rows=rows, versions={"scikit-image": importlib.metadata.version("scikit-image")})


if __name__ == "__main__":
    main()
