"""The parts of PatchCore: patch features, coreset, nearest neighbours, image score, map.

Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022. "Official" is
github.com/amazon-science/patchcore-inspection; where it differs from the paper, each function says
which of the two it follows. docs/baselines.md has the list.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from realnet.core.progress import progress_bar

BLOCK = 8192  # rows compared at once; fixed, so that no result depends on memory
CANDIDATES, PENDING = 2048, 64  # of the coreset; fixed, since they change rounding
REFERENCE = 256  # pixels; `smoothing` is meant for images of this side


def patch_features(
    maps: Sequence[torch.Tensor], layers: Sequence[int], neighbourhood: int
) -> torch.Tensor:
    """Locally aware patch features float32 ``[B, h, w, D]`` of feature maps ``[B, C_k, h_k, w_k]``.

    Each chosen layer is averaged over ``neighbourhood`` x ``neighbourhood`` positions, zeros beyond
    the border (official); coarser ones are brought to the finest one's grid, bilinear without
    aligned corners (official), and all are concatenated: D is the sum of their channels. The
    official code then also averages neighbouring channels until 1024 are left; this does not.
    """
    chosen = [maps[layer].float() for layer in layers]
    pooled = [F.avg_pool2d(m, neighbourhood, 1, neighbourhood // 2) for m in chosen]
    grid = max((m.shape[-2:] for m in pooled), key=lambda shape: shape[0] * shape[1])
    same = [
        m if m.shape[-2:] == grid else F.interpolate(m, grid, mode="bilinear", align_corners=False)
        for m in pooled
    ]
    return torch.cat(same, 1).permute(0, 2, 3, 1).contiguous()


def random_projection(features: int, width: int, draw: torch.Generator) -> torch.Tensor:
    """float32 ``[features, width]``: keeps distances up to a few percent (Johnson-Lindenstrauss).

    Normal entries of variance 1 / width. (Official: a linear layer as torch initialises it, so
    uniform entries; only the order of distances counts.)
    """
    return torch.randn(features, width, generator=draw) / width**0.5


@torch.no_grad()
def greedy_coreset(points: torch.Tensor, count: int, first: int) -> tuple[torch.Tensor, float]:
    """Indices int64 ``[count]`` of a subset close to all points, and the largest distance from it.

    Greedy k-centre (paper, algorithm 1): start with point ``first``, then always add the point of
    float32 ``[N, d]`` that is farthest from those chosen; the first among equals.
    O(count N d) operations, O(N d) memory.

    Only the ``CANDIDATES`` farthest points are updated at each choice. A distance can only shrink,
    so the farthest of them is the farthest of all while it is beyond every point left out. Before
    that fails, at the latest after ``PENDING`` choices, all points are updated by one product of
    matrices, which is several times faster than as many passes over the points, one for each
    choice (`benchmarks/bench_coreset.py`). The choices are those of the plain algorithm, up to
    the rounding of distances.

    The official code starts from the mean distance to ten random points, which also remains an
    upper bound of all distances; here one point is drawn and nothing is bounded, as in the paper.
    """
    points = points - points.mean(0)  # no distance changes, and rounding errors are smaller
    squares = (points * points).sum(1)
    nearest = torch.full_like(squares, torch.inf)  # squared distance to the nearest chosen point
    chosen = torch.empty(count, dtype=torch.int64, device=points.device)
    chosen[0] = first
    seen, done = 0, 1  # the choices that ``nearest`` includes, and all
    with progress_bar(0, count, "coreset", "patch") as bar:
        while True:
            _include(points, squares, nearest, chosen[seen:done])
            bar.update(done - seen)
            seen = done
            if done == count:
                break
            left = nearest.topk(min(CANDIDATES, len(points))).indices.sort().values
            distances = nearest[left]
            bound = distances.min() if len(left) < len(points) else -torch.inf
            if distances.max() == bound:  # a tie with points left out
                chosen[done] = nearest.argmax()
                done += 1
                continue
            rows, norms = points[left], squares[left]
            while done < min(count, seen + PENDING):
                place = distances.argmax()
                if distances[place] <= bound:
                    break
                chosen[done] = left[place]
                done += 1
                new = torch.addmv(norms, rows, rows[place], alpha=-2).add_(norms[place])
                torch.minimum(distances, new, out=distances)
                distances[place] = -torch.inf
    radius = nearest.max().clamp(min=0).sqrt().item()  # 0 when all points were chosen
    return chosen, radius


def _include(
    points: torch.Tensor, squares: torch.Tensor, nearest: torch.Tensor, new: torch.Tensor
) -> None:
    """Update ``nearest``, in place, by the choices ``new``, which are never chosen again."""
    centres, norms = points[new], squares[new]
    for start in range(0, len(points), BLOCK):
        part = slice(start, start + BLOCK)
        squared = torch.addmm(norms, points[part], centres.T, alpha=-2).amin(1) + squares[part]
        torch.minimum(nearest[part], squared, out=nearest[part])
    nearest[new] = -torch.inf


class Memory:
    """The memory bank float32 ``[M, D]``, ready for searches: shifted to its mean, with norms."""

    def __init__(self, rows: torch.Tensor):
        self.shift = rows.mean(0)
        self.rows = rows - self.shift
        self.squares = (self.rows * self.rows).sum(1)

    def __len__(self) -> int:
        return len(self.rows)

    @torch.no_grad()
    def nearest(
        self, queries: torch.Tensor, count: int = 1, without: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances float32 and row indices int64, ``[Q, count]``, of the nearest rows, exact.

        queries: float32 ``[Q, D]``; nearest first. ``without``: bool ``[M]``, rows to
        ignore. Rows are found by matrix products, block by block, and the distances of those found
        are taken once more from differences, so they are right to the last digits even where they
        are close to 0 (the rounding of the products only decides between rows as good as equal).
        ``count`` is capped at the number of rows.
        """
        queries = queries - self.shift
        norms = (queries * queries).sum(1, keepdim=True)
        count = min(count, len(self))
        best = queries.new_empty((len(queries), 0))
        place = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
        for start in range(0, len(self), BLOCK):
            part = slice(start, start + BLOCK)
            squared = torch.addmm(self.squares[part], queries, self.rows[part].T, alpha=-2)
            squared += norms
            if without is not None:
                squared[:, without[part]] = torch.inf
            low, where = _smallest(squared, count)
            best, place = torch.cat([best, low], 1), torch.cat([place, where + start], 1)
            best, kept = _smallest(best, count)
            place = place.gather(1, kept)
        exact = torch.stack([(queries - self.rows[column]).norm(dim=1) for column in place.T], 1)
        return exact.where(best.isfinite(), torch.inf), place

    @torch.no_grad()
    def image_scores(
        self,
        queries: torch.Tensor,
        distances: torch.Tensor,
        places: torch.Tensor,
        neighbours: int,
    ) -> torch.Tensor:
        """Scores float32 ``[B]`` of images with patches ``[B, P, D]`` (paper, eq. 6 and 7).

        distances and places ``[B, P]``: of each patch's nearest row. The score is the largest
        distance s* of a patch, reduced the closer its nearest row m* is to other rows: multiplied
        by 1 - exp(s*) / sum of exp(distance), over the ``neighbours`` rows nearest to m*, itself
        included. With 1 it is s* itself, as in the official code.
        """
        worst = distances.argmax(1)
        images = torch.arange(len(queries), device=queries.device)
        score = distances[images, worst]
        count = min(neighbours, len(self))
        if count == 1:
            return score
        patch = queries[images, worst] - self.shift
        row = places[images, worst]
        around = self.nearest(self.rows[row] + self.shift, count)[1]
        others = (patch[:, None] - self.rows[around]).norm(dim=2)
        return (1 - (score - torch.logsumexp(others, 1)).exp()) * score


def _smallest(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` smallest of each row, ascending, and their indices."""
    if count == 1:  # several times faster than topk
        low, where = values.min(1, keepdim=True)
        return low, where
    return values.topk(min(count, values.shape[1]), dim=1, largest=False)


def distance_maps(distances: torch.Tensor, size: int, smoothing: float) -> torch.Tensor:
    """Anomaly maps float32 ``[B, size, size]`` (CPU) of patch distances ``[B, h, w]``.

    Bilinear without aligned corners, then a Gaussian of ``smoothing`` pixels of 256 (official: 4
    pixels at every size, of squared distances; the paper and this code use distances).
    """
    shape = (size, size)
    maps = F.interpolate(distances[:, None], shape, mode="bilinear", align_corners=False)[:, 0]
    sigma = smoothing * size / REFERENCE
    if sigma > 0:
        smooth = [gaussian_filter(one, sigma) for one in maps.cpu().numpy()]
        return torch.from_numpy(np.stack(smooth))
    return maps.cpu()
