"""The denoiser's channels, patches and classes; the training loop's averages and batches."""

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel

from realnet.diffusion.network import Denoiser, classes_of
from realnet.diffusion.sampling import sample_images
from realnet.diffusion.scheduler import build_scheduler
from realnet.diffusion.training import load_ddpm, tile, train_ddpm
from realnet.errors import UserError
from realnet.io import read_csv, read_json, sha256
from realnet.params import load, stage_params
from realnet.runtime import start
from realnet.seeds import torch_generator
from realnet.training import checkpoint
from realnet.training.batches import shuffled_epochs


def smoke(**ddpm):
    return load(overrides={"preset": "smoke", "ddpm": ddpm})


def lively(net):
    """diffusers starts some layers at zero; here everything is to matter."""
    draw = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    return net.eval()


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_and_variance_channels_are_where_they_belong(patch):
    """Prediction first, variance logits behind, each unshuffled for itself."""
    net = lively(Denoiser(smoke(patch=patch).ddpm, 32, classes=1))
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
    net = lively(Denoiser(params, 32, classes_of("dataset", ["a", "b"])))
    x = torch.randn(1, 3, 32, 32)
    base = net(x, torch.tensor([5]), torch.tensor([0]))
    assert not torch.allclose(net(x, torch.tensor([500]), torch.tensor([0])), base)
    assert not torch.allclose(net(x, torch.tensor([5]), torch.tensor([1])), base)
    assert classes_of("category", ["a", "b"]) == 1
    assert Denoiser(params, 32, classes=1).unet.class_embedding is None


def test_texture_only_touches_the_prediction():
    """With `texture_std` the posterior mean of x_0; the variance logits pass unchanged."""
    params = smoke(prediction_type="sample", texture_std=0.05).ddpm
    net = lively(Denoiser(params, 32, classes=1))
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


def test_a_size_that_does_not_halve_is_refused():
    with pytest.raises(UserError, match=r"multiple of ddpm.patch x.* = 8"):
        Denoiser(smoke().ddpm, 36, classes=1)


class Recorder(torch.nn.Module):
    """A network with a known answer: predicts noise 0 and notes what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, sample, timestep, label):
        self.asked.append((sample.clone(), timestep.tolist(), label))
        return torch.zeros_like(sample)


def draw(**options):
    params = load(overrides={"preset": "smoke", "ddpm": {"variance": "fixed_small"}})
    net, scheduler = Recorder(), build_scheduler(params.ddpm)
    values = {"steps": 10, "strengths": torch.zeros(2), "seeds": [1, 2], "labels": None, "size": 8}
    images = sample_images(net, scheduler, start(params.compute), **(values | options))
    return images, net.asked, scheduler


def test_sampling_walks_all_the_way_down_with_its_labels():
    images, asked, _ = draw(labels=torch.tensor([1, 0]))
    assert [when for _, when, _ in asked] == [[t] * 2 for t in range(900, -1, -100)]
    assert asked[0][2].tolist() == [1, 0]
    assert images.dtype == torch.uint8 and images.shape == (2, 3, 8, 8)
    first = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(asked[0][0][1], first)


@pytest.mark.parametrize(("fraction", "first"), [(0.3, 200), (0.01, 0), (1.0, 900)])
def test_sampling_from_images_starts_on_the_way(fraction, first):
    clean = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    images, asked, scheduler = draw(start_images=clean, start_fraction=fraction)
    assert asked[0][1] == [first] * 2 and len(asked) == first // 100 + 1
    alpha = scheduler.alphas_cumprod[first]
    noise = torch.stack(
        [torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    )
    expected = alpha.sqrt() * (clean.float() / 127.5 - 1) + (1 - alpha).sqrt() * noise
    assert torch.allclose(asked[0][0], expected, atol=1e-6)
    if first == 0:  # one step from hardly noised images gives them back, up to that noise
        assert (images.int() - clean.int()).abs().max() <= 12


@pytest.fixture(scope="module")
def noisy_set(tmp_path_factory):
    """Two manifests of eight random 32-pixel images each."""
    import numpy as np

    from realnet.io import write_csv, write_png

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


def train(root, out, categories=("dark",), seed=0, **ddpm):
    params = load(overrides={"preset": "smoke", "ddpm": {"steps": 3} | ddpm})
    stage = stage_params(params.section_json("ddpm"), "ddpm")
    manifests = [root / name / "manifest.csv" for name in categories]
    train_ddpm(stage, manifests, "mine", list(categories), seed, out)
    return safetensors.torch.load_file(out / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_file_holds_the_average_and_not_the_last_weights(noisy_set, tmp_path):
    options = {"lr_schedule": "constant", "warmup_steps": 0}
    name = "unet.conv_in.weight"

    def weights_after(steps, decay):
        ema = {"decay": decay, "warmup": False, "power": 0.75}
        return train(noisy_set, tmp_path / f"{steps}{decay}", steps=steps, ema=ema, **options)[name]

    one, two, three = (weights_after(steps, 0.0) for steps in (1, 2, 3))
    average = 0.15 * (0.15 * one + 0.85 * two) + 0.85 * three  # diffusers starts it after a step
    assert torch.allclose(weights_after(3, 0.15), average, atol=1e-7)
    assert not torch.allclose(average, three, atol=1e-5)


def test_average_with_warm_up_is_the_documented_one():
    """What `ema` in the parameters promises: 1 - (1 + n)^-power, capped at `decay`."""
    weight = torch.nn.Parameter(torch.zeros(1))
    ema = EMAModel([weight], decay=0.9, use_ema_warmup=True, power=0.75)
    for step in (1, 10, 1000):
        assert ema.get_decay(step + 1) == pytest.approx(min(0.9, 1 - (1 + step) ** -0.75))


def test_one_batch_or_several_small_ones_train_alike(noisy_set, tmp_path):
    """Gradients are averaged over the micro-batches: the same step, up to rounding and draws."""
    options = {"ema": {"decay": 0.0, "warmup": False, "power": 1.0}, "steps": 1}
    options |= {"min_snr_gamma": None}
    train(noisy_set, tmp_path / "a", batch_size=4, accumulation=2, **options)
    train(noisy_set, tmp_path / "b", batch_size=8, accumulation=1, **options)
    rows = [read_csv(tmp_path / n / "history.csv")[0] for n in "ab"]
    losses = [float(row["loss_prediction"]) for row in rows]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)  # not the sum, which is twice as large
    for row in rows:
        parts = float(row["loss_prediction"]) + float(row["loss_vb"])
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-5)
        assert float(row["loss_vb"]) > 0


def test_seeds_and_clipping(noisy_set, tmp_path):
    first = train(noisy_set, tmp_path / "a")
    assert same(train(noisy_set, tmp_path / "b"), first)
    assert not same(train(noisy_set, tmp_path / "c", seed=1), first)
    assert (tmp_path / "a/history.csv").read_bytes() == (tmp_path / "b/history.csv").read_bytes()
    # AdamW does not see the scale of a first gradient, but of later ones beside it.
    assert not same(train(noisy_set, tmp_path / "d", grad_clip=1e-9), first)


def test_joint_model_learns_both_classes_and_reloads(noisy_set, tmp_path):
    weights = train(noisy_set, tmp_path, ("dark", "light"), scope="dataset")
    config = read_json(tmp_path / "config.json")
    assert config["categories"] == ["dark", "light"]
    assert weights["unet.class_embedding.weight"].shape[0] == 2
    runtime = start(load().compute)
    model, params, _ = load_ddpm(tmp_path, runtime)
    assert same(model.state_dict(), weights) and not model.training and params.scope == "dataset"
    swapped = tmp_path / "swapped"
    other = train(noisy_set, swapped, ("light", "dark"), scope="dataset")
    assert not same(other, weights)  # the order of the categories is the class
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"not the file of config\.json"):
        load_ddpm(tmp_path, runtime)


def test_conditional_training_sees_the_right_label(noisy_set, tmp_path, monkeypatch):
    """Dark images come with class 0 and light ones with class 1, in every batch."""
    seen = []
    forward = Denoiser.forward

    def spy(self, sample, timestep, label=None):
        if self.training:
            seen.append((sample, timestep, label))
        return forward(self, sample, timestep, label)

    monkeypatch.setattr(Denoiser, "forward", spy)
    train(noisy_set, tmp_path, ("dark", "light"), scope="dataset", batch_size=8)
    labels = torch.cat([label for _, _, label in seen])
    when = torch.cat([t for _, t, _ in seen])
    level = torch.cat([s.mean((1, 2, 3)) for s, _, _ in seen])
    early = when < 300  # enough of the image is left to tell
    assert early.sum() >= 4 and set(labels.tolist()) == {0, 1}
    assert torch.equal(level[early] > 0, labels[early] == 1)


def test_arguments_that_do_not_match(noisy_set, tmp_path):
    stage = stage_params(smoke().section_json("ddpm"), "ddpm")
    manifest = noisy_set / "dark/manifest.csv"
    with pytest.raises(UserError, match="equally often"):
        train_ddpm(stage, [manifest], "mine", ["dark", "light"], 0, tmp_path)


def test_tiles_are_in_reading_order():
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 4, 5)
    picture = tile(images, columns=2, gap=1)
    assert picture.shape == (2 * 5 + 1, 2 * 6 + 1, 3)
    assert picture[1:5, 1:6].max() == 0 and (picture[1:5, 7:12] == 1).all()
    assert (picture[6:10, 1:6] == 2).all() and (picture[6:10, 7:12] == 255).all()
    assert (picture[0] == 255).all() and (picture[:, 6] == 255).all()


# --- what both loops share -----------------------------------------------------------------------


def test_every_pass_shows_each_image_once_in_another_order():
    batch = shuffled_epochs(10, 4, 0, "x")
    stream = torch.cat([batch(step) for step in range(10)])
    passes = stream.view(4, 10)
    assert all(sorted(p.tolist()) == list(range(10)) for p in passes)
    assert not torch.equal(passes[0], passes[1])
    again = shuffled_epochs(10, 4, 0, "x")
    assert all(torch.equal(again(s), batch(s)) for s in (7, 0, 3, 9))  # any step, in any order
    assert not torch.equal(shuffled_epochs(10, 4, 1, "x")(0), batch(0))
    assert len(shuffled_epochs(3, 8, 0, "x")(1)) == 8


def test_learning_rate_warms_up_and_then_follows_its_schedule():
    cosine = checkpoint.learning_rate("cosine", 4, 104)
    assert [cosine(s) for s in range(4)] == [0.2, 0.4, 0.6, 0.8]
    assert cosine(4) == 1 and cosine(54) == pytest.approx(0.5) and cosine(104) == pytest.approx(0)
    constant = checkpoint.learning_rate("constant", 0, 10)
    assert [constant(s) for s in (0, 9)] == [1.0, 1.0]


def test_checkpoints_keep_what_fits_and_forget_after_success(tmp_path, capsys):
    mine = checkpoint.fingerprint(params={"a": 1}, seed=0)
    assert mine == checkpoint.fingerprint(seed=0, params={"a": 1})
    assert mine != checkpoint.fingerprint(params={"a": 2}, seed=0)
    one = checkpoint.Checkpoints(tmp_path, mine)
    assert one.load() is None
    draws = torch.rand(3, generator=torch_generator(0, "x"))
    one.save(step=3, model={"w": draws}, history=[{"loss": 0.25}])
    state = one.load()
    assert state["step"] == 3 and torch.equal(state["model"]["w"], draws)
    with pytest.raises(UserError, match="another process is training here"):
        checkpoint.Checkpoints(tmp_path, mine)
    whole = one.path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"no checkpoint"):
        one.path.write_bytes(broken)
        assert one.load() is None, len(broken)
    assert capsys.readouterr().out.count("training starts anew") == 3
    one.finish()
    assert not (tmp_path / "checkpoint").exists()
    checkpoint.Checkpoints(tmp_path, mine).finish()  # the lock is gone too
