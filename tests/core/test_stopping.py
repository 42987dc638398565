"""Signals, corrupt files and environment errors: nothing is lost, and the message is one line."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from realnet.cli import main
from realnet.core import stopping
from realnet.core.environment_errors import explain
from realnet.core.errors import UserError
from realnet.core.io import sha256, write_json
from realnet.core.progress import progress
from realnet.datasets.images import checked
from realnet.provenance.record import Record, intact
from realnet.tracking.client import without_password
from realnet.training import checkpoint
from realnet.training.checkpoint import Checkpoints, check_finite


@pytest.fixture(autouse=True)
def restore_handlers():
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    stopping.forget()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_loop_stops_after_the_step_in_which_a_signal_arrives(number):
    stopping.listen()
    done = []
    with pytest.raises(stopping.Stopped, match=f"{number.name} after step 3 of 9") as caught:
        for step, _ in progress(0, 9, "loop"):
            if step == 2:
                signal.raise_signal(number)
                assert stopping.asked() == number
            done.append(step)
    assert done == [0, 1, 2] and caught.value.number == number


def test_a_second_signal_stops_at_once():
    stopping.listen()
    with pytest.raises(stopping.Stopped), stopping.gently():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("not stopped")


def test_outside_loops_the_first_signal_stops_at_once():
    stopping.listen()
    with pytest.raises(stopping.Stopped, match=r"^stopped by SIGTERM; run again to resume$"):
        signal.raise_signal(signal.SIGTERM)


def test_a_process_ends_with_its_parent():
    parent = subprocess.Popen(["sleep", "60"])
    code = "from realnet.core import stopping; import time; stopping.listen()"
    code += "\nprint(1, flush=True)"
    code += "\ntry: time.sleep(60)\nexcept stopping.Stopped: raise SystemExit(7)"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {stopping.PARENT: str(parent.pid)},
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    time.sleep(0.3)
    assert child.poll() is None
    parent.kill()
    parent.wait()
    assert child.wait(timeout=20) == 7


def _damaged(path, part: bytes) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(part)
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_of_a_checkpoint_is_detected(tmp_path, capsys):
    weights = torch.arange(1000, dtype=torch.float32)
    first = Checkpoints(tmp_path, "x")
    first.save(step=3, weights=weights)
    assert torch.equal(first.load()["weights"], weights)
    _damaged(first.path, weights[500:510].numpy().tobytes())
    assert first.load() is None
    first.path.write_bytes(b"")
    assert first.load() is None
    assert capsys.readouterr().out.count("last.pt: corrupt") == 2


def test_a_second_process_waits_for_the_first(tmp_path, monkeypatch):
    first = Checkpoints(tmp_path, "x")
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.3)
    with pytest.raises(UserError, match="another process is working here"):
        Checkpoints(tmp_path, "x")
    os.close(first.lock)
    (tmp_path / "checkpoint" / ".last-half.pt").write_bytes(b"half")
    Checkpoints(tmp_path, "x")
    assert [p.name for p in (tmp_path / "checkpoint").iterdir()] == ["lock"]


def test_a_non_finite_loss_is_an_error():
    check_finite(1.0, 3, "demo")
    for loss in (float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"demo: the loss is (nan|inf) at step 4; lower"):
            check_finite(loss, 3, "demo")


def test_a_changed_input_is_named_before_it_is_used(tmp_path):
    made = tmp_path / "afs" / "afs.json"
    write_json(made, {"layers": [1, 2]})
    record = Record("afs", {}, {})
    record.write(made.parent, "cpu")
    assert intact(made) == sha256(made)
    made.write_text(made.read_text().replace("1", "3"))
    with pytest.raises(UserError, match=r"afs.json: changed or corrupt .* remove it"):
        Record("realnet", {}, {"afs": made})
    (made.parent / "stage.json").unlink()  # no record: an imported file
    assert intact(made) == sha256(made)


def test_images_are_checked_against_the_manifest(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    digest = sha256(path)
    assert checked(path, digest) == checked(path, "") == b"abc"
    path.write_bytes(b"abd")
    with pytest.raises(UserError, match=r"a.png: changed or damaged"):
        checked(path, digest)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.pt"), "x.pt: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "y"), "y: Read-only file system; write to"),
        (PermissionError(errno.EACCES, "Permission denied", "z"), "z: Permission denied; give"),
        (MemoryError(), "out of memory; give the job more memory"),
        (RuntimeError("PytorchStreamWriter failed writing file"), "a file could not be written"),
        (RuntimeError("CUDA error: device lost"), "the GPU failed or is gone"),
    ],
)
def test_environment_errors_are_one_line(error, line):
    got = explain(error)
    assert got.startswith(line) and "\n" not in got


def test_bugs_keep_their_traceback():
    assert explain(ValueError("x")) is None
    assert explain(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


def test_out_of_memory_is_explained():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert explain(caught.value).startswith("out of memory")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_the_command_reports_a_full_disk_in_one_line(monkeypatch, capsys):
    def full(*_, **__):
        with open("/dev/full", "w") as file:
            file.write("x")

    monkeypatch.setattr("realnet.cli.app", full)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("realnet: No space left on device; free some space")


def test_passwords_in_tracking_uris_are_not_shown():
    assert without_password("https://me:secret@host:80/x") == "https://host:80/x"
    assert without_password("sqlite:///mlflow.db") == "sqlite:///mlflow.db"


def test_a_late_signal_does_not_cost_the_checkpoint():
    """With several processes each gets the signal, some after they know of it from another rank."""
    stopping.listen()
    saved = []
    with pytest.raises(stopping.Stopped):
        for step, _ in progress(0, 3, "steps"):
            stopping.ask()
            signal.raise_signal(signal.SIGTERM)
            saved.append(step)
    assert saved == [0]


def test_a_signal_after_the_decision_stops_after_the_next_step():
    stopping.listen()
    seen = []
    with pytest.raises(stopping.Stopped, match="after step 2 of 3"):
        for step, _ in progress(0, 3, "steps"):
            if stopping.asked() is None:
                stopping.postpone()
                signal.raise_signal(signal.SIGTERM)
            seen.append(step)
    assert seen == [0, 1]
