"""Classifier guidance: the official formula, guided samples, the stage and its command."""

import math
import os
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from builders import params_for, train_classifier, train_ddpm
from typer.testing import CliRunner

from realnet.cli import app
from realnet.compute.runtime import start
from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256, write_csv, write_png
from realnet.diffusion.denoiser import parameter_count
from realnet.diffusion.guidance import NoisyClassifier, load_guide, log_gradient
from realnet.diffusion.sampler import Chain, SampleBatch, sample_images
from realnet.diffusion.scheduler import build_scheduler
from realnet.stages import classifier as stage_module
from realnet.training import fit as loop

RUNTIME = start(load().compute)
CATEGORIES = ("dark", "light")


def stage(name, **overrides):
    return params_for(name, **{"ddpm": {"scope": "dataset"}} | overrides)


def test_official_size():
    """53.59 M parameters for the 15 categories of MVTec-AD."""
    paper = load(overrides={"preset": "paper"})
    with torch.device("meta"):
        assert parameter_count(NoisyClassifier(paper.classifier, 256, 15)) == 53_591_055


# --- the guided step -----------------------------------------------------------------------------


def official_variance(t, steps, logits):
    """Sigma_theta by the official formulas, in float64, with the betas of the respaced chain."""
    betas = np.linspace(1e-4, 0.02, 1000)
    kept = np.cumprod(1 - betas)[np.arange(0, 1000, 1000 // steps)]
    before = np.append(1.0, kept[:-1])
    own = 1 - kept / before
    posterior = own * (1 - before) / (1 - kept)
    lower = np.log(np.append(posterior[1], posterior[1:]))
    i = t // (1000 // steps)
    fraction = (logits.double() + 1) / 2
    return torch.exp(fraction * math.log(own[i]) + (1 - fraction) * lower[i])


def official(variance):
    """The schedule of the official sampling: 20 of 1000 steps."""
    ddpm = load(overrides={"preset": "paper", "ddpm": {"variance": variance}}).ddpm
    scheduler = build_scheduler(ddpm)
    scheduler.set_timesteps(20)
    return scheduler


def guided_and_not(scheduler, t, output, sample, guidance, strength):
    step = partial(scheduler.step, output, t, sample, strength=strength)
    return [
        step(torch.Generator().manual_seed(t), guidance=g).prev_sample for g in (guidance, None)
    ]


@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_guidance_shifts_the_mean_by_the_variance_before_inflation(strength):
    """At every step, also the last one, where no noise is added."""
    scheduler = official("learned_range")
    draw = torch.Generator().manual_seed(0)
    sample, gradient = (torch.randn(2, 3, 8, 8, generator=draw) for _ in range(2))
    output = torch.randn(2, 6, 8, 8, generator=draw).tanh()
    for t in scheduler.timesteps.tolist():
        guided, plain = guided_and_not(scheduler, t, output, sample, 40 * gradient, strength)
        expected = official_variance(t, 20, output[:, 3:]) * 40 * gradient
        error = (guided.double() - plain.double() - expected).abs().max()
        assert error < 1e-4 + 5e-4 * expected.abs().max(), t
        if t == 0:
            assert error < 1e-5 and 3e-3 < expected.abs().max() < 0.05  # small, but not zero


def test_with_a_fixed_variance_the_last_step_is_not_guided():
    scheduler = official("fixed_small")
    sample, output = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    gradient = torch.randn(2, 3, 8, 8)
    guided, plain = guided_and_not(scheduler, 50, output, sample, gradient, 0.0)
    lowest = official_variance(50, 20, torch.tensor(-1.0))  # the posterior variance
    assert torch.allclose(guided - plain, (lowest * gradient).float(), atol=1e-6)
    guided, plain = guided_and_not(scheduler, 0, output, sample, gradient, 0.0)
    assert torch.equal(guided, plain)


class Linear(torch.nn.Module):
    """Log-probabilities with a known gradient."""

    def __init__(self, classes=3, pixels=3 * 8 * 8):
        super().__init__()
        self.weights = torch.randn(classes, pixels, generator=torch.Generator().manual_seed(3))
        self.asked = []

    def forward(self, sample, timestep):
        self.asked.append(timestep.tolist())
        return sample.flatten(1) @ self.weights.T / 20


def test_gradient_against_the_closed_form():
    model, labels = Linear(), torch.tensor([2, 0])
    sample = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        got = log_gradient(model, labels, 0.7, RUNTIME, sample, torch.tensor([5, 900]))
    chances = (sample.flatten(1) @ model.weights.T / 20).softmax(1)
    expected = 0.7 / 20 * (model.weights[labels] - chances @ model.weights)
    assert torch.allclose(got.flatten(1), expected, atol=1e-6)
    assert model.asked == [[5, 900]] and not got.requires_grad
    alone = log_gradient(model, labels[1:], 0.7, RUNTIME, sample[1:], torch.tensor([900]))
    assert torch.allclose(alone, got[1:], atol=1e-7)


class ZeroNoise(torch.nn.Module):
    """A diffusion model that predicts zero noise for every class."""

    def forward(self, sample, timestep, label):
        return torch.zeros(len(sample), 6, *sample.shape[2:])


def draw(labels=None, guide=None, size=8, steps=20):
    chain, batch = Chain(steps, size), SampleBatch([1, 2], torch.zeros(2), labels)
    return sample_images(ZeroNoise(), official("learned_range"), RUNTIME, chain, batch, guide)


def test_scale_zero_is_identical_to_no_guidance():
    model, labels = Linear(), torch.tensor([2, 0])
    plain = draw(labels)
    assert torch.equal(draw(labels, partial(log_gradient, model, labels, 0.0, RUNTIME)), plain)
    assert not torch.equal(draw(labels, partial(log_gradient, model, labels, 9.0, RUNTIME)), plain)
    assert [when[0] for when in model.asked[:20]] == list(range(950, -1, -50))


# --- a trained classifier ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """Eight dark and twelve light images."""
    root = tmp_path_factory.mktemp("data")
    fields = ["path", "split", "label", "defect", "mask_path", "width", "height", "sha256"]
    fields += ["mask_sha256"]
    for index, (category, count) in enumerate(zip(CATEGORIES, (8, 12), strict=True)):
        rows = []
        for number in range(count):
            rng = np.random.default_rng([index, number])
            path = root / category / f"{number}.png"
            pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8) + np.uint8(160 * index)
            write_png(path, pixels)
            row = {"path": path, "split": "train", "label": 0, "defect": "good", "width": 32}
            rows.append(dict.fromkeys(fields, "") | row | {"height": 32, "sha256": sha256(path)})
        write_csv(root / category / "manifest.csv", rows, fields)
    return {name: root / name / "manifest.csv" for name in CATEGORIES}


def train(manifests, out, categories=CATEGORIES, **section):
    params = stage("classifier", classifier=section)
    train_classifier(params, [manifests[c] for c in categories], "mine", categories, 0, out)
    return safetensors.torch.load_file(out / "model.safetensors")


@pytest.fixture(scope="module")
def trained(manifests, tmp_path_factory):
    out = tmp_path_factory.mktemp("classifier")
    train(manifests, out, steps=60, batch_size=16, lr=0.01)
    return out


@pytest.fixture(scope="module")
def ddpm(manifests, tmp_path_factory):
    out = tmp_path_factory.mktemp("ddpm")
    train_ddpm(stage("ddpm"), list(manifests.values()), "mine", list(CATEGORIES), 0, out)
    return out


def guide_of(folder, **schedule):
    config = read_json(folder / "config.json")
    section = load(overrides={"preset": "smoke", "ddpm": {"schedule": schedule}}).ddpm.schedule
    return load_guide(folder, RUNTIME, config, section)


def test_the_classifier_separates_dark_from_light(trained):
    history = [float(row["loss"]) for row in read_csv(trained / "history.csv")]
    assert np.mean(history[:5]) > 0.5 and np.mean(history[-20:]) < 0.4
    accuracy = read_json(trained / "stage.json")["accuracy_by_timestep"]
    assert accuracy["0"] == 1.0 and accuracy["999"] < 1.0  # no information on the image is left
    assert {p.name for p in trained.iterdir()} == {
        *("model.safetensors", "config.json", "history.csv", "curves.png", "stage.json"),
    }


class Mixture(torch.nn.Module):
    """The optimal denoiser of images that are dark or light with equal probability; no labels."""

    def __init__(self, products):
        super().__init__()
        self.products = products

    def forward(self, sample, timestep, label):
        alpha = self.products[timestep[0]]
        var, levels = 0.2**2, torch.tensor([-0.65, 0.6])
        variance = alpha * var + 1 - alpha
        off = [sample - alpha.sqrt() * level for level in levels]
        chance = torch.stack([-(o**2).sum((1, 2, 3)) / (2 * variance) for o in off], 1).softmax(1)
        clean = sum(
            chance[:, k].view(-1, 1, 1, 1) * (levels[k] + var * alpha.sqrt() / variance * off[k])
            for k in range(2)
        )
        noise = (sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return torch.cat([noise, torch.zeros_like(noise)], 1)


def test_guided_samples_belong_to_their_class(trained):
    """Without guidance samples are dark or light at random, with guidance as requested."""
    classifier, scheduler, count = guide_of(trained), official("learned_range"), 12

    def light(label, scale):
        labels = torch.full((count,), label)
        images = sample_images(
            *(Mixture(scheduler.alphas_cumprod), scheduler, RUNTIME),
            Chain(steps=20, size=32),
            SampleBatch(range(count), torch.zeros(count), labels),
            partial(log_gradient, classifier, labels, scale, RUNTIME),
        )
        levels = images.float().mean((1, 2, 3))
        assert ((levels - 45).abs() < 10).logical_or((levels - 205).abs() < 10).all()
        return int((levels > 125).sum())

    chance = light(0, 0.0)
    assert light(1, 0.0) == chance and 4 <= chance <= 8
    assert light(0, 20.0) <= chance - 3 and light(1, 20.0) >= chance + 3


def test_the_gradient_increases_the_class_probability(trained):
    model, labels = guide_of(trained), torch.tensor([0, 1])
    sample, when = torch.randn(2, 3, 32, 32) * 0.5, torch.tensor([100, 300])

    def chance(images):
        with torch.no_grad():
            return F.log_softmax(model(images, when), -1)[[0, 1], labels]

    gradient = log_gradient(model, labels, 1.0, RUNTIME, sample, when)
    length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    step = 0.01 * gradient / length
    gain = chance(sample + step) - chance(sample)
    assert (gain > 0).all()
    assert torch.allclose(gain, 0.01 * length.flatten(), rtol=0.05)  # to first order


def test_a_stopped_training_resumes_to_identical_weights(manifests, tmp_path, monkeypatch, capsys):
    section = {"steps": 5, "checkpoint_every": 2, "accumulation": 2}
    whole = train(manifests, tmp_path / "whole", **section)
    progress, opened = loop.progress, []

    class Watched(stage_module.Checkpoints):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            opened.append(self)

    def stopped(first, total, label):
        yield from ((step, bar) for step, bar in progress(first, 3, label))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "progress", stopped)
        patch.setattr(stage_module, "Checkpoints", Watched)
        with pytest.raises(KeyboardInterrupt):
            train(manifests, tmp_path / "stopped", **section)
    os.close(opened[0].lock)  # as the exit of its process would
    assert not (tmp_path / "stopped/model.safetensors").exists()
    resumed = train(manifests, tmp_path / "stopped", **section)
    assert "resumed at step 2" in capsys.readouterr().out
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    histories = [(tmp_path / n / "history.csv").read_bytes() for n in ("whole", "stopped")]
    assert histories[0] == histories[1]


def test_accumulated_batches_are_averaged(manifests, tmp_path):
    rows = []
    for name, batch, times in (("a", 4, 2), ("b", 8, 1)):
        section = {"batch_size": batch, "accumulation": times, "steps": 1}
        train(manifests, tmp_path / name, **section)
        rows.append(read_csv(tmp_path / name / "history.csv")[0])
    assert float(rows[0]["loss"]) == pytest.approx(float(rows[1]["loss"]), rel=0.3)
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)


def test_training_starts_from_other_weights(manifests, trained, tmp_path, capsys):
    """All weights for the same classes, all but the last layer for others."""
    three = tmp_path / "three"
    three.mkdir()
    names = {**manifests, "grey": manifests["light"]}
    train(names, three, categories=("dark", "light", "grey"), steps=1)
    for folder, notice in (
        (trained, "taken over"),
        (three, "reinitialised (3 classes there, 2 here)"),
    ):
        begun = train(manifests, tmp_path / notice[:5], init=str(folder), steps=1, lr=1e-9)
        assert notice in capsys.readouterr().out
        given = safetensors.torch.load_file(folder / "model.safetensors")
        for key, value in begun.items():
            if value.shape == given[key].shape:
                assert torch.allclose(value, given[key], atol=1e-7), key
        record = read_json(tmp_path / notice[:5] / "stage.json")
        assert record["inputs"]["init"]["sha256"] == sha256(folder / "config.json")
    with pytest.raises(UserError, match=r"classifier.init: .* has patch 4, here it is 2"):
        train(manifests, tmp_path / "x", init=str(trained), patch=2)


# --- sampling by the command ---------------------------------------------------------------------


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception


def sampled(ddpm, manifests, out, scale, classifier=None, category="dark"):
    params = {"preset": "smoke", "ddpm": {"scope": "dataset"}, "sdas": {"guidance_scale": scale}}
    guided = ("--classifier", classifier) if classifier else ()
    call(
        *("sdas", "--ddpm", ddpm, "--manifest", manifests[category], "--dataset", "mine"),
        *("--category", category, "--out", out, *guided),
        *("--params", load(overrides=params).section_json("sdas")),
    )
    rows = read_csv(out / "manifest.csv")
    assert {float(row["guidance_scale"]) for row in rows} == {scale}
    return [(out / row["path"]).read_bytes() for row in rows]


def test_classifier_and_guided_sampling_by_command(manifests, ddpm, tmp_path):
    params = {"preset": "smoke", "ddpm": {"scope": "dataset"}, "classifier": {"steps": 2}}
    inputs = [w for c in CATEGORIES for w in ("--manifest", manifests[c], "--category", c)]
    out = tmp_path / "classifier"
    options = ("--params", load(overrides=params).section_json("classifier"))
    call("classifier", *inputs, "--dataset", "mine", "--out", out, *options)
    # The scale makes the gradient visible after two steps of training.
    guided = sampled(ddpm, manifests, tmp_path / "guided", 300.0, out)
    assert guided != sampled(ddpm, manifests, tmp_path / "plain", 0.0)
    record = read_json(tmp_path / "guided/stage.json")
    assert record["inputs"]["classifier"]["sha256"] == sha256(out / "config.json")


def refused(message, ddpm, manifests, tmp_path, **sdas):
    with pytest.raises(UserError, match=message):
        sampled(ddpm, manifests, tmp_path / "refused", **sdas)
    assert not (tmp_path / "refused").exists()


def test_guidance_requires_a_classifier_and_vice_versa(ddpm, manifests, trained, tmp_path):
    message = "guidance_scale is 2, which needs the folder of the stage classifier"
    refused(message, ddpm, manifests, tmp_path, scale=2.0)
    message = "guidance_scale is 0, which needs no classifier"
    refused(message, ddpm, manifests, tmp_path, scale=0.0, classifier=trained)


def test_an_incompatible_classifier_is_refused(ddpm, manifests, trained, tmp_path):
    swapped = tmp_path / "swapped"
    train(manifests, swapped, categories=CATEGORIES[::-1], steps=1)
    message = r"its categories is \['light', 'dark'\], the diffusion model's is \['dark', 'light'\]"
    refused(message, ddpm, manifests, tmp_path, scale=1.0, classifier=swapped)
    with pytest.raises(UserError, match=r"its schedule is .*, the diffusion model's is"):
        guide_of(trained, beta_end=0.03)
    refused("not of a classifier", ddpm, manifests, tmp_path, scale=1.0, classifier=ddpm)


def test_a_model_of_one_category_cannot_be_guided(manifests, trained, tmp_path):
    alone = tmp_path / "alone"
    params = stage("ddpm", ddpm={"scope": "category", "steps": 1})
    train_ddpm(params, [manifests["dark"]], "mine", ["dark"], 0, alone)
    message = "has only one category, so there is nothing to guide away from"
    refused(message, alone, manifests, tmp_path, scale=1.0, classifier=trained)
    with pytest.raises(UserError, match="a guidance classifier of dark has nothing to distinguish"):
        train(manifests, tmp_path / "one", categories=("dark",))
    with pytest.raises(UserError, match=r"guidance_scale .* needs ddpm\.scope: dataset"):
        load(overrides={"preset": "smoke", "sdas": {"guidance_scale": 1.0}})
    with pytest.raises(UserError, match="equally often"):
        call(
            "classifier",
            *("--manifest", manifests["dark"], "--dataset", "mine"),
            *("--category", "dark", "--category", "light", "--out", tmp_path / "none"),
        )


def test_only_guided_variants_use_a_classifier():
    guided = {"guided": {"sdas": {"guidance_scale": 1.0}}}
    p = load(overrides={"preset": "smoke", "ddpm": {"scope": "dataset"}, "variants": guided})
    assert p.uses_classifier("guided") and not p.uses_classifier("base")
    assert p.shared_variant("classifier", "guided") == "base"
    assert p.shared_variant("sdas", "guided") == "guided"
    texture = {"synthesis": {"sources": {"normal": 1, "texture": 1}}}
    guided = {"unused": {"sdas": {"guidance_scale": 1.0}} | texture}
    p = load(overrides={"preset": "smoke", "ddpm": {"scope": "dataset"}, "variants": guided})
    assert not p.uses_classifier("unused")
