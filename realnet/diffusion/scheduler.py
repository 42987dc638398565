"""SDAS: ancestral DDPM sampling with the variance inflated by a strength s per image.

Paper sec. 3.1:  p(x_{t-1} | x_t) = N( mu_theta(x_t, t), (1 + s) Sigma_theta(x_t, t) ),  s >= 0.
At s = 0 this is `DDPMScheduler.step`, bit for bit; larger s leaves the manifold of normal images.
"""

from collections.abc import Sequence

import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput

from realnet.config.sections import Ddpm


class SDASScheduler(DDPMScheduler):
    """`diffusers.DDPMScheduler` whose `step` takes a strength and a generator per image.

    Supports `variance_type` ``learned_range`` (the official model) and ``fixed_small``, and every
    `prediction_type`. Timestep spacing "leading" with 20 steps gives the official "ddim20" list.
    """

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
        *,
        strength: torch.Tensor | float = 0.0,
        guidance: torch.Tensor | None = None,
    ) -> DDPMSchedulerOutput | tuple:
        """One reverse step x_t -> x_{t-1}.

        model_output: ``[B, C, H, W]``, or ``[B, 2C, H, W]`` with the variance logits behind.
        sample: x_t, ``[B, C, H, W]``. strength: s >= 0, a number or ``[B]``.
        generator: one for the batch, or one per image (then an image does not depend on its batch).
        guidance: scale * gradient of log p(y | x_t), ``[B, C, H, W]``; shifts the mean by Sigma
        times it (Dhariwal & Nichol 2021, alg. 1), with Sigma as it is before the inflation.
        No noise is added at the last step (t = 0) for any s, as in the official sampler; guidance
        is applied there.
        """
        t = int(timestep)
        previous = self.previous_timestep(t)
        logits = None
        if self.variance_type == "learned_range":
            model_output, logits = torch.split(model_output, sample.shape[1], dim=1)

        alpha_prod = self.alphas_cumprod[t]
        alpha_prod_prev = self.alphas_cumprod[previous] if previous >= 0 else self.one
        beta_prod, beta_prod_prev = 1 - alpha_prod, 1 - alpha_prod_prev
        alpha = alpha_prod / alpha_prod_prev  # of the respaced chain
        beta = 1 - alpha

        original = self._original(model_output, sample, alpha_prod, beta_prod)
        # Posterior mean, DDPM (Ho et al. 2020) eq. 7.
        from_original = (alpha_prod_prev**0.5 * beta) / beta_prod
        from_sample = alpha**0.5 * beta_prod_prev / beta_prod
        mean = from_original * original + from_sample * sample

        if guidance is not None:
            mean = mean + self._guided_variance(t, logits) * guidance
        if t > 0:
            deviation = self._deviation(t, logits)
            scale = _per_image(strength, sample)
            # (1 + s) Sigma: the standard deviation grows by sqrt(1 + s); s = 0 multiplies by 1.0.
            mean = mean + deviation * _noise(sample, generator) * torch.sqrt(1 + scale)
        if not return_dict:
            return mean, original
        return DDPMSchedulerOutput(prev_sample=mean, pred_original_sample=original)

    def _original(
        self,
        output: torch.Tensor,
        sample: torch.Tensor,
        alpha_prod: torch.Tensor,
        beta_prod: torch.Tensor,
    ) -> torch.Tensor:
        """The predicted x_0, clipped to the image range where ``clip_sample`` is set."""
        kind = self.config.prediction_type
        if kind == "epsilon":
            original = (sample - beta_prod ** (0.5) * output) / alpha_prod ** (0.5)
        elif kind == "sample":
            original = output
        else:  # v_prediction (Salimans & Ho 2022, app. D)
            original = (alpha_prod**0.5) * sample - (beta_prod**0.5) * output
        if self.config.clip_sample:
            limit = self.config.clip_sample_range
            original = original.clamp(-limit, limit)
        return original

    def _deviation(self, t: int, logits: torch.Tensor | None) -> torch.Tensor:
        """sqrt(Sigma_theta(x_t, t)) before inflation."""
        if logits is None:
            return self._get_variance(t, variance_type="fixed_small") ** 0.5
        # For learned_range diffusers returns the *log*-variance.
        return torch.exp(0.5 * self._get_variance(t, predicted_variance=logits))

    def _guided_variance(self, t: int, logits: torch.Tensor | None) -> torch.Tensor:
        """Sigma_theta(x_t, t) before inflation, also at t = 0.

        There the posterior variance is 0. With ``fixed_small`` that is Sigma, so the last step is
        not guided; a learned Sigma has the next step's posterior variance as its lower end, as in
        the official code (diffusers has 1e-20 there, and never uses it).
        """
        if t > 0:
            return self._deviation(t, logits) ** 2
        beta = 1 - self.alphas_cumprod[0]
        if logits is None:
            return torch.zeros_like(beta)
        lower = beta
        chain = self.timesteps.tolist()
        if len(chain) > 1:
            after = self.alphas_cumprod[chain[-2]]
            lower = beta / (1 - after) * (1 - after / self.alphas_cumprod[0])
        fraction = (logits + 1) / 2
        return torch.exp(fraction * beta.log() + (1 - fraction) * lower.log())


def _per_image(strength: torch.Tensor | float, sample: torch.Tensor) -> torch.Tensor:
    value = torch.as_tensor(strength, dtype=sample.dtype, device=sample.device)
    return value.view(-1, 1, 1, 1) if value.ndim else value


def _noise(
    sample: torch.Tensor, generator: torch.Generator | Sequence[torch.Generator] | None
) -> torch.Tensor:
    """Standard normal noise of the sample's shape, drawn on the device of the generators."""
    if isinstance(generator, Sequence):
        parts = [torch.randn(sample.shape[1:], generator=g, device=g.device) for g in generator]
        return torch.stack(parts).to(sample)
    where = generator.device if generator is not None else sample.device
    noise = torch.randn(sample.shape, generator=generator, device=where, dtype=sample.dtype)
    return noise.to(sample.device)


def build_scheduler(params: Ddpm) -> SDASScheduler:
    """The scheduler of the `ddpm` section; training and sampling share it."""
    schedule = params.schedule
    return SDASScheduler(
        num_train_timesteps=schedule.num_train_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        prediction_type=params.prediction_type,
        variance_type=params.variance,
        clip_sample=True,
        timestep_spacing="leading",
        steps_offset=0,
    )
