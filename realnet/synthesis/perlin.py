"""Batched Perlin masks, the regions of anomalies (as in DRAEM and the official loader)."""

import math
from collections.abc import Iterator
from functools import cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from realnet.config.sections import Perlin


def uniforms_needed(params: Perlin) -> int:
    """Uniform numbers that one mask consumes: two exponents, one rotation, the lattice's angles."""
    return 3 + (2**params.max_exponent + 1) ** 2


def perlin_fields(
    uniforms: torch.Tensor, size: int, params: Perlin
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Upright gradient noise: pairs (rows of ``uniforms``, their fields), until all rows are done.

    uniforms: ``[B, uniforms_needed]`` in [0, 1). Fields: float32 ``[rows, size, size]``, about +-1.

    Lattice cells per side are 2^a x 2^b with a, b uniform in min..max exponent; unit gradients,
    quintic fade, amplitude sqrt(2).

    On a regular grid the noise is a sum of separable terms: with fade weights W (rows: pixels,
    columns: lattice points), the same weights times the offset from the lattice point D, and
    gradients (g_x, g_y) on the lattice, it is  W_v g_x D_u^T + D_v g_y W_u^T.  Two matrix products
    instead of eight look-ups per pixel.
    """
    span = params.max_exponent - params.min_exponent + 1
    exponents = params.min_exponent + torch.floor(uniforms[:, :2] * span).long()  # [B, 2]
    side = 2**params.max_exponent + 1
    angles = (2 * math.pi * uniforms[:, 3 : 3 + side * side]).view(-1, side, side)
    tables = _tables(size, params.max_exponent)
    weights, offsets = (table.to(uniforms.device) for table in tables)  # [exponents, side, size]
    across_u, along_u = offsets[exponents[:, 1]], weights[exponents[:, 1]]
    # [B, side, size]: lattice rows, pixel columns; the amplitude is cheapest to apply here.
    along_x = math.sqrt(2) * torch.cos(angles) @ across_u
    along_y = math.sqrt(2) * torch.sin(angles) @ along_u
    for exponent in range(params.min_exponent, params.max_exponent + 1):
        points = 2**exponent + 1  # the contraction is over this lattice's rows alone
        left = torch.cat([weights[exponent, :points], offsets[exponent, :points]]).T
        # Few at a time, so that a field is still in the cache when it is compared.
        for rows in torch.nonzero(exponents[:, 0] == exponent).flatten().split(4):
            yield rows, left @ torch.cat([along_x[rows, :points], along_y[rows, :points]], dim=1)


def perlin_field(uniforms: torch.Tensor, size: int, params: Perlin) -> torch.Tensor:
    """The fields in the order of ``uniforms``, float32 ``[B, size, size]``."""
    field = uniforms.new_empty(len(uniforms), size, size)
    for rows, part in perlin_fields(uniforms, size, params):
        field[rows] = part
    return field


@cache
def _tables(size: int, max_exponent: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fade weights and weights times offsets, ``[max_exponent + 1, 2^max_exponent + 1, size]``."""
    side = 2**max_exponent + 1
    weights = torch.zeros(max_exponent + 1, side, size)
    offsets = torch.zeros_like(weights)
    pixel = torch.arange(size)
    for exponent in range(max_exponent + 1):
        place = pixel / size * 2**exponent
        cell = place.floor().long()
        t = place - cell
        fade = t**3 * (t * (6 * t - 15) + 10)
        weights[exponent, cell, pixel], weights[exponent, cell + 1, pixel] = 1 - fade, fade
        offsets[exponent, cell, pixel] = (1 - fade) * t
        offsets[exponent, cell + 1, pixel] = fade * (t - 1)
    return weights, offsets


def rotate(masks: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Boolean masks ``[B, S, S]`` rotated about their centre, nearest neighbour, False outside.

    Turning the mask instead of the field moves its border by less than a pixel. OpenCV on the CPU,
    a gather on a GPU (they may differ in single border pixels).
    """
    size = masks.shape[-1]
    centre = (size - 1) / 2
    if masks.device.type == "cpu":
        turned = np.empty(masks.shape, np.uint8)
        for mask, angle, out in zip(masks.numpy(), degrees.tolist(), turned, strict=True):
            matrix = cv2.getRotationMatrix2D((centre, centre), angle, 1.0)
            cv2.warpAffine(mask.view(np.uint8), matrix, (size, size), out, cv2.INTER_NEAREST)
        return torch.from_numpy(turned.view(np.bool_))
    turn = torch.deg2rad(degrees).view(-1, 1, 1)
    axis = torch.arange(size, device=masks.device) - centre
    y, x = axis.view(1, -1, 1), axis.view(1, 1, -1)
    # Inverse of OpenCV's matrix, whose angle is counter-clockwise in image coordinates.
    column = (torch.cos(turn) * x - torch.sin(turn) * y + centre).round().long()
    row = (torch.sin(turn) * x + torch.cos(turn) * y + centre).round().long()
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    index = (row.clamp(0, size - 1) * size + column.clamp(0, size - 1)).flatten(1)
    return masks.flatten(1).gather(1, index).view_as(masks) & inside


def rotate_field(fields: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Float fields ``[B, S, S]`` turned about their centre, bilinear, zeros outside (official)."""
    size = fields.shape[-1]
    turn = torch.deg2rad(degrees).view(-1, 1, 1)
    axis = torch.linspace(-1, 1, size, device=fields.device)  # centres of the outermost pixels
    y, x = axis.view(1, -1, 1), axis.view(1, 1, -1)
    place = torch.cos(turn) * x - torch.sin(turn) * y, torch.sin(turn) * x + torch.cos(turn) * y
    turned = F.grid_sample(fields[:, None], torch.stack(place, dim=-1), align_corners=True)
    return turned[:, 0]


def perlin_masks(uniforms: torch.Tensor, size: int, params: Perlin) -> torch.Tensor:
    """Boolean masks ``[B, size, size]``: the field above the threshold, turned by U(+-rotation).

    ``params.turn`` says which comes first (the official code turns the field).
    """
    degrees = (2 * uniforms[:, 2] - 1) * params.rotation
    if params.turn == "field":
        return rotate_field(perlin_field(uniforms, size, params), degrees) > params.threshold
    upright = torch.empty(len(uniforms), size, size, dtype=torch.bool, device=uniforms.device)
    for rows, field in perlin_fields(uniforms, size, params):
        upright[rows] = field > params.threshold
    return rotate(upright, degrees)
