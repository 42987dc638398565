"""Batched Perlin masks: where an anomaly goes (DRAEM's recipe, as the official loader has it)."""

import math

import torch

from realnet.params import Perlin


def uniforms_needed(params: Perlin) -> int:
    """Uniform numbers that one mask consumes: two exponents, one rotation, the lattice's angles."""
    return 3 + (2**params.max_exponent + 1) ** 2


def perlin_field(uniforms: torch.Tensor, size: int, params: Perlin) -> torch.Tensor:
    """Rotated gradient noise, one independent field per row of ``uniforms``.

    uniforms: ``[B, uniforms_needed]`` in [0, 1). Returns float32 ``[B, size, size]``, about [-1, 1].

    Lattice cells per side are 2^a x 2^b with a, b uniform in min..max exponent; unit gradients,
    quintic fade, amplitude sqrt(2); rotation uniform in +-``rotation`` degrees, zero outside.
    The official code renders upright and then rotates with bilinear interpolation; here the noise
    is evaluated at the rotated coordinates, which is the same field without the blur.
    """
    batch, device = len(uniforms), uniforms.device
    span = params.max_exponent - params.min_exponent + 1
    cells = 2 ** (params.min_exponent + torch.floor(uniforms[:, :2] * span)).long()  # [B, 2]
    turn = torch.deg2rad((2 * uniforms[:, 2] - 1) * params.rotation).view(-1, 1, 1)
    side = 2**params.max_exponent + 1
    angles = 2 * math.pi * uniforms[:, 3 : 3 + side * side]  # [B, side * side]

    axis = torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2
    y, x = axis.view(1, -1, 1), axis.view(1, 1, -1)
    centre = (size - 1) / 2
    rotated_y = torch.cos(turn) * y - torch.sin(turn) * x + centre
    rotated_x = torch.sin(turn) * y + torch.cos(turn) * x + centre
    inside = (rotated_y >= 0) & (rotated_y <= size - 1) & (rotated_x >= 0) & (rotated_x <= size - 1)
    v = (rotated_y / size).clamp(0, 1 - 1e-6) * cells[:, 0].view(-1, 1, 1)
    u = (rotated_x / size).clamp(0, 1 - 1e-6) * cells[:, 1].view(-1, 1, 1)
    row, column = v.floor(), u.floor()
    dv, du = v - row, u - column
    index = (row * side + column).long().view(batch, -1)  # lattice point above left of each pixel

    def corner(down: int, right: int) -> torch.Tensor:
        """Dot product of the corner's gradient with the offset from it."""
        angle = angles.gather(1, index + down * side + right).view(batch, size, size)
        return torch.cos(angle) * (du - right) + torch.sin(angle) * (dv - down)

    fade_v, fade_u = _quintic(dv), _quintic(du)
    top = torch.lerp(corner(0, 0), corner(0, 1), fade_u)
    bottom = torch.lerp(corner(1, 0), corner(1, 1), fade_u)
    return math.sqrt(2) * torch.lerp(top, bottom, fade_v) * inside


def _quintic(t: torch.Tensor) -> torch.Tensor:
    return t**3 * (t * (6 * t - 15) + 10)


def perlin_masks(uniforms: torch.Tensor, size: int, params: Perlin) -> torch.Tensor:
    """Boolean masks ``[B, size, size]``: the field above the threshold."""
    return perlin_field(uniforms, size, params) > params.threshold
