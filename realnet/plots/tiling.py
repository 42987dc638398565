"""Images side by side in one picture, without matplotlib."""

import numpy as np
import torch


def tile(images: torch.Tensor, columns: int, gap: int = 2) -> np.ndarray:
    """Images uint8 ``[N, 3, S, S]`` as one image ``[H, W, 3]`` with white gaps."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    canvas = torch.full(
        (3, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8
    )
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).contiguous().numpy()
