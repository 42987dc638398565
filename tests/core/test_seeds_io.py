"""Seeds, atomic files, stage records and the settings `auto` of the runtime."""

import copy
import os
import re
import stat

import numpy as np
import pytest
import torch

from realnet.compute.runtime import start
from realnet.config.params import load
from realnet.core import io
from realnet.core.errors import UserError
from realnet.core.progress import progress
from realnet.core.seeds import derive, numpy_generator, torch_generator
from realnet.provenance.record import Record, git_commit, peak_memory_mb

# --- seeds ---------------------------------------------------------------------------------------


def test_seeds_never_change():
    """The values are `b2sum -l 64` of the names, halved; others would change every result."""
    assert derive(0) == 4761921975702974394
    assert derive(0, "sdas", "demo", "hex_nut", 17) == 3614435964687676336


def test_seeds_depend_on_every_name_and_fit_63_bits():
    seeds = {derive(s, stage, i) for s in range(3) for stage in ("afs", "sdas") for i in range(200)}
    assert len(seeds) == 1200 and all(0 <= s < 2**63 for s in seeds)
    assert derive(1, 23) != derive(12, 3)


def test_equal_names_give_equal_generators():
    a, b = (torch.rand(4, generator=torch_generator(0, "x", 1)) for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(
        a, torch.rand(4, generator=torch_generator(0, "x"))
    )
    assert numpy_generator(0, "x").random() == numpy_generator(0, "x").random()
    assert numpy_generator(0, "x").random() != numpy_generator(1, "x").random()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    torch.rand(9, generator=torch_generator(0, "y"))
    assert torch.equal(torch.get_rng_state(), before)  # the global state is not used


# --- files ---------------------------------------------------------------------------------------


def test_writes_are_atomic(tmp_path):
    path = tmp_path / "deep/er/file.txt"
    io.write_text(path, "first")
    with pytest.raises(RuntimeError), io.atomic(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "first" and temporary.parent == path.parent
        raise RuntimeError
    assert path.read_text() == "first" and os.listdir(path.parent) == ["file.txt"]
    io.write_text(path, "second ü")
    assert path.read_text(encoding="utf-8") == "second ü" and os.listdir(path.parent) == [
        "file.txt"
    ]


def test_file_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        io.write_text(tmp_path / "a", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_json_round_trip_without_nan(tmp_path):
    value = {"a": [1, 2.5, None], "b": "ü", "tiny": 1e-300, "third": 1 / 3}
    io.write_json(tmp_path / "a.json", value)
    assert io.read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="JSON compliant"):
        io.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert io.read_json(tmp_path / "a.json") == value
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "d.json").write_bytes(b'"\xff"')
    (tmp_path / "e.json").write_text("[" * 100_000)
    wrong = [(f"{name}.json", "not valid JSON") for name in "bde"]
    for name, message in (*wrong, ("c.json", "no such file")):
        with pytest.raises(UserError, match=message):
            io.read_json(tmp_path / name)


def test_csv_round_trip_keeps_floats_exactly(tmp_path):
    rows = [{"a": 1 / 3, "b": 'say "hi", you'}, {"a": np.float64(0.1), "b": "two\nlines"}]
    io.write_csv(tmp_path / "a.csv", rows, ["a", "b"])
    got = io.read_csv(tmp_path / "a.csv")
    assert [float(r["a"]) for r in got] == [1 / 3, 0.1]
    assert [r["b"] for r in got] == ['say "hi", you', "two\nlines"]
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()
    with pytest.raises(ValueError, match="not in fieldnames"):
        io.write_csv(tmp_path / "a.csv", [{"c": 1}], ["a"])
    with pytest.raises(UserError, match="no such file"):
        io.read_csv(tmp_path / "none.csv")
    for broken in (b"a\n\xff\n", b"a\n" + b"x" * 200_000):
        (tmp_path / "b.csv").write_bytes(broken)
        with pytest.raises(UserError, match="not a table in UTF-8"):
            io.read_csv(tmp_path / "b.csv")


def test_digest_and_png(tmp_path):
    io.write_text(tmp_path / "a", "abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert io.sha256(tmp_path / "a") == digest
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    io.write_png(tmp_path / "b.png", pixels)
    from realnet.datasets.images import read_image

    assert np.array_equal(read_image(tmp_path / "b.png"), pixels)
    first = io.sha256(tmp_path / "b.png")
    io.write_png(tmp_path / "b.png", pixels)
    assert io.sha256(tmp_path / "b.png") == first


# --- provenance and runtime ----------------------------------------------------------------------


def test_record_has_inputs_versions_and_cost(tmp_path):
    io.write_text(tmp_path / "input.csv", "abc")
    record = Record("afs", {"afs": {"batches": 2}}, {"manifest": tmp_path / "input.csv"}, seed=3)
    io.write_text(tmp_path / "input.csv", "changed after the stage began")
    record.write(tmp_path, "cpu", channels=8)
    got = io.read_json(tmp_path / "stage.json")
    assert (got["stage"], got["seed"], got["device"], got["channels"]) == ("afs", 3, "cpu", 8)
    assert got["params"] == {"afs": {"batches": 2}}
    assert got["inputs"]["manifest"]["sha256"].startswith("ba7816bf")
    installed, noted = torch.__version__, got["versions"]["torch"]
    assert installed.partition("+")[0] == noted.partition("+")[0]
    assert 0 <= got["wall_s"] < 60 and 50 < got["peak_memory_mb"] < 100_000
    assert got["finished"].endswith("+00:00")


def test_commit_is_a_hash_or_none():
    commit = git_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(\+dirty)?", commit)
    held = bytearray(64 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert peak_memory_mb() >= 64


def test_auto_settings_on_a_cpu():
    compute = load().compute.model_copy(update={"device": "cpu"})
    runtime = start(compute)
    assert (runtime.name, runtime.precision, runtime.channels_last) == ("cpu", torch.float32, True)
    assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1
    layer = runtime.place(torch.nn.Conv2d(3, 4, 3))
    x = torch.randn(1, 3, 8, 8)
    with runtime.autocast():
        assert layer(x).dtype == torch.float32
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    half = start(compute.model_copy(update={"precision": "bf16", "channels_last": False}))
    placed = half.place(torch.nn.Conv2d(3, 4, 3))
    assert placed.weight.is_contiguous()
    with half.autocast():
        assert placed(x).dtype == torch.bfloat16
    assert half.compiled(placed) is placed


def test_fp32_disables_tf32():
    compute = load().compute
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    for precision, allowed in (("tf32", True), ("bf16", False), ("fp32", False)):
        runtime = start(compute.model_copy(update={"precision": precision, "device": "cpu"}))
        assert [f.allow_tf32 for f in flags] == [allowed] * 2
        assert (runtime.precision is torch.bfloat16) == (precision == "bf16")


def test_adamw_without_weight_decay_is_adam():
    runtime = start(load().compute.model_copy(update={"device": "cpu"}))
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(20, generator=draw)
    ours, adam = (torch.nn.Parameter(first.clone()) for _ in range(2))
    optimisers = runtime.adamw([ours], 0.01, 0.0), torch.optim.Adam([adam], 0.01, fused=True)
    for _ in range(5):
        gradient = torch.randn(20, generator=draw)
        for weight, optimiser in zip((ours, adam), optimisers, strict=True):
            weight.grad = gradient.clone()
            optimiser.step()
    assert torch.equal(ours, adam) and not torch.equal(ours, first)


def test_fused_adamw_equals_the_plain_loop_up_to_rounding_whatever_the_memory_layout():
    """Gradients, and moments of a checkpoint, in another layout than the channels_last weight."""
    runtime = start(load().compute.model_copy(update={"device": "cpu"}))
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(4, 3, 3, 3, generator=draw)
    plain = torch.nn.Parameter(first.clone())
    expected = torch.optim.AdamW([plain], lr=0.01, weight_decay=0.1, foreach=False)
    ours = torch.nn.Parameter(first.clone(memory_format=torch.channels_last))
    optimiser = runtime.adamw([ours], 0.01, 0.1)
    for step in range(6):
        if step == 3:  # as from a checkpoint of version 0.2.0
            ours = torch.nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
            optimiser = runtime.adamw([ours], 0.01, 0.1)
            optimiser.load_state_dict(copy.deepcopy(expected.state_dict()))
        gradient = torch.randn(4, 3, 3, 3, generator=draw)
        plain.grad, ours.grad = gradient.clone(), gradient.clone()
        expected.step()
        optimiser.step()
        assert optimiser.param_groups[0]["fused"]
        assert torch.allclose(ours, plain, rtol=0, atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(UserError, match="torch sees no CUDA device"):
        start(load().compute.model_copy(update={"device": "cuda"}))


def test_progress_resumes_its_count(capsys):
    assert [step for step, _ in progress(3, 6, "x")] == [3, 4, 5]
    assert list(progress(6, 6, "x")) == []
    assert "6/6" in capsys.readouterr().err


def test_the_digest_of_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.bin: no such file"):
        io.sha256(tmp_path / "nothing.bin")
