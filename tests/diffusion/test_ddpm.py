"""Channels, patches and classes of the denoiser; EMA and batches of the training loop."""

import contextlib

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from builders import prepare, sample_sdas, train_ddpm
from trees import make_tree
from typer.testing import CliRunner

from realnet.cli import app
from realnet.compute.runtime import start
from realnet.config.params import load, stage_params
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256
from realnet.core.seeds import derive, torch_generator
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.diffusion.denoiser import Denoiser, classes_of, load_ddpm
from realnet.diffusion.loss import DiffusionBatch, training_loss
from realnet.diffusion.sampler import Chain, SampleBatch, sample_images
from realnet.diffusion.scheduler import build_scheduler
from realnet.plots.tiling import tile
from realnet.registry import params_of
from realnet.training import checkpoint
from realnet.training import denoiser_training as training
from realnet.training.batches import shuffled_epochs
from realnet.training.denoiser_training import moving_average, updates


def smoke(**ddpm):
    return load(overrides={"preset": "smoke", "ddpm": ddpm})


def randomised(net):
    """Randomise all weights: diffusers initialises some layers with zeros."""
    draw = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    return net.eval()


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_order_of_prediction_and_variance_channels(patch):
    """First the prediction, then the variance logits, each unshuffled separately."""
    net = randomised(Denoiser(smoke(patch=patch).ddpm, 32, classes=1))
    sample, when = torch.randn(2, 3, 32, 32), torch.tensor([3, 700])
    got = net(sample, when)
    raw = net.unet(F.pixel_unshuffle(sample, patch), when).sample
    assert got.shape == (2, 6, 32, 32) and raw.shape == (2, 6 * patch**2, 32 // patch, 32 // patch)
    for group, channel, y, x in ((0, 0, 5, 9), (0, 2, 31, 0), (1, 0, 6, 6), (1, 2, 7, 30)):
        inside = (y % patch) * patch + x % patch
        source = (group * 3 + channel) * patch**2 + inside
        expected = raw[:, source, y // patch, x // patch]
        assert torch.equal(got[:, 3 * group + channel, y, x], expected)


def test_time_and_class_change_the_output():
    params = smoke(scope="dataset").ddpm
    net = randomised(Denoiser(params, 32, classes_of("dataset", ["a", "b"])))
    x = torch.randn(1, 3, 32, 32)
    base = net(x, torch.tensor([5]), torch.tensor([0]))
    assert not torch.allclose(net(x, torch.tensor([500]), torch.tensor([0])), base)
    assert not torch.allclose(net(x, torch.tensor([5]), torch.tensor([1])), base)
    assert classes_of("category", ["a", "b"]) == 1
    assert Denoiser(params, 32, classes=1).unet.class_embedding is None


def test_texture_changes_only_the_prediction():
    """With `texture_std` it is the posterior mean of x_0; the variance logits do not change."""
    params = smoke(prediction_type="sample", texture_std=0.05).ddpm
    net = randomised(Denoiser(params, 32, classes=1))
    x, when = torch.randn(2, 3, 32, 32), torch.tensor([2, 600])
    got = net(x, when)
    net.texture_std = None
    plain = net(x, when)
    assert torch.equal(got[:, 3:], plain[:, 3:])
    for i, t in enumerate(when.tolist()):
        alpha = build_scheduler(params).alphas_cumprod[t].item()
        precision = 1 / 0.05**2, alpha / (1 - alpha)  # of the structure, and of x_t
        seen = x[i] / alpha**0.5
        mean = (precision[0] * plain[i, :3] + precision[1] * seen) / sum(precision)
        assert torch.allclose(got[i, :3], mean, atol=1e-4)


def test_an_indivisible_image_size_is_refused():
    with pytest.raises(UserError, match=r"multiple of ddpm.patch x.* = 8"):
        Denoiser(smoke().ddpm, 36, classes=1)


class Recorder(torch.nn.Module):
    """A network that predicts noise 0 and records its inputs."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, sample, timestep, label):
        self.asked.append((sample.clone(), timestep.tolist(), label))
        return torch.zeros_like(sample)


def sampled(labels=None, start_images=None, **options):
    params = load(overrides={"preset": "smoke", "ddpm": {"variance": "fixed_small"}})
    net, scheduler = Recorder(), build_scheduler(params.ddpm)
    chain = Chain(steps=10, size=8, **options)
    batch = SampleBatch([1, 2], torch.zeros(2), labels, start_images)
    images = sample_images(net, scheduler, start(params.compute), chain, batch)
    return images, net.asked, scheduler


def test_sampling_visits_every_timestep_with_its_labels():
    images, asked, _ = sampled(labels=torch.tensor([1, 0]))
    assert [when for _, when, _ in asked] == [[t] * 2 for t in range(900, -1, -100)]
    assert asked[0][2].tolist() == [1, 0]
    assert images.dtype == torch.uint8 and images.shape == (2, 3, 8, 8)
    first = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(asked[0][0][1], first)


def test_samples_are_rounded_or_truncated_as_configured():
    rounded, cut = sampled()[0], sampled(rounding="truncate")[0]
    step = rounded.int() - cut.int()
    assert set(step.unique().tolist()) == {0, 1}


@pytest.mark.parametrize(("fraction", "first"), [(0.3, 200), (0.01, 0), (1.0, 900)])
def test_sampling_from_images_starts_at_the_fraction(fraction, first):
    clean = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    images, asked, scheduler = sampled(start_images=clean, start_fraction=fraction)
    assert asked[0][1] == [first] * 2 and len(asked) == first // 100 + 1
    alpha = scheduler.alphas_cumprod[first]
    noise = torch.stack(
        [torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    )
    expected = alpha.sqrt() * (clean.float() / 127.5 - 1) + (1 - alpha).sqrt() * noise
    assert torch.allclose(asked[0][0], expected, atol=1e-6)
    if first == 0:  # one step from almost clean images returns them, up to that noise
        assert (images.int() - clean.int()).abs().max() <= 12


@pytest.fixture(scope="module")
def noise_dataset(tmp_path_factory):
    """Two manifests of eight random 32-pixel images each."""
    import numpy as np

    from realnet.core.io import write_csv, write_png

    root = tmp_path_factory.mktemp("ddpm")
    fields = ["path", "split", "label", "defect", "mask_path", "width", "height", "sha256"]
    fields += ["mask_sha256"]
    for index, category in enumerate(("dark", "light")):
        rows = []
        for number in range(8):
            rng = np.random.default_rng([index, number])
            path = root / category / f"{number}.png"
            pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8) + np.uint8(180 * index)
            write_png(path, pixels)
            rows.append(dict.fromkeys(fields, "") | {"path": path, "split": "train", "label": 0})
            rows[-1] |= {"defect": "good", "width": 32, "height": 32, "sha256": sha256(path)}
        write_csv(root / category / "manifest.csv", rows, fields)
    return root


def train(root, out, categories=("dark",), seed=0, compute=None, **ddpm):
    overrides = {"preset": "smoke", "ddpm": {"steps": 3} | ddpm, "compute": compute or {}}
    params = load(overrides=overrides)
    stage = stage_params(params.section_json("ddpm"), params_of("ddpm"))
    manifests = [root / name / "manifest.csv" for name in categories]
    train_ddpm(stage, manifests, "mine", list(categories), seed, out)
    return safetensors.torch.load_file(out / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def plain(**options):
    """A constant learning rate and no EMA, so that the saved weights are those of the last step."""
    ema = {"decay": 0.0, "warmup": False, "power": 0.75}
    return {"lr_schedule": "constant", "warmup_steps": 0, "ema": ema} | options


def close(a, b, atol=1e-6):
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], atol=atol) for k in a)


def raw_weights(out):
    return safetensors.torch.load_file(out / "raw.safetensors")


def initial_weights(seed=0, category="dark"):
    torch.manual_seed(derive(seed, "ddpm", "mine", category, "init"))
    return Denoiser(smoke().ddpm, 32, classes=1).state_dict()


def test_official_ema_starts_at_the_initial_weights_with_constant_decay(noise_dataset, tmp_path):
    ema = {"decay": 0.75, "warmup": False, "power": 0.75}
    made = train(noise_dataset, tmp_path / "made", **plain(ema=ema))
    raw = [initial_weights()]
    for steps in (1, 2, 3):
        raw.append(train(noise_dataset, tmp_path / str(steps), **plain(steps=steps)))
        assert same(raw[-1], raw_weights(tmp_path / str(steps)))  # with decay 0 both are equal
    assert same(raw[-1], raw_weights(tmp_path / "made")) and not close(raw[-1], made, 1e-4)
    shares = (0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25)
    average = {k: sum(s * w[k] for s, w in zip(shares, raw, strict=True)) for k in made}
    assert close(made, average)
    decay = moving_average(
        [torch.nn.Parameter(torch.zeros(1))],
        smoke().ddpm.ema.model_copy(update={"warmup": False, "decay": 0.9999}),
    ).get_decay
    assert {decay(step) for step in (1, 2, 10, 10**6)} == {0.9999}


def test_ema_warmup_follows_the_documented_schedule(noise_dataset, tmp_path):
    """As documented for `ema`: 1 - (1 + n)^-power, capped at `decay`."""
    params = smoke(ema={"decay": 0.9, "warmup": True, "power": 0.75}).ddpm.ema
    ema = moving_average([torch.nn.Parameter(torch.zeros(1))], params)
    for step in (1, 10, 1000):
        assert ema.get_decay(step + 1) == pytest.approx(min(0.9, 1 - (1 + step) ** -0.75))
    assert ema.get_decay(1) == 0  # the initial weights are forgotten
    config = {"steps": 1, "ema": params.model_dump()}
    assert same(train(noise_dataset, tmp_path, **config), raw_weights(tmp_path))
    recorded = read_json(tmp_path / "config.json")
    assert recorded["raw_sha256"] == sha256(tmp_path / "raw.safetensors")


def test_accumulation_and_micro_batches_do_not_change_an_update(noise_dataset, tmp_path):
    """Updates of equal size from other batches, accumulations and micro-batches, up to rounding."""
    whole = train(noise_dataset, tmp_path / "whole", **plain(batch_size=6, accumulation=1))
    for number, (batch, accumulation, micro) in enumerate(((2, 3, None), (6, 1, 4), (3, 2, 2))):
        out = tmp_path / str(number)
        options = {"batch_size": batch, "accumulation": accumulation, "micro_batch": micro}
        assert close(train(noise_dataset, out, **plain(**options)), whole, 1e-4)  # steps are 2e-3
        for name in ("loss", "loss_prediction", "loss_vb", "grad_norm"):
            assert column(out, name) == pytest.approx(column(tmp_path / "whole", name), rel=1e-4)
    for row in read_csv(tmp_path / "whole/history.csv"):
        parts = float(row["loss_prediction"]) + float(row["loss_vb"])
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-5)
        assert float(row["loss_vb"]) > 0
    official = plain(batch_size=6, accumulation=1, accumulation_rule="official")
    assert same(
        train(noise_dataset, tmp_path / "one", **official), whole
    )  # one micro-step: no difference


def column(out, name):
    return [float(row[name]) for row in read_csv(out / "history.csv")]


def test_official_accumulation_clips_the_running_sum(noise_dataset, tmp_path):
    """Against the gradients of single micro-steps, summed and clipped in the test."""
    limit, rate = 0.3, 1e-3
    options = plain(steps=1, batch_size=2, accumulation=3, lr=rate, grad_clip=limit)
    options |= {"accumulation_rule": "official", "min_snr_gamma": None}
    made = train(noise_dataset, tmp_path, **options)
    params = smoke(**options).ddpm
    net, scheduler = Denoiser(params, 32, 1), build_scheduler(params)
    net.load_state_dict(initial_weights())
    items = [i for i in read_manifest(noise_dataset / "dark/manifest.csv") if i.split == "train"]
    images = load_images(items, 32)
    names = ("ddpm", "mine", "dark")
    chosen = shuffled_epochs(len(images), 6, 0, *names)(0)
    generator = torch_generator(0, *names, "step", 0)
    noise = torch.randn(6, 3, 32, 32, generator=generator)
    when = torch.randint(1000, (6,), generator=generator)
    running, norms = None, []
    for part in torch.arange(6).split(2):
        clean = images[chosen[part]].float() / 127.5 - 1
        batch = DiffusionBatch(clean, noise[part], when[part], label=None)
        loss = training_loss(net, params, scheduler, start(load().compute), batch)[0]
        found = torch.autograd.grad(loss, list(net.parameters()))
        running = found if running is None else [a + b for a, b in zip(running, found, strict=True)]
        norms.append(torch.stack([g.norm() for g in running]).norm().item())
        running = [g * min(1.0, limit / norms[-1]) for g in running]
    assert min(norms) > limit  # so each was clipped
    assert column(tmp_path, "grad_norm") == pytest.approx([norms[-1]], rel=1e-4)
    # The first step of Adam is lr * g / (|g| + eps): visible where g is not far above eps.
    for (key, before), gradient in zip(initial_weights().items(), running, strict=True):
        step = rate * gradient / (gradient.abs() + 1e-8)
        big = gradient.abs() > 1e-6
        assert torch.allclose((before - made[key])[big], step[big], atol=2e-6), key
    mean = train(noise_dataset, tmp_path / "mean", **options | {"accumulation_rule": "mean"})
    assert column(tmp_path / "mean", "grad_norm")[0] < norms[-1] and not same(mean, made)


def test_epochs_are_rounded_up_to_updates(noise_dataset, tmp_path):
    options = {"steps": None, "epochs": 3, "batch_size": 5, "accumulation": 1}
    train(noise_dataset, tmp_path, **options)
    assert len(read_csv(tmp_path / "history.csv")) == 5  # 3 x 8 images / 5
    official = {"steps": None, "epochs": 240, "batch_size": 20, "accumulation": 3}
    assert (
        updates(smoke(**official).ddpm, 3629) == 14516
    )  # with the official rounding per epoch 14560
    for wrong in ({"epochs": 3}, {"steps": None}):
        with pytest.raises(UserError, match=r"ddpm: give one of steps and epochs"):
            smoke(**wrong)


@contextlib.contextmanager
def kept_for_backward():
    """A list whose last entry counts the bytes that autograd saves in a forward pass."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def test_activation_checkpointing_gives_the_same_gradients_in_less_memory(noise_dataset, tmp_path):
    with kept_for_backward() as all_of_them:
        kept = train(noise_dataset, tmp_path / "kept", **plain(steps=1))
    with kept_for_backward() as some:
        again = train(
            noise_dataset, tmp_path / "again", gradient_checkpointing=True, **plain(steps=1)
        )
    assert close(again, kept)
    assert 0 < sum(some) < 0.7 * sum(all_of_them)


def test_bf16_stays_near_fp32_and_channels_last_changes_rounding(noise_dataset, tmp_path):
    exact = train(noise_dataset, tmp_path / "exact", **plain(steps=1))
    rough = train(
        noise_dataset, tmp_path / "rough", compute={"precision": "bf16"}, **plain(steps=1)
    )
    assert not same(exact, rough) and rough["unet.conv_in.weight"].dtype == torch.float32
    losses = column(tmp_path / "exact", "loss"), column(tmp_path / "rough", "loss")
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    contiguous = train(
        noise_dataset, tmp_path / "first", compute={"channels_last": False}, **plain(steps=1)
    )
    assert close(contiguous, exact, 1e-4)  # equal numbers summed in another order: a step is 2e-3


def test_training_starts_from_given_weights(noise_dataset, tmp_path, capsys):
    """From a joint model of two classes: all weights, and the classes if their number is equal."""
    source = train(noise_dataset, tmp_path / "source", ("dark", "light"), scope="dataset")
    ema = {"decay": 1.0, "warmup": False, "power": 1.0}  # the EMA keeps its initial weights
    options = {"init": str(tmp_path / "source"), "ema": ema, "steps": 1}
    both = train(noise_dataset, tmp_path / "both", ("light", "dark"), scope="dataset", **options)
    assert same(both, source)
    assert "class embedding taken over (2 classes)" in capsys.readouterr().out
    one = train(noise_dataset, tmp_path / "one", **options)
    shared = {k: v for k, v in source.items() if "class_embedding" not in k}
    assert same(one, shared)
    record = read_json(tmp_path / "one/stage.json")
    digest = sha256(tmp_path / "source/model.safetensors")
    assert record["init"] == {"folder": options["init"], "sha256": digest}
    assert record["inputs"]["init"]["sha256"] == sha256(tmp_path / "source/config.json")
    assert not same(raw_weights(tmp_path / "one"), one)
    with pytest.raises(UserError, match=r"nowhere/config\.json"):
        train(noise_dataset, tmp_path / "none", init="nowhere")


def test_seeds_and_clipping(noise_dataset, tmp_path):
    first = train(noise_dataset, tmp_path / "a")
    assert same(train(noise_dataset, tmp_path / "b"), first)
    assert not same(train(noise_dataset, tmp_path / "c", seed=1), first)
    assert (tmp_path / "a/history.csv").read_bytes() == (tmp_path / "b/history.csv").read_bytes()
    # AdamW is invariant to the scale of the first gradient, but not to that of later ones.
    assert not same(train(noise_dataset, tmp_path / "d", grad_clip=1e-9), first)


def test_joint_model_trains_and_reloads(noise_dataset, tmp_path):
    weights = train(noise_dataset, tmp_path, ("dark", "light"), scope="dataset")
    config = read_json(tmp_path / "config.json")
    assert config["categories"] == ["dark", "light"]
    assert weights["unet.class_embedding.weight"].shape[0] == 2
    runtime = start(load().compute)
    model, params, _ = load_ddpm(tmp_path, runtime)
    assert same(model.state_dict(), weights) and not model.training and params.scope == "dataset"
    swapped = tmp_path / "swapped"
    other = train(noise_dataset, swapped, ("light", "dark"), scope="dataset")
    assert not same(other, weights)  # the class is the index of the category
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"not the file of config\.json"):
        load_ddpm(tmp_path, runtime)


def test_conditional_training_uses_the_labels_of_the_images(noise_dataset, tmp_path, monkeypatch):
    """Dark images have class 0 and light ones class 1, in every batch."""
    seen = []
    forward = Denoiser.forward

    def spy(self, sample, timestep, label=None):
        if self.training:
            seen.append((sample, timestep, label))
        return forward(self, sample, timestep, label)

    monkeypatch.setattr(Denoiser, "forward", spy)
    train(noise_dataset, tmp_path, ("dark", "light"), scope="dataset", batch_size=8)
    labels = torch.cat([label for _, _, label in seen])
    when = torch.cat([t for _, t, _ in seen])
    level = torch.cat([s.mean((1, 2, 3)) for s, _, _ in seen])
    early = when < 300  # enough of the image is left to recognise it
    assert early.sum() >= 4 and set(labels.tolist()) == {0, 1}
    assert torch.equal(level[early] > 0, labels[early] == 1)


def test_joint_training_shows_every_image_of_each_category_once_per_epoch(tmp_path, monkeypatch):
    """MPDD's smallest category and one twice as large: an epoch shows every image of both once."""
    counts, categories = {"metal_plate": 54, "tubes": 122}, ["metal_plate", "tubes"]
    make_tree("mpdd", tmp_path / "raw", categories, size=(48, 40))
    settings = smoke().prepare
    for category in categories:
        prepare("mpdd", category, tmp_path / "raw", tmp_path / category, settings)
    seen = []
    loss = training.training_loss

    def spy(*given):
        seen.append((given[-1].clean, given[-1].label))
        return loss(*given)

    monkeypatch.setattr(training, "training_loss", spy)
    options = {"scope": "dataset", "steps": None, "epochs": 2, "batch_size": 11, "accumulation": 2}
    params = load(overrides={"preset": "smoke", "ddpm": options})
    manifests = [tmp_path / name / "manifest.csv" for name in categories]
    section = stage_params(params.section_json("ddpm"), params_of("ddpm"))
    train_ddpm(section, manifests, "mpdd", categories, 0, tmp_path / "all")
    assert len(read_csv(tmp_path / "all/history.csv")) == 2 * 176 // 22
    passes = torch.cat([label for _, label in seen]).view(2, 176)
    for order in passes:
        assert order.bincount().tolist() == list(counts.values())
        assert (
            0 < order[:44].bincount(minlength=2)[0] < 44
        )  # mixed, not one category after the other
    assert not torch.equal(*passes)
    known = [
        {image.numpy().tobytes() for image in load_images(_training(path), 32)}
        for path in manifests
    ]
    for clean, label in seen[:16]:
        for image, index in zip(clean, label.tolist(), strict=True):
            assert ((image + 1) * 127.5).round().to(torch.uint8).numpy().tobytes() in known[index]
    for number, category in enumerate(categories):
        out = tmp_path / "sdas" / category
        stage = stage_params(params.section_json("sdas"), params_of("sdas"))
        sample_sdas(stage, tmp_path / "all", manifests[number], "mpdd", category, 0, out)
        assert len(list((out / "images").glob("*.png"))) == 4


def _training(manifest):
    return [item for item in read_manifest(manifest) if item.split == "train"]


def test_mismatched_arguments_are_refused(noise_dataset, tmp_path):
    command = ["ddpm", "--manifest", str(noise_dataset / "dark/manifest.csv"), "--dataset", "mine"]
    command += ["--category", "dark", "--category", "light", "--out", str(tmp_path / "out")]
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, UserError) and "equally often" in str(error)


def test_tiles_are_in_reading_order():
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 4, 5)
    picture = tile(images, columns=2, gap=1)
    assert picture.shape == (2 * 5 + 1, 2 * 6 + 1, 3)
    assert picture[1:5, 1:6].max() == 0 and (picture[1:5, 7:12] == 1).all()
    assert (picture[6:10, 1:6] == 2).all() and (picture[6:10, 7:12] == 255).all()
    assert (picture[0] == 255).all() and (picture[:, 6] == 255).all()


# --- common parts of both training loops ----------------------------------------------------------


def test_every_epoch_is_a_new_permutation():
    batch = shuffled_epochs(10, 4, 0, "x")
    stream = torch.cat([batch(step) for step in range(10)])
    passes = stream.view(4, 10)
    assert all(sorted(p.tolist()) == list(range(10)) for p in passes)
    assert not torch.equal(passes[0], passes[1])
    again = shuffled_epochs(10, 4, 0, "x")
    assert all(
        torch.equal(again(s), batch(s)) for s in (7, 0, 3, 9)
    )  # any step, in any order of access
    assert not torch.equal(shuffled_epochs(10, 4, 1, "x")(0), batch(0))
    assert len(shuffled_epochs(3, 8, 0, "x")(1)) == 8


def test_each_epoch_ends_with_a_short_batch():
    batch = shuffled_epochs(10, 4, 0, "x", short_last=True)
    assert [len(batch(step)) for step in range(6)] == [4, 4, 2] * 2
    passes = [torch.cat([batch(3 * k + j) for j in range(3)]) for k in range(2)]
    assert all(sorted(p.tolist()) == list(range(10)) for p in passes)
    assert not torch.equal(*passes) and torch.equal(batch(1), passes[0][4:8])
    assert torch.equal(passes[0], shuffled_epochs(10, 10, 0, "x")(0))  # in the same order
    assert len(shuffled_epochs(3, 8, 0, "x", short_last=True)(1)) == 3


def test_learning_rate_warms_up_and_then_follows_its_schedule():
    cosine = checkpoint.learning_rate("cosine", 4, 104)
    assert [cosine(s) for s in range(4)] == [0.2, 0.4, 0.6, 0.8]
    assert cosine(4) == 1 and cosine(54) == pytest.approx(0.5) and cosine(104) == pytest.approx(0)
    constant = checkpoint.learning_rate("constant", 0, 10)
    assert [constant(s) for s in (0, 9)] == [1.0, 1.0]


def test_checkpoints_load_if_intact_and_are_removed_on_success(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "PATIENCE", 0)
    mine = checkpoint.fingerprint(params={"a": 1}, seed=0)
    assert mine == checkpoint.fingerprint(seed=0, params={"a": 1})
    assert mine != checkpoint.fingerprint(params={"a": 2}, seed=0)
    one = checkpoint.Checkpoints(tmp_path, mine)
    assert one.load() is None
    draws = torch.rand(3, generator=torch_generator(0, "x"))
    one.save(step=3, model={"w": draws}, history=[{"loss": 0.25}])
    state = one.load()
    assert state["step"] == 3 and torch.equal(state["model"]["w"], draws)
    with pytest.raises(UserError, match="another process is working here"):
        checkpoint.Checkpoints(tmp_path, mine)
    whole = one.path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"no checkpoint"):
        one.path.write_bytes(broken)
        assert one.load() is None, len(broken)
    assert capsys.readouterr().out.count("starts from scratch") == 3
    one.finish()
    assert not (tmp_path / "checkpoint").exists()
    checkpoint.Checkpoints(tmp_path, mine).finish()  # the lock is gone too
