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

BLOCK = 8192  # rows of the memory compared at once; fixed, so that no result depends on memory
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
    float32 ``[N, d]`` that is farthest from those chosen; the first among equals. One pass over
    the points for each choice: O(count N d) operations, O(N d) memory.

    The official code starts from the mean distance to ten random points, which also remains an
    upper bound of all distances; here one point is drawn and nothing is bounded, as in the paper.
    """
    points = points - points.mean(0)  # no distance changes, and rounding errors are smaller
    squares = (points * points).sum(1)
    nearest = torch.full_like(squares, torch.inf)  # squared distance to the nearest chosen point
    chosen = torch.empty(count, dtype=torch.int64, device=points.device)
    latest = torch.tensor([first], device=points.device)
    for place in range(count):
        chosen[place] = latest[0]
        centre = points.index_select(0, latest)[0]
        distance = torch.addmv(squares, points, centre, alpha=-2).add_(squares[latest])
        torch.minimum(nearest, distance, out=nearest)
        nearest.index_fill_(0, latest, -torch.inf)  # never chosen again, even among equals
        latest = nearest.argmax().view(1)
    radius = nearest.max().clamp(min=0).sqrt().item()  # 0 when all points were chosen
    return chosen, radius


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
