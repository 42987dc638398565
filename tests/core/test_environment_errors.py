"""Full disks, missing permissions, too little memory, failing GPUs, non-finite weights, locks."""

import errno
import multiprocessing
import os
import resource
import subprocess
import sys
import time

import pytest
import torch

from realnet.compute.runtime import on_cuda
from realnet.config.params import stage_params
from realnet.core.environment_errors import explain
from realnet.core.errors import UserError
from realnet.core.io import atomic, save_weights, write_json
from realnet.registry import params_of
from realnet.training.checkpoint import Checkpoints


@pytest.fixture
def no_large_files():
    """Limit files to 64 KiB, to simulate a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["checkpoint", "weights", "json"])
def test_full_disk_names_the_file_and_leaves_no_partial_file(tmp_path, no_large_files, kind):
    big = {"weight": torch.zeros(2**16)}
    checkpoints = Checkpoints(tmp_path, "x")
    checkpoints.save(step=1, model={"weight": torch.zeros(8)})
    before = checkpoints.path.read_bytes()
    writes = {
        "checkpoint": ("checkpoint/last.pt", lambda: checkpoints.save(step=2, model=big)),
        "weights": ("model.safetensors", lambda: save_weights(tmp_path / "model.safetensors", big)),
        "json": ("model.json", lambda: write_json(tmp_path / "model.json", ["x" * 2**17])),
    }
    name, write = writes[kind]
    with pytest.raises(Exception) as caught:  # each library raises its own error
        write()
    line = explain(caught.value)
    assert line.startswith(f"{tmp_path / name}") and "free some space" in line and "\n" not in line
    assert checkpoints.path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["last.pt", "lock"]


@pytest.fixture
def unprivileged(tmp_path):
    """Run the test as another user if it runs as root, which permissions do not restrict."""
    tmp_path.chmod(0o555)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_unwritable_folder_is_named(tmp_path, unprivileged):
    """Without write permission, or, for another user than the owner, without read permission."""
    with pytest.raises(PermissionError) as caught, atomic(tmp_path / "x"):
        pass
    line = explain(caught.value)
    assert line.startswith(str(tmp_path)) and "Permission denied; give this user" in line


def test_too_little_memory_to_import_torch_is_one_line():
    """With an address space in which Python starts but torch cannot be imported."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30));"
    code = f"{limit} import sys; sys.argv = ['realnet', 'afs', *sys.argv[1:]];"
    code += "from realnet.cli import main; main()"
    given = ["--dataset", "d", "--category", "c", "--manifest", "m", "--backbone", "b"]
    given += ["--out", "o", "--seed", "0"]
    done = subprocess.run(
        [sys.executable, "-c", code, *given],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("realnet: out of memory; give the job more")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_out_of_memory_errors_name_the_parameters_to_lower(error):
    line = explain(error)
    assert "give the job more memory, or lower batch sizes" in line


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("No CUDA GPUs are available"),
        RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 999: unknown error"),
    ],
)
def test_gpu_failures_are_explained(error):
    assert explain(error).startswith("the GPU failed or is gone (see nvidia-smi)")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch knows no CUDA")
def test_an_unusable_leased_gpu_does_not_fall_back_to_the_cpu(monkeypatch):
    compute = stage_params("params.yaml", params_of("afs")).compute
    assert compute.device == "auto"
    for nothing in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert on_cuda(compute) is False
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-gone")
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES is GPU-gone, but torch sees no such"):
        on_cuda(compute)
    assert on_cuda(compute.model_copy(update={"device": "cpu"})) is False


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_not_saved(tmp_path, value):
    good, bad = torch.zeros(3), torch.tensor([0.0, value])
    checkpoints = Checkpoints(tmp_path, "x")
    checkpoints.save(step=1, model={"a": good})
    with pytest.raises(UserError, match=r"last.pt: not written, .*\(b is not finite\); lower"):
        checkpoints.save(step=2, model={"a": good, "b": bad})
    assert checkpoints.load()["step"] == 1
    with pytest.raises(UserError, match=r"model.safetensors: not written"):
        save_weights(tmp_path / "model.safetensors", {"b": bad})
    assert not (tmp_path / "model.safetensors").exists()


def _train(folder, rounds):
    """Acquire the lock, check that no other process holds it, and finish; repeatedly."""
    holder = folder.with_name("holder")
    for _ in range(rounds):
        checkpoints = Checkpoints(folder, "x")
        os.close(os.open(holder, os.O_CREAT | os.O_EXCL))  # FileExistsError: two hold it
        checkpoints.save(step=1, model={})
        time.sleep(0.001)
        holder.unlink()
        checkpoints.finish()


def test_the_lock_admits_one_process_at_a_time(tmp_path):
    """Also while a process removes its checkpoints together with the lock file of the others."""
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_train, args=(tmp_path / "out", 5)) for _ in range(6)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(timeout=100)
    assert [job.exitcode for job in jobs] == [0] * 6
    assert list((tmp_path / "out").iterdir()) == []
