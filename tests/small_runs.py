"""Small result folders of evaluated runs with real per-image statistics."""

import json
from pathlib import Path

import numpy as np

from realnet.evaluation.stored import save_per_image
from realnet.metrics import image_auroc, per_image, pixel_metrics

METRICS = ("image_auroc", "pixel_auroc", "pro")
IMAGES, SIDE = 24, 12


def params(datasets: dict, variants: list[str], seeds=(0,), declared=(), bootstrap=200) -> str:
    """The ``--params`` of a matrix; every variant has its own evaluation."""
    names = dict.fromkeys(["base", *variants, *declared])
    own = {"synthesis": {"foreground": "none"}}
    return json.dumps(
        {
            "experiment": {
                "name": "test",
                "datasets": datasets,
                "seeds": list(seeds),
                "variants": variants,
            },
            "variants": {name: {} if name == "base" else own for name in names},
            "report": {"digits": 1, "bootstrap": bootstrap, "level": 0.95},
        }
    )


def write_run(
    results: Path,
    dataset: str,
    category: str,
    seed: int = 0,
    variant: str = "base",
    shift: float = 0.0,
    noise: float = 0.0,
    official: dict | None = None,
) -> Path:
    """Write an evaluated run; all seeds and variants of a category have the same test images.

    ``shift`` is added to the scores of defects. ``noise``: standard deviation of what this run
    alone adds to its scores.
    ``official``: metrics under the protocol official_best.
    """
    common = np.random.default_rng([len(dataset), *map(ord, category)])
    own = np.random.default_rng([seed, *map(ord, variant)])
    masks = np.zeros((IMAGES, SIDE, SIDE), bool)
    masks[1::2, 2:6, 3:8] = True
    masks[1::4, 8:10, 8:11] = True
    margins = common.normal(size=masks.shape) + noise * own.normal(size=masks.shape)
    margins = (margins + (0.5 + shift) * masks).astype(np.float32)
    labels = np.arange(IMAGES) % 2
    scores = margins.mean((1, 2)) + (0.02 + 0.1 * shift) * labels
    defects = [
        "good" if not label else ("hole", "crack")[k % 4 // 2] for k, label in enumerate(labels)
    ]
    folder = results / "evaluate" / dataset / category / f"seed{seed}" / variant
    folder.mkdir(parents=True, exist_ok=True)
    save_per_image(folder / "per_image.npz", per_image(margins, masks, scores, labels, defects))
    values = {"image_auroc": image_auroc(scores, labels)} | pixel_metrics(margins, masks)
    values |= {"dataset": dataset, "category": category, "seed": seed, "variant": variant}
    if official:
        strict = {metric: values[metric] for metric in METRICS}
        named = {f"{metric}_official": value for metric, value in official.items()}
        values["protocols"] = {
            "strict_last": strict,
            "strict_best": {m: v + 0.01 * (seed + 1) for m, v in strict.items()},
            "official_last": {name: value - 0.002 for name, value in named.items()},
            "official_best": named,
        }
    (folder / "metrics.json").write_text(json.dumps(values))
    return folder
