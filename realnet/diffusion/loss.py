"""The training loss of the DDPM: prediction error, and the variational bound for learned variances.

Hybrid loss of Nichol & Dhariwal (2021) as the official RealNet training has it: the mean is
detached inside the bound, x_0 is not clipped there, bits per dimension, coefficient 1 (which for
T = 1000 equals their lambda 0.001 after rescaling by T).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from realnet.compute.runtime import Runtime
from realnet.config.sections import Ddpm
from realnet.diffusion.scheduler import SDASScheduler


@dataclass(frozen=True)
class DiffusionBatch:
    """What a training step sees; all on the device.

    clean and noise ``[B, 3, S, S]``, clean in [-1, 1]; timestep and label int64 ``[B]``.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    timestep: torch.Tensor
    label: torch.Tensor | None


def training_loss(
    network: Callable[..., torch.Tensor],
    params: Ddpm,
    scheduler: SDASScheduler,
    runtime: Runtime,
    batch: DiffusionBatch,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(sum, prediction error, variational bound), each the mean over the images; all on the device.

    The bound is zero where the variance is not learned.
    """
    clean, noise, timestep = batch.clean, batch.noise, batch.timestep
    alpha = scheduler.alphas_cumprod.to(clean.device)[timestep].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    with runtime.autocast():
        output = network(noisy, timestep, batch.label)
    prediction, *logits = output.float().split(3, dim=1)
    target = prediction_target(params.prediction_type, clean, noise, alpha)
    error = (prediction_weight(params, alpha) * (prediction - target) ** 2).mean()
    bound = torch.zeros_like(error)
    if logits:
        bound = variational_bound(scheduler, clean, noisy, timestep, prediction, logits[0]).mean()
    return error + bound, error, bound


def prediction_target(
    kind: str, clean: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor
) -> torch.Tensor:
    """What the network predicts; alpha = cumulative product at t, broadcastable to the images."""
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return clean
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


def prediction_weight(params: Ddpm, alpha: torch.Tensor) -> torch.Tensor:
    """Weight per timestep. ``min_snr_gamma`` null is uniform: the simple loss, as official.

    Otherwise the loss counts as min(SNR, gamma) on x_0 (Hang et al. 2023), not below the floor.
    """
    if params.min_snr_gamma is None:
        return torch.ones_like(alpha)
    snr = alpha / (1 - alpha)
    on_clean = snr.clamp(params.min_snr_floor, params.min_snr_gamma)
    # Error of x_0 = error of the target / scale, so divide by that scale's square.
    scale = {"epsilon": snr, "sample": torch.ones_like(snr), "v_prediction": snr + 1}
    return on_clean / scale[params.prediction_type]


def variational_bound(
    scheduler: SDASScheduler,
    clean: torch.Tensor,
    noisy: torch.Tensor,
    timestep: torch.Tensor,
    prediction: torch.Tensor,
    logits: torch.Tensor,
) -> torch.Tensor:
    """Per image, in bits per dimension: KL(q(x_{t-1}|x_t,x_0) || p_theta), or the NLL at t = 0.

    All images ``[B, 3, S, S]``; ``prediction`` enters detached, so it trains the variance only.
    Returns ``[B]``. Source: Nichol & Dhariwal 2021, eq. 4-7 and 15; Ho et al. 2020, sec. 3.3.
    """
    shape = (-1, 1, 1, 1)
    products = scheduler.alphas_cumprod.to(clean.device, torch.float64)
    before = torch.cat([products.new_ones(1), products[:-1]])
    betas = 1 - products / before
    posterior = betas * (1 - before) / (1 - products)
    # log of the posterior variance at t = 0 is -inf: the next one replaces it (official: clipped).
    log_posterior = posterior.clone()
    log_posterior[0] = posterior[1]
    log_posterior = log_posterior.log()

    def at(table: torch.Tensor) -> torch.Tensor:
        return table[timestep].float().view(shape)

    weight_clean = at(before.sqrt() * betas / (1 - products))
    weight_noisy = at((products / before).sqrt() * (1 - before) / (1 - products))
    true_mean = weight_clean * clean + weight_noisy * noisy
    alpha = at(products)
    predicted = prediction.detach()
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        predicted = (noisy - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
    elif kind == "v_prediction":
        predicted = alpha.sqrt() * noisy - (1 - alpha).sqrt() * predicted
    mean = weight_clean * predicted + weight_noisy * noisy
    true_log = at(log_posterior)
    fraction = (logits + 1) / 2
    log_variance = fraction * at(betas.log()) + (1 - fraction) * true_log
    divergence = 0.5 * (
        -1
        + log_variance
        - true_log
        + torch.exp(true_log - log_variance)
        + (true_mean - mean) ** 2 * torch.exp(-log_variance)
    )
    likelihood = -_discretised_log_likelihood(clean, mean, 0.5 * log_variance)
    bound = torch.where((timestep == 0).view(shape), likelihood, divergence)
    return bound.mean((1, 2, 3)) / math.log(2.0)


def _discretised_log_likelihood(
    image: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor
) -> torch.Tensor:
    """log of the Gaussian's mass in each 8-bit bin of an image in [-1, 1] (Ho et al. eq. 13)."""
    centred, inverse = image - mean, torch.exp(-log_scale)
    normal = torch.distributions.Normal(0.0, 1.0, validate_args=False)
    above = normal.cdf(inverse * (centred + 1 / 255))
    below = normal.cdf(inverse * (centred - 1 / 255))
    mass = torch.where(image < -0.999, above, torch.where(image > 0.999, 1 - below, above - below))
    return mass.clamp(min=1e-12).log()
