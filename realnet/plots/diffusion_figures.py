"""The pictures beside the results of the diffusion stages: strengths, training curves."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure


def strength_figure(
    normal: torch.Tensor, grid: torch.Tensor, strengths: Sequence[float], category: str
) -> Figure:
    """Rows: one seed each; columns: a real normal image, then the same seed at growing s.

    normal uint8 ``[rows, 3, S, S]``, grid uint8 ``[rows, strengths, 3, S, S]``.
    """
    rows, columns = len(grid), len(strengths) + 1
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1.5 * columns, 1.55 * rows + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for row, images in enumerate(grid):
        pictures = [normal[row], *images]
        titles = ["normal (real)", *(f"s = {s:g}" for s in strengths)]
        for axis, picture, title in zip(axes[row], pictures, titles, strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=9)
    figure.suptitle(f"{category}: SDAS strength, one seed per row", fontsize=10)
    return figure


def classifier_curves(
    history: Sequence[Mapping[str, float]], accuracy: Mapping[int, float], title: str
) -> Figure:
    """Left: the loss and its moving average; right: the training accuracy at each timestep."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    losses = torch.tensor([row["loss"] for row in history])
    window = max(1, len(losses) // 30)
    left.plot(losses, color="0.8", lw=0.8)
    left.plot(
        torch.arange(window - 1, len(losses)), losses.unfold(0, window, 1).mean(1), color="tab:blue"
    )
    left.set(xlabel="step", ylabel="cross-entropy")
    right.plot(list(accuracy), list(accuracy.values()), "o-", color="tab:blue")
    right.set(xlabel="timestep (noise)", ylabel="training accuracy", ylim=(0, 1.05))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle(f"guided classifier: {title}", fontsize=10)
    return figure
