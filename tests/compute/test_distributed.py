"""Trainings in two processes on the CPU, with real processes and gradient exchange."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import members
import numpy as np
import pytest
import safetensors.torch
import torch
from builders import joint_job, make_backbone, params_for, realnet_job, select_features

from realnet.cli import main
from realnet.compute.distributed import launch, process_count, share
from realnet.compute.runtime import Runtime
from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256, write_csv, write_png
from realnet.stages import ddpm, realnet

PROJECT = Path(__file__).resolve().parents[2]
SIZE, IMAGES = 32, 9
FIELDS = ["path", "split", "label", "defect", "mask_path", "width", "height", "sha256"]
FIELDS += ["mask_sha256"]
TEXTURES = {"sources": {"normal": 0.5, "texture": 0.5}, "foreground": "none"}
LENGTHS = {"lr_schedule": "constant", "warmup_steps": 0}
DDPM = LENGTHS | {"steps": 4, "batch_size": 6, "accumulation": 2, "micro_batch": 2, "lr": 2e-3}
DDPM["positions"] = True
REALNET = LENGTHS | {"steps": None, "epochs": 2, "batch_size": 3, "lr": 1e-3}
EMA = {"decay": 0.0, "warmup": False, "power": 0.75}


def stage(name, processes, **overrides):
    values = {"synthesis": TEXTURES, "compute": {"processes": processes}}
    return params_for(name, **values | overrides)


def ddpm_arguments(root, out, processes=2, **options):
    section = DDPM | {"ema": EMA} | options
    params = stage("ddpm", processes, ddpm=section)
    return (joint_job(params, [root / "manifest.csv"], "mine", ["cloth"], 0, out),)


def realnet_arguments(root, out, processes=2, **options):
    inputs = root / "manifest.csv", root / "backbone", root / "afs", None
    params = stage("realnet", processes, **{"training": REALNET} | options)
    return (realnet_job(params, *inputs, "mine", "cloth", 0, out),)


# Nine images in batches of four: the last batch of an epoch has one, so one process has none.
# Without ranking_norm: over a single image all its means are zero, so ranks are rounding errors.
LAST_ONE = {"training": REALNET | {"batch_size": 4}, "model": {"rrs": {"ranking_norm": False}}}
# Options that the official code does not have, as in the demo.
OURS = {
    "training": REALNET | {"precise_bn": 2},
    "model": {"rrs": {"scaled": True, "padding": "replicate"}},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Images of noise, and every training in one process (`one`) and in two (`two`)."""
    root = tmp_path_factory.mktemp("distributed")
    rows = []
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(90, 160, (SIZE, SIZE, 3), dtype=np.uint8)
        path = root / f"{number}.png"
        write_png(path, pixels)
        row = dict.fromkeys(FIELDS, "") | {"path": path, "split": "train", "label": 0}
        rows.append(row | {"defect": "good", "width": SIZE, "height": SIZE, "sha256": sha256(path)})
    write_csv(root / "manifest.csv", rows, FIELDS)
    make_backbone(stage("backbone", 1), root / "backbone")
    inputs = root / "manifest.csv", root / "backbone", None
    select_features(stage("afs", 1), *inputs, "mine", "cloth", 0, root / "afs")
    for processes, name in ((1, "one"), (2, "two")):
        here = root / name
        here.mkdir()
        ddpm_jobs = {
            rule: ddpm_arguments(root, here / rule, processes, accumulation_rule=rule)
            for rule in ("mean", "official")
        }
        realnet_jobs = {
            "realnet": realnet_arguments(root, here / "realnet", processes, **OURS),
            "last_one": realnet_arguments(root, here / "last_one", processes, **LAST_ONE),
        }
        compute = stage("ddpm", processes).compute
        if processes == 2:  # rank 0 is killed, and the training resumed
            arguments = ddpm_arguments(root, here / "resumed")
            with pytest.raises(UserError, match="process 0 of 2 was ended by SIGKILL") as error:
                launch(members.killed_at_first_checkpoint, compute, *arguments)
            assert "\n" not in str(error.value)
            shutil.copytree(here / "resumed", root / "killed")
            ddpm_jobs["resumed"] = arguments
        launch(members.everything, compute, here, ddpm_jobs, realnet_jobs)
    return root


def notes(made, processes, job, rank=0):
    return json.loads((made / processes / f"{job}-{rank}.json").read_text())


def weights(folder, name="model"):
    return safetensors.torch.load_file(folder / f"{name}.safetensors")


# --- the same training, divided ------------------------------------------------------------------


@pytest.mark.parametrize("job", ["mean", "official", "realnet", "last_one"])
def test_ranks_have_equal_weights_after_each_step_and_write_once(made, job):
    after = [[row["after"] for row in notes(made, "two", job, r) if "after" in row] for r in (0, 1)]
    assert after[0] == after[1]
    assert len(set(after[0])) == {"mean": 4, "official": 4}.get(job, 6)
    one, two = ([p.name for p in sorted((made / n / job).iterdir())] for n in ("one", "two"))
    assert one == two and "checkpoint" not in two
    assert read_json(made / "two" / job / "stage.json")["processes"] == 2


@pytest.mark.parametrize("job", ["mean", "official"])
def test_ranks_see_different_images_and_noise(made, job):
    """Together exactly those of the single process: 2 micro-steps of 6, in parts of 2."""
    seen = [[row for row in notes(made, "two", job, rank) if "noise" in row] for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) == 4 * 2 * 2  # shares of 3 images, as 2 + 1
    first, second = ({row["noise"] for row in rows} for rows in seen)
    assert len(first) == len(second) == 16 and not first & second
    assert all(a["clean"] != b["clean"] for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("job", ["mean", "official", "realnet", "last_one"])
def test_two_processes_train_the_weights_of_one(made, job):
    """Up to rounding; a step is 1e-3 or more, and other batches would reverse many of them."""
    one, two = (weights(made / name / job) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.allclose(value.float(), two[key].float(), atol=2e-4, rtol=1e-4), key
    before, after = (read_csv(made / name / job / "history.csv") for name in ("one", "two"))
    assert len(before) == len(after) > 3
    for a, b in zip(before, after, strict=True):
        for name in a:
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-3), name


def test_accumulation_rules_differ(made):
    one, other = (weights(made / "two" / rule) for rule in ("mean", "official"))
    assert max((one[key] - other[key]).abs().max() for key in one) > 1e-3


def test_batches_are_split_and_each_image_is_counted_once(made):
    whole = [row for row in notes(made, "one", "last_one") if "chosen" in row]
    parts = [
        [row for row in notes(made, "two", "last_one", rank) if "chosen" in row] for rank in (0, 1)
    ]
    assert [len(row["chosen"]) for row in whole] == [4, 4, 1] * 2
    for full, first, second in zip(whole, *parts, strict=True):
        assert full["first"] == first["first"]
        if len(full["chosen"]) == 1:  # the second process works on the same item, with weight 0
            assert first == second == full
            continue
        assert first["chosen"] + second["chosen"] == full["chosen"]
        assert second["first"] == full["first"] + 2 and first["masks"] != second["masks"]


@pytest.mark.parametrize("size", [5, 1, 6])
def test_batch_norm_uses_the_whole_batch(made, size):
    net, value, slope = members.batch_norm_case(size)
    value.requires_grad_()
    found = net(value)
    (found * slope).sum().backward()
    parts = [torch.load(made / "two" / f"norm{size}-{rank}.pt") for rank in (0, 1)]
    assert [len(part["items"]) for part in parts] == {5: [3, 2], 1: [1, 1], 6: [3, 3]}[size]
    for part in parts:
        assert part["exchanged"] == 1
        assert part["state"].keys() == net.state_dict().keys()
        for key, expected in net.state_dict().items():
            assert torch.allclose(part["state"][key], expected, rtol=1e-5), key
        assert torch.allclose(part["found"], found[part["items"]], atol=1e-5)
        if part["weight"]:
            assert torch.allclose(part["slope"], value.grad[part["items"]], atol=1e-5)
        else:  # a placeholder
            assert part["layer_slope"].abs().max() == 0
    summed = sum(part["layer_slope"] for part in parts)
    assert torch.allclose(summed, net[0].weight.grad, atol=1e-4)
    alone = torch.load(made / "one" / f"norm{size}-0.pt")
    assert alone["exchanged"] == 0 and torch.equal(alone["found"], found)


@pytest.mark.parametrize(("size", "sizes"), [(7, [3, 2, 2]), (3, [1, 1, 1]), (2, [1, 1, 1])])
def test_batch_shares(size, sizes):
    """Shares are consecutive and form the batch; an empty one is the first item with weight 0."""
    batch = torch.arange(10, 10 + size)
    parts = [
        share(batch, Runtime(torch.device("cpu"), torch.float32, False, False, rank, 3))
        for rank in range(3)
    ]
    assert [len(part.items) for part in parts] == sizes
    assert sum(part.weight for part in parts) == pytest.approx(1)
    counted = [part for part in parts if part.weight]
    assert torch.equal(torch.cat([part.items for part in counted]), batch)
    assert all(part.items[0] == batch[part.first] for part in parts)
    if size == 2:
        assert parts[2].items.tolist() == [10] and parts[2].weight == 0


# --- interruptions and failures ------------------------------------------------------------------


def test_a_killed_training_resumes_to_identical_weights(made, tmp_path):
    kept = sorted(p.name for p in (made / "killed").rglob("*") if p.is_file())
    assert kept == ["last.pt", "lock"]  # no result, not even in part
    for name in ("model.safetensors", "raw.safetensors", "history.csv", "samples.png"):
        assert sha256(made / "two/resumed" / name) == sha256(made / "two/mean" / name), name
    assert len([row for row in notes(made, "two", "resumed") if "after" in row]) == 2  # of 4


def test_a_checkpoint_of_another_number_of_processes_is_not_resumed(made, tmp_path):
    shutil.copytree(made / "killed", tmp_path / "alone")
    alone = ddpm_arguments(made, tmp_path / "alone", processes=1)
    with pytest.raises(UserError, match=r"training in 2 processes, this one has 1; set compute"):
        ddpm.run(*alone)
    assert (tmp_path / "alone/checkpoint/last.pt").is_file()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("user", UserError, r"^params\.yaml: line of rank 1$"),
        ("bug", RuntimeError, r"(?s)^process 1 of 2 failed:.*ZeroDivisionError: a bug of rank 1"),
        ("drift", RuntimeError, "step 7: the processes' weights differ"),
        ("sleep", UserError, "^process 1 of 2 was ended by SIGKILL; perhaps .* memory$"),
    ],
)
def test_the_first_failure_is_reported(kind, error, message):
    with pytest.raises(error, match=message):
        launch(members.fail, stage("ddpm", 2).compute, kind)


def test_a_killed_command_leaves_no_processes(tmp_path):
    call = (
        "import sys; sys.path[:0] = [{here!r}, {project!r}]\n"
        "import members\nfrom realnet.compute.distributed import launch\n"
        "from realnet.config.params import load\n"
        "if __name__ == '__main__':\n"
        "    compute = load(overrides={{'compute': {{'processes': 2}}}}).compute\n"
        "    launch(members.wait_forever, compute, {notes!r})\n"
    )
    file = tmp_path / "job.py"
    here = str(PROJECT / "tests")
    file.write_text(call.format(here=here, project=str(PROJECT), notes=str(tmp_path)))
    job = subprocess.Popen([sys.executable, file], cwd=PROJECT)
    paths = [tmp_path / f"pid{rank}" for rank in (0, 1)]
    assert _until(lambda: all(p.is_file() and p.read_text() for p in paths))
    pids = [int(path.read_text()) for path in paths]
    assert all(_alive(pid) for pid in pids)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert _until(lambda: not any(_alive(pid) for pid in pids))


def test_a_stopped_training_waits_for_the_checkpoint(tmp_path):
    """The main process may need longer for the checkpoint than the others to exit."""
    code = (
        "import sys, members\n"
        "from realnet.compute.distributed import launch\n"
        "from realnet.config.params import load\n"
        "from realnet.core import stopping\n"
        "if __name__ == '__main__':\n"
        "    stopping.listen()\n"
        "    compute = load(overrides={'preset': 'smoke', 'compute': {'processes': 2}}).compute\n"
        "    launch(members.save_slowly, compute, sys.argv[1])\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    paths = [str(PROJECT), str(PROJECT / "tests")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    job = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        cwd=PROJECT,
        stderr=subprocess.DEVNULL,
    )
    for rank in (0, 1):  # before its loop a process exits at once
        assert _until((tmp_path / f"working{rank}").exists)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) != 0
    assert (tmp_path / "saved").exists()


def _until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return met


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.is_file() and state.read_text().rpartition(")")[2].split()[0] == "Z")


@pytest.mark.slow
def test_command_with_two_processes_reports_an_error_once(made, tmp_path, monkeypatch, capfd):
    """Each process finds the error; it is printed once."""
    overrides = {"preset": "smoke", "compute": {"processes": 2}, "data": {"image_size": 36}}
    command = ["ddpm", "--manifest", made / "manifest.csv", "--dataset", "mine"]
    command += ["--category", "cloth", "--out", tmp_path / "out"]
    command += ["--params", load(overrides=overrides).section_json("ddpm")]
    monkeypatch.setattr(sys, "argv", ["realnet", *map(str, command)])
    with pytest.raises(SystemExit) as end:
        main()
    out, stderr = capfd.readouterr()
    assert end.value.code == 2 and out == "" and stderr.count("\n") == 1
    assert stderr.startswith("realnet: data.image_size 36 must be a multiple")
    assert not (tmp_path / "out").exists()


# --- number of processes -------------------------------------------------------------------------


def test_number_of_processes(monkeypatch):
    def count(processes, **compute):
        return process_count(
            load(overrides={"compute": {"processes": processes} | compute}).compute
        )

    assert (count("auto", device="cpu"), count(3, device="cpu")) == (1, 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (count("auto"), count(2), count(1), count("auto", device="cpu")) == (2, 2, 1, 1)
    with pytest.raises(UserError, match=r"compute\.processes: 4, but this job sees 2 GPUs"):
        count(4)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match="without torchrun"):
        count(1)


def test_more_processes_than_images_per_batch_is_refused(made, tmp_path):
    options = {"training": REALNET | {"batch_size": 1}}
    with pytest.raises(UserError, match=r"training\.batch_size: 1 images .* 2 processes"):
        realnet.run(*realnet_arguments(made, tmp_path, **options))
    with pytest.raises(UserError, match=r"ddpm\.batch_size: 1 images .* 2 processes"):
        ddpm.run(*ddpm_arguments(made, tmp_path, batch_size=1))
