"""The diffusion side: network, DDPM training, and SDAS, the strength-controlled sampler."""
