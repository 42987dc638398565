"""Statistics of the residual maps that RRS keeps on normal and anomalous images, and examples.

Source: ours, after sec. 3.3 of the paper (residual selection) and its figure of residuals.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from realnet.compute.runtime import Runtime
from realnet.detectors.realnet_detector import Detector
from realnet.evaluation.stored import save_arrays
from realnet.models.rrs import ResidualSelection

PER_CLASS = 64  # normal, and anomalous, images counted, evenly spaced
EXAMPLES, MAPS = 3, 4  # anomalous example images; kept, and dropped, maps of each
PICTURE = 128  # pixels; maximum size of the example pictures


def save_residuals(
    path: Path,
    detector: object,
    images: torch.Tensor,
    runtime: Runtime,
    batch_size: int,
    labels: np.ndarray,
) -> None:
    """Write :func:`residual_statistics` as npz; a detector without RRS has no such file."""
    path.unlink(missing_ok=True)  # an old file of another method
    if not isinstance(detector, Detector):
        return
    found = residual_statistics(detector, images, runtime, batch_size, labels)
    save_arrays(path, found)


@torch.no_grad()
def residual_statistics(
    detector: Detector,
    images: torch.Tensor,
    runtime: Runtime,
    batch_size: int,
    labels: np.ndarray,
) -> dict[str, np.ndarray]:
    """Which of the M residual maps RRS keeps on test images uint8 ``[N, 3, S, S]``.

    labels: 1 for anomalous, else 0, ``[N]``. Returns

    - ``kept_max``, ``kept_mean`` int64 ``[2, M]``: number of normal (row 0) and anomalous (row 1)
      images in which each map is kept by its maximum, and by its mean; of ``counted`` int64
      ``[2]`` images (at most ``PER_CLASS`` of each, evenly spaced);
    - ``layers``, ``blocks``, ``channels`` int64 ``[M]``: each map's layer of the backbone, its
      block, and its channel in that layer (of projections: its component);
    - ``examples`` int64 ``[E]``: indices into ``images`` of up to ``EXAMPLES`` anomalous images,
      evenly spaced; ``pictures`` uint8 ``[E, s, s, 3]``, s at most ``PICTURE``;
    - ``kept_maps``, ``dropped_maps`` float16 ``[E, K, H, W]``: for each example the ``MAPS``
      strongest kept maps (half by maximum, half by mean), and the dropped maps of the smallest
      maximum; as ranked, so in standard deviations if the ranking standardises;
    - ``kept_slots``, ``dropped_slots`` int64 ``[E, K]``: their indices among the M.

    With `model.rrs.mode` ``all`` nothing is selected: the counts are zero, and there are no
    examples.
    """
    select, selector = detector.model.select, detector.selector
    layers, blocks, channels = [], [], []
    for block, members in enumerate(selector.layers):
        for layer in members:
            index = getattr(selector, f"index{layer}").tolist()
            layers += [layer] * len(index)
            blocks += [block] * len(index)
            channels += index
    total, chooses = len(layers), select.mode != "all"
    counts = {"kept_max": np.zeros((2, total), int), "kept_mean": np.zeros((2, total), int)}
    by_max = _kept_by_maximum(select) if chooses else 0
    labels = np.asarray(labels)
    groups = [_spaced(np.flatnonzero(labels == label), PER_CLASS) for label in (0, 1)]
    for row, chosen in enumerate(groups if chooses else []):
        for residuals in _residuals(detector, images[chosen], runtime, batch_size):
            ranked = select.ranking(residuals).cpu().numpy()
            for name, part in (("kept_max", ranked[:, :by_max]), ("kept_mean", ranked[:, by_max:])):
                counts[name][row] += np.bincount(part.ravel(), minlength=total)

    examples = _spaced(groups[1], EXAMPLES if chooses else 0)
    shown = [
        _example(select, residuals[0], by_max)
        for residuals in _residuals(detector, images[examples], runtime, 1)
    ]
    found = {
        name: np.stack([one[name] for one in shown])
        for name in ("kept_maps", "dropped_maps", "kept_slots", "dropped_slots")
        if shown
    }
    return {
        **counts,
        "counted": np.array([len(group) if chooses else 0 for group in groups]),
        "layers": np.array(layers),
        "blocks": np.array(blocks),
        "channels": np.array(channels),
        "examples": examples,
        "pictures": _pictures(images[examples]),
        **found,
    }


def _residuals(
    detector: Detector, images: torch.Tensor, runtime: Runtime, batch_size: int
) -> Iterator[torch.Tensor]:
    """E ``[B, M, H, W]``, batch by batch, without the discriminator."""
    model = detector.model
    for part in images.split(batch_size) if len(images) else ():
        with runtime.autocast():
            features = detector.selector(detector.extractor(part.to(runtime.device).float() / 255))
            rebuilt = [net(f) for net, f in zip(model.reconstruct, features, strict=True)]
            yield model.residuals(features, rebuilt)


def _kept_by_maximum(select: ResidualSelection) -> int:
    """Number of kept slots selected by maximum; they come first."""
    return {"max": select.kept, "mean": 0}.get(select.mode, select.kept - select.kept // 2)


def _spaced(places: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the places, evenly spaced from the first to the last."""
    if len(places) <= count or not count:
        return places[:count]
    return places[np.linspace(0, len(places) - 1, count).round().astype(int)]


def _example(select: ResidualSelection, residuals: torch.Tensor, by_max: int) -> dict:
    """Kept and dropped maps of one image, residuals ``[M, H, W]``."""
    ranked = select.ranking(residuals[None])[0]
    standard = select.norm(residuals[None])[0] if select.norm is not None else residuals
    first, second = ranked[:by_max].tolist(), ranked[by_max:].tolist()
    half = MAPS // 2 if first and second else MAPS
    best = list(dict.fromkeys(first[:half] + [slot for slot in second if slot not in first[:half]]))
    kept = torch.tensor(best[:MAPS], device=standard.device)
    left = torch.ones(len(residuals), dtype=torch.bool, device=standard.device)
    left[ranked] = False
    peak = standard.amax((1, 2)).where(left, torch.inf)
    dropped = peak.argsort()[: min(MAPS, int(left.sum()))]

    def maps(slots: torch.Tensor) -> np.ndarray:
        """``MAPS`` maps, padded with NaN so that the images stack."""
        shown = standard[slots].float().clamp(-6e4, 6e4).half().cpu().numpy()
        return np.concatenate([shown, np.full((MAPS - len(slots), *shown.shape[1:]), np.nan)])

    def places(slots: torch.Tensor) -> np.ndarray:
        return np.concatenate([slots.cpu().numpy(), np.full(MAPS - len(slots), -1)])

    return {
        "kept_maps": maps(kept).astype(np.float16),
        "dropped_maps": maps(dropped).astype(np.float16),
        "kept_slots": places(kept).astype(np.int64),
        "dropped_slots": places(dropped).astype(np.int64),
    }


def _pictures(images: torch.Tensor) -> np.ndarray:
    """uint8 ``[E, s, s, 3]`` from images uint8 ``[E, 3, S, S]``, with s at most ``PICTURE``."""
    if len(images) and images.shape[-1] > PICTURE:
        smaller = F.interpolate(images.float(), (PICTURE, PICTURE), mode="area")
        images = smaller.round().to(torch.uint8)
    return images.permute(0, 2, 3, 1).cpu().numpy()
