"""Diffusion: networks, loss, scheduler and the strength-controlled sampler (SDAS, SIA)."""
