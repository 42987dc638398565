"""Deterministic algorithms of torch, and how nondeterministic operations are recorded."""

import json
import warnings

import pytest
import torch
import torch.nn.functional as F

from realnet.compute import determinism
from realnet.core import environment_errors as trouble
from realnet.models.realnet import realnet_loss
from realnet.provenance.record import Record


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(determinism, "_named", [])
    shown = []
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: shown.append(str(message))
        determinism.ask()
        yield shown
    torch.use_deterministic_algorithms(False)


def nondeterministic_operation() -> None:
    """Run an operation that has no deterministic implementation on any device."""
    torch.zeros(4).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]), accumulate=False)


def test_nondeterministic_operations_are_recorded(asked, tmp_path):
    record = Record("afs", {}, {})
    record.write(tmp_path, "cpu")
    assert "nondeterministic" not in json.loads((tmp_path / "stage.json").read_text())
    for _ in range(3):
        nondeterministic_operation()
    record.write(tmp_path, "cpu")
    assert json.loads((tmp_path / "stage.json").read_text())["nondeterministic"] == ["put_"]
    assert [warning.partition(",")[0] for warning in asked] == [
        "put_ does not have a deterministic implementation"
    ]


@pytest.mark.parametrize(
    ("warning", "name"),
    [
        (
            "nll_loss2d_forward_out_cuda_template does not have a deterministic implementation, but"
            " you set 'torch.use_deterministic_algorithms(True, warn_only=True)'.",
            "nll_loss2d_forward_out_cuda_template",
        ),
        (
            "Memory Efficient attention defaults to a non-deterministic algorithm. To explicitly"
            " enable determinism call torch.use_deterministic_algorithms(True, warn_only=False).",
            "Memory Efficient attention",
        ),
        (
            "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms`"
            " or `at::Context::setDeterministicAlgorithms(true)`, but this operation is not"
            " deterministic because it uses CuBLAS and you have CUDA >= 10.2.",
            "CuBLAS",
        ),
        ("a deterministic algorithm was used", None),
    ],
)
def test_the_operation_is_parsed_from_each_form_of_torchs_message(warning, name):
    assert determinism.kernel(warning) == name


def test_nondeterminism_is_an_error_in_backward_and_a_warning_in_forward(asked):
    seen = []

    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            seen.append(torch.is_deterministic_algorithms_warn_only_enabled())
            return 2 * x

        @staticmethod
        def backward(_, gradient):
            seen.append(torch.is_deterministic_algorithms_warn_only_enabled())
            if gradient.item() < 0:
                nondeterministic_operation()
            return 2 * gradient

    x = torch.ones((), requires_grad=True)
    determinism.backward(Layer.apply(x))
    assert x.grad == 2 and seen == [True, False]
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    with pytest.raises(RuntimeError, match="put_ does not have") as failed:
        determinism.backward(-Layer.apply(x))
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    line = trouble.explain(failed.value)
    assert line.startswith("the gradient of an operation depends on chance") and "put_" in line


def test_both_forms_of_the_cross_entropy_are_equal():
    """Torch's own, and the one for CUDA, where the kernel of the mean sums in any order."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 2, 17, 19, generator=draw).requires_grad_()
    masks = torch.rand(3, 17, 19, generator=draw) < 0.3
    plain = realnet_loss(logits, masks, [], [])[0]
    ours = F.cross_entropy(logits, masks.long(), reduction="none").mean()
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (plain, ours)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_training_steps_are_reproducible(asked):
    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        x = torch.randn(2, 8, 64, 64, device="cuda", requires_grad=True)
        q, k, v = (x.flatten(2).view(2, 2, 4, -1).transpose(2, 3) * w for w in (1, 2, 3))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)
        large = F.interpolate(mixed, (256, 256), mode="bilinear", align_corners=True)
        masks = torch.rand(2, 256, 256, device="cuda") < 0.3
        determinism.backward(realnet_loss(large[:, :2], masks, [], [])[0])
        return [x.grad]

    first = gradients()
    assert all(torch.equal(a, b) for _ in range(5) for a, b in zip(first, gradients(), strict=True))
    assert determinism.named() == []
