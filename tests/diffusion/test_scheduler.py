"""SDAS against the plain DDPM step and two other derivations of the same transition."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from realnet.diffusion.scheduler import SDASScheduler

COMMON = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": True,
}


def pair(kind, variance):
    """(plain scheduler, ours), both respaced to the official 20 steps."""
    options = COMMON | {"prediction_type": kind, "variance_type": variance}
    both = DDPMScheduler(**options), SDASScheduler(**options)
    for scheduler in both:
        scheduler.set_timesteps(20)
    return both


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def inputs(variance, batch=2):
    draw = generator(7)
    channels = 6 if variance == "learned_range" else 3
    output = torch.randn(batch, channels, 8, 8, generator=draw)
    return output, torch.randn(batch, 3, 8, 8, generator=draw)


@pytest.mark.parametrize("variance", ["learned_range", "fixed_small"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_strength_zero_is_identical_to_the_ddpm_step(kind, variance):
    plain, ours = pair(kind, variance)
    output, sample = inputs(variance)
    assert ours.timesteps.tolist() == list(range(950, -1, -50))
    for t in plain.timesteps.tolist():
        expected = plain.step(output, t, sample, generator=generator(t))
        got = ours.step(output, t, sample, generator(t), strength=torch.zeros(2))
        assert torch.equal(got.prev_sample, expected.prev_sample), t
        assert torch.equal(got.pred_original_sample, expected.pred_original_sample), t


def test_learned_range_equals_shifted_variance_logits():
    plain, ours = pair("epsilon", "learned_range")
    output, sample = inputs("learned_range")
    s = torch.tensor([0.1, 0.2])
    for t in plain.timesteps.tolist()[:-1]:
        ratio = (1 - plain.alphas_cumprod[t]) / (1 - plain.alphas_cumprod[t - 50])
        shifted = output.clone()
        shifted[:, 3:] += (2 * torch.log1p(s) / ratio.log()).view(-1, 1, 1, 1)
        expected = plain.step(shifted, t, sample, generator=generator(t)).prev_sample
        got = ours.step(output, t, sample, generator(t), strength=s).prev_sample
        assert (got - expected).abs().max() < 2e-3, t


def test_fixed_small_equals_ddim_with_inflated_noise():
    _, ours = pair("epsilon", "fixed_small")
    ddim = DDIMScheduler(**COMMON, set_alpha_to_one=True)
    ddim.set_timesteps(20)
    output, sample = inputs("fixed_small")
    for t in ours.timesteps.tolist():
        noise = torch.randn(sample.shape, generator=generator(t))
        options = {"eta": 1.0, "use_clipped_model_output": True}
        noisy = math.sqrt(1.5) * noise
        expected = ddim.step(output, t, sample, **options, variance_noise=noisy).prev_sample
        got = ours.step(output, t, sample, generator(t), strength=0.5).prev_sample
        assert torch.allclose(got, expected, atol=1e-4), t


def test_variance_grows_by_one_plus_s():
    _, ours = pair("epsilon", "fixed_small")
    output, sample = torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 64, 64)
    draws = [
        ours.step(output, 500, sample, generator(i), strength=torch.tensor([0.0, 3.0])).prev_sample
        for i in range(8)
    ]
    variances = torch.stack(draws).var((0, 2, 3, 4))
    assert variances[1] / variances[0] == pytest.approx(4.0, rel=0.05)


def test_an_image_does_not_depend_on_its_batch():
    _, ours = pair("epsilon", "learned_range")
    output, sample = inputs("learned_range", batch=3)
    s = torch.tensor([0.0, 1.0, 2.0])
    generators = [generator(i) for i in range(3)]
    together = ours.step(output, 500, sample, generators, strength=s).prev_sample
    for i in range(3):
        alone = ours.step(
            output[i : i + 1], 500, sample[i : i + 1], [generator(i)], strength=s[i : i + 1]
        )
        assert torch.equal(alone.prev_sample, together[i : i + 1])


@pytest.mark.parametrize("variance", ["learned_range", "fixed_small"])
def test_no_noise_at_the_last_step(variance):
    _, ours = pair("epsilon", variance)
    output, sample = inputs(variance)
    first = ours.step(output, 0, sample, generator(1), strength=5.0).prev_sample
    assert torch.equal(first, ours.step(output, 0, sample, generator(2), strength=0.0).prev_sample)


def test_strength_applies_with_return_dict_false():
    _, ours = pair("sample", "learned_range")
    output, sample = inputs("learned_range")
    found = ours.step(output, 500, sample, generator(3), strength=2.0)
    mean, original = ours.step(output, 500, sample, generator(3), False, strength=2.0)
    assert torch.equal(mean, found.prev_sample)
    assert torch.equal(original, output[:, :3].clamp(-1, 1))


@pytest.mark.parametrize("variance", ["learned_range", "fixed_small"])
def test_a_chain_at_strength_zero_is_the_ddpm_chain(variance):
    plain, ours = pair("epsilon", variance)
    output, expected = inputs(variance)
    got, a, b = expected.clone(), generator(5), generator(5)
    for t in plain.timesteps.tolist():
        expected = plain.step(output * math.cos(t), t, expected, generator=a).prev_sample
        got = ours.step(output * math.cos(t), t, got, b).prev_sample
    assert torch.equal(got, expected)


def test_single_precision_of_the_schedule_is_small_in_the_variance():
    """Cumulative alphas are fp32, as in diffusers; the official code has fp64."""
    scheduler = SDASScheduler(**COMMON)
    exact = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    posterior = (1 - exact[:-1]) / (1 - exact[1:]) * (1 - exact[1:] / exact[:-1])
    found = [float(scheduler._get_variance(t, variance_type="fixed_small")) for t in range(1, 1000)]
    assert np.abs(np.log(found) - np.log(posterior)).max() < 2e-3
