"""The loss of the DDPM against its formulas."""

import math

import pytest
import torch

from realnet.config.params import load
from realnet.diffusion.loss import prediction_target, prediction_weight, variational_bound
from realnet.diffusion.scheduler import build_scheduler


@pytest.fixture
def ddpm():
    return load(overrides={"preset": "smoke"}).ddpm


@pytest.fixture
def case(ddpm):
    draw = torch.Generator().manual_seed(3)
    clean = torch.rand(2, 3, 8, 8, generator=draw) * 2 - 1
    noise = torch.randn(clean.shape, generator=draw)
    scheduler = build_scheduler(ddpm)
    timestep = torch.tensor([40, 700])
    alpha = scheduler.alphas_cumprod[timestep].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    return scheduler, clean, noise, noisy, timestep, alpha


def test_vlb_is_zero_for_the_true_posterior(case):
    scheduler, clean, noise, noisy, timestep, _ = case
    exact = torch.full_like(clean, -1.0)  # fraction 0: the posterior variance itself
    bound = variational_bound(scheduler, clean, noisy, timestep, noise, exact)
    assert bound.abs().max() < 1e-4
    worse = variational_bound(scheduler, clean, noisy, timestep, noise + 0.5, exact)
    assert (worse > bound + 1e-4).all()


def test_vlb_trains_the_variance_and_not_the_mean(case):
    scheduler, clean, noise, noisy, timestep, _ = case
    prediction = (noise + 0.3).requires_grad_()
    logits = torch.zeros_like(clean, requires_grad=True)
    variational_bound(scheduler, clean, noisy, timestep, prediction, logits).sum().backward()
    assert prediction.grad is None
    assert logits.grad.abs().sum() > 0


def test_likelihood_at_time_zero_is_the_probability_of_the_8_bit_bin(ddpm):
    scheduler = build_scheduler(ddpm)
    clean = torch.full((1, 3, 2, 2), 0.25)
    zero = torch.zeros_like(clean)
    timestep = torch.tensor([0])
    noisy = scheduler.alphas_cumprod[0].sqrt() * clean
    got = variational_bound(scheduler, clean, noisy, timestep, zero, torch.ones_like(clean))
    std = math.sqrt(1 - scheduler.alphas_cumprod[0].item())  # fraction 1: beta_0
    expected = -math.log2(math.erf(1 / 255 / std / math.sqrt(2)))
    assert got.item() == pytest.approx(expected, rel=2e-3)


def test_all_three_prediction_types_describe_the_same_image(case):
    _, clean, noise, noisy, _, alpha = case
    v = prediction_target("v_prediction", clean, noise, alpha)
    assert torch.allclose(alpha.sqrt() * noisy - (1 - alpha).sqrt() * v, clean, atol=1e-4)
    assert prediction_target("epsilon", clean, noise, alpha) is noise
    assert prediction_target("sample", clean, noise, alpha) is clean


def test_min_snr_weights_the_error_of_the_clean_image_equally(ddpm):
    alpha = torch.tensor([0.999, 0.5, 0.01])
    snr = alpha / (1 - alpha)
    expected = snr.clamp(0.5, 5)
    for kind, scale in (("epsilon", snr), ("sample", snr / snr), ("v_prediction", snr + 1)):
        params = ddpm.model_copy(
            update={"prediction_type": kind, "min_snr_gamma": 5.0, "min_snr_floor": 0.5}
        )
        assert torch.allclose(prediction_weight(params, alpha) * scale, expected)
    uniform = ddpm.model_copy(update={"min_snr_gamma": None})
    assert torch.equal(prediction_weight(uniform, alpha), torch.ones(3))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_vlb_is_the_kl_divergence_of_two_gaussians(ddpm, case, kind):
    """Posterior and model from their definitions, compared by torch.distributions."""
    _, clean, noise, noisy, timestep, alpha = case
    scheduler = build_scheduler(ddpm.model_copy(update={"prediction_type": kind}))
    target = prediction_target(kind, clean, noise, alpha)
    draw = torch.Generator().manual_seed(4)
    wrong = 0.1 * torch.randn(clean.shape, generator=draw)
    logits = torch.randn(clean.shape, generator=draw)
    got = variational_bound(scheduler, clean, noisy, timestep, target + wrong, logits)
    products = scheduler.alphas_cumprod.double()
    for i, t in enumerate(timestep.tolist()):
        now, before = products[t], products[t - 1]
        beta = 1 - now / before
        least = beta * (1 - before) / (1 - now)
        off = {  # of the predicted clean image, from the error of the prediction
            "epsilon": -((1 - now) / now).sqrt() * wrong[i].double(),
            "v_prediction": -(1 - now).sqrt() * wrong[i].double(),
            "sample": wrong[i].double(),
        }[kind]
        f = (logits[i].double() + 1) / 2
        std = torch.exp(0.5 * (f * beta.log() + (1 - f) * least.log()))
        mean_off = before.sqrt() * beta / (1 - now) * off
        zero = torch.zeros_like(mean_off)
        truth = torch.distributions.Normal(zero, least.sqrt().expand_as(zero))
        model = torch.distributions.Normal(mean_off, std)
        bits = torch.distributions.kl_divergence(truth, model).mean() / math.log(2)
        assert got[i].item() == pytest.approx(bits.item(), rel=2e-3)
        exact = torch.full_like(clean, -1.0)
        zero = variational_bound(scheduler, clean, noisy, timestep, target, exact)
        assert zero.abs().max() < 1e-4


def test_variance_is_pushed_towards_the_error_of_the_mean(case):
    scheduler, clean, noise, noisy, timestep, _ = case

    def slope(prediction, value):
        logits = torch.full_like(clean, value).requires_grad_()
        bound = variational_bound(scheduler, clean, noisy, timestep, prediction, logits)
        bound[0].backward()
        return logits.grad[0].mean().item()

    assert slope(noise, 1.0) > 0  # exact mean, variance too large: gradient descent decreases it
    assert slope(noise, -1.0) == pytest.approx(0, abs=1e-8)  # the posterior variance is right
    assert slope(noise + 5.0, -1.0) < 0  # wrong mean: the variance should grow


def test_likelihood_at_time_zero_includes_the_tails_at_black_and_white(ddpm):
    scheduler = build_scheduler(ddpm)
    clean = torch.tensor([-1.0, 1.0, 0.25]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    first = scheduler.alphas_cumprod[0]
    error = torch.tensor([0.3, -0.2, 0.4]).view(1, 3, 1, 1).expand_as(clean)
    got = variational_bound(
        scheduler,
        clean,
        first.sqrt() * clean,
        torch.tensor([0]),
        error,
        torch.ones_like(clean),
    )
    std = (1 - first.item()) ** 0.5
    off = [std / first.item() ** 0.5 * e for e in (0.3, -0.2, 0.4)]  # x - mean = +sigma e / a

    def phi(x):
        return 0.5 * (1 + math.erf(x / std / math.sqrt(2)))

    masses = [
        phi(off[0] + 1 / 255),
        1 - phi(off[1] - 1 / 255),
        phi(off[2] + 1 / 255) - phi(off[2] - 1 / 255),
    ]
    expected = -sum(math.log2(mass) for mass in masses) / 3
    assert got.item() == pytest.approx(expected, rel=2e-3)
