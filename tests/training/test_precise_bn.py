"""Recomputed BatchNorm statistics: what they are, and what they leave alone."""

import safetensors.torch
import torch
from test_training import fit, made  # noqa: F401
from torch import nn

from realnet.config.params import load
from realnet.core.io import read_csv, read_json
from realnet.models.realnet import RealNet
from realnet.training.precise_bn import recompute_statistics, statistics_restored

RANKING = "select.norm."  # the layer by which RRS ranks, momentum 0.9


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.9), nn.ReLU()).eval()


def batches(count: int, seed: int = 1) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 8, 8, generator=draw) * (k + 1) for k in range(count)]


def test_statistics_are_means_over_the_batches():
    model, given = network(), batches(5)
    recompute_statistics(model, lambda k: model(given[k]), 5)
    outputs = [model[0](batch).transpose(0, 1).flatten(1) for batch in given]
    mean = torch.stack([out.mean(1) for out in outputs]).mean(0)
    variance = torch.stack([out.var(1) for out in outputs]).mean(0)
    assert torch.allclose(model[1].running_mean, mean, atol=1e-6)
    assert torch.allclose(model[1].running_var, variance, rtol=1e-5)
    assert model[1].momentum == 0.9 and not model.training


def test_they_do_not_depend_on_earlier_statistics_and_can_be_restored():
    first, second = network(), network()
    for batch in batches(3, seed=2):
        second.train()(batch)
    second.eval()
    before = {name: value.clone() for name, value in second.named_buffers()}
    with statistics_restored(second):
        for model in (first, second):
            recompute_statistics(model, lambda k, model=model: model(batches(4)[k]), 4)
        assert torch.equal(first[1].running_mean, second[1].running_mean)
        assert torch.equal(first[1].running_var, second[1].running_var)
    for name, value in second.named_buffers():
        assert torch.equal(value, before[name])


def test_the_discriminators_statistics_belong_to_the_final_scale_of_the_residuals():
    params = load(overrides={"preset": "smoke"}).model
    rrs = params.rrs.model_copy(update={"scaled": True})
    torch.manual_seed(0)
    model = RealNet([6, 4], params.model_copy(update={"rrs": rrs}), 16).eval()
    draw = torch.Generator().manual_seed(1)
    given = [
        [torch.randn(2, c, s, s, generator=draw) * (k + 1) ** 2 for c, s in ((6, 8), (4, 4))]
        for k in range(4)
    ]
    recompute_statistics(model, lambda k: model(given[k]), 4, first=[model.select.norm])
    inner = next(m for m in model.discriminate.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    inner.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].mean((0, 2, 3))))
    model.train()
    model.select.norm.momentum = 0.0
    final = model.select.norm.running_var.clone()
    for features in given:
        model(features)
    assert torch.equal(model.select.norm.running_var, final)
    # The hook's passes changed the running mean, so it is compared with one of before.
    again = torch.stack(seen).mean(0)
    model.select.norm.momentum = 0.9
    recompute_statistics(model, lambda k: model(given[k]), 4, first=[model.select.norm])
    assert torch.allclose(inner.running_mean, again, atol=1e-5)


def split(state: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    """Weights, and the statistics of BatchNorm."""
    ends = ("running_mean", "running_var", "num_batches_tracked")
    weights = {name: value for name, value in state.items() if not name.endswith(ends)}
    return weights, {name: value for name, value in state.items() if name.endswith(ends[:2])}


def test_weights_and_history_are_those_of_a_training_without_it(made, tmp_path):  # noqa: F811
    state = fit(made, tmp_path / "precise", precise_bn=3, select_every=2)
    plain = fit(made, tmp_path / "plain", select_every=2)
    (weights, statistics), (others, running) = split(state), split(plain)
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert any(not torch.equal(value, running[name]) for name, value in statistics.items())
    histories = [read_csv(tmp_path / name / "history.csv") for name in ("precise", "plain")]
    assert histories[0] == histories[1]
    assert read_json(tmp_path / "precise/model.json")["precise_bn"] == 3
    # The checkpoint that is best on the test set has them too.
    best = safetensors.torch.load_file(tmp_path / "precise/best.safetensors")
    other = safetensors.torch.load_file(tmp_path / "plain/best.safetensors")
    assert any(not torch.equal(best[name], other[name]) for name in statistics)


def test_without_it_the_last_batch_decides(made, tmp_path):  # noqa: F811
    """Official: nine tenths of the statistics that rank residuals are of the last batch."""
    assert load(overrides={"preset": "paper"}).training.precise_bn == 0
    steps = {"lr": 1e-12, "warmup_steps": 0, "lr_schedule": "constant"}
    moved = {}
    for precise in (0, 16):
        states = [
            fit(made, tmp_path / f"{precise}-{count}", steps=count, precise_bn=precise, **steps)
            for count in (6, 7)
        ]
        (name,) = [n for n in states[0] if n == RANKING + "running_mean"]
        moved[precise] = (states[0][name] - states[1][name]).abs().mean()
    assert moved[16] < 0.5 * moved[0]
