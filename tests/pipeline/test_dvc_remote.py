"""Transfer of raw data and results between clones by DVC remotes: a folder and an S3 server."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from pathlib import Path

import pytest
import requests
from conftest import Copy, copy_project
from trees import make_tree

from realnet.core.io import sha256

pytestmark = pytest.mark.pipeline

RAW = "data/raw/mine.dvc"
SECRET = "not-a-secret-but-treated-as-one"
PRESET = "base: smoke\nexperiment: {datasets: {mine: [bottle]}, variants: [base]}\n"


def git(copy: Copy, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=copy.root, check=True, capture_output=True, text=True
    )
    return done.stdout


def clone(copy: Copy, target: Path) -> Copy:
    git(copy, "clone", "-q", str(copy.root), str(target))
    return Copy(target)


def digests(copy: Copy, folder: str) -> dict[str, str]:
    """Path -> SHA-256 of every file below a folder; never empty."""
    root = copy.root / folder
    found = {str(p.relative_to(root)): sha256(p) for p in root.rglob("*") if p.is_file()}
    assert found, root
    return found


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Copy:
    """A copy of the project with an own dataset tracked by DVC and without results."""
    copy = copy_project(tmp_path_factory.mktemp("origin"))
    make_tree("mvtec_ad", copy.root / "data/raw/mine", ["bottle"], counts=4)
    (copy.root / "workflow/presets/mine.yaml").write_text(PRESET)
    params = copy.root / "params.yaml"
    params.write_text(params.read_text().replace("\npreset: smoke\n", "\npreset: mine\n"))
    copy.run("dvc", "add", "-q", "data/raw/mine")
    git(copy, "add", "-A")
    git(copy, "commit", "-qm", "dataset mine")
    return copy


@pytest.fixture
def s3(monkeypatch, tmp_path):
    """Address of a local S3 server with one bucket, `bench`, and fake credentials."""
    pytest.importorskip("dvc_s3", reason="S3 remotes need dvc-s3")
    server = pytest.importorskip("moto.server", reason="the S3 server of this test is moto's")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    endpoint = "http://{}:{}".format(*running.get_host_and_port())
    requests.put(f"{endpoint}/bench", timeout=30).raise_for_status()
    yield endpoint
    running.stop()


@pytest.mark.slow
def test_data_through_s3_give_identical_results(origin, s3, monkeypatch, tmp_path):
    origin.run("dvc", "remote", "add", "-d", "store", "s3://bench/realnet")
    origin.run("dvc", "remote", "modify", "store", "endpointurl", s3)
    assert "credentials" in origin.run("dvc", "push", RAW, ok=False).stdout
    for key, value in (("access_key_id", "somebody"), ("secret_access_key", SECRET)):
        origin.run("dvc", "remote", "modify", "--local", "store", key, value)
    origin.run("dvc", "push", "-q", RAW)
    git(origin, "add", "-A")
    assert git(origin, "diff", "--cached", "--name-only").split() == [".dvc/config"]
    assert SECRET not in git(origin, "diff", "--cached")
    git(origin, "commit", "-qm", "remote")

    other = clone(origin, tmp_path / "other")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    other.run("dvc", "pull", "-q", RAW)
    assert digests(other, "data/raw/mine") == digests(origin, "data/raw/mine")

    with ThreadPoolExecutor() as pool:
        list(pool.map(Copy.snakemake, (origin, other)))
    run = "mine/bottle/seed0/base"
    for result in (
        "metrics.json",
        "data/mine/bottle/manifest.csv",
        f"evaluate/{run}/metrics.json",
        f"ddpm/{run}/model.safetensors",
        f"realnet/{run}/model.safetensors",
    ):
        ours, theirs = (copy.root / "results" / result for copy in (origin, other))
        assert ours.read_bytes() == theirs.read_bytes(), result


def test_data_through_a_folder(origin, tmp_path):
    # Each clone configures the folder itself, as for a network drive with several mount points.
    add = ("dvc", "remote", "add", "--local", "-d", "folder", str(tmp_path / "store"))
    origin.run(*add)
    pushed = origin.run("dvc", "push").stdout  # finds the dataset by itself
    assert "files pushed" in pushed, pushed
    other = clone(origin, tmp_path / "other")
    other.run(*add)
    other.run("dvc", "pull", "-q", RAW)
    assert digests(other, "data/raw/mine") == digests(origin, "data/raw/mine")
    for copy in (origin, other):
        copy.snakemake("--", "data")
    assert digests(other, "results/data") == digests(origin, "results/data")

    image = next((other.root / "data/raw/mine/bottle/train/good").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    status = other.run("dvc", "status", RAW).stdout
    assert "modified" in status and "data/raw/mine" in status, status
    other.run("dvc", "checkout", "-q", "--force", RAW)
    assert digests(other, "data/raw/mine") == digests(origin, "data/raw/mine")


@pytest.mark.slow
def test_a_flipped_byte_in_the_cache_is_named_and_pulled_again(origin, tmp_path):
    """DVC checks it out as up to date; the digest of the manifest and `data cache` detect it."""
    add = ("dvc", "remote", "add", "--local", "-d", "--force", "folder", str(tmp_path / "store"))
    origin.run(*add)
    origin.run("dvc", "push", "-q")
    other = clone(origin, tmp_path / "other")
    other.run(*add)
    other.run("dvc", "pull", "-q", RAW)
    manifest = "results/data/mine/bottle/manifest.csv"
    other.snakemake("--", manifest, "results/backbone/base/stage.json")
    assert "0 damaged" in other.run("realnet", "data", "cache").stdout

    image = sorted((other.root / "data/raw/mine/bottle/train/good").iterdir())[1]
    name = str(image.relative_to(other.root))
    content, digest = image.read_bytes(), md5(image.read_bytes(), usedforsecurity=False).hexdigest()
    cached = other.root / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}"
    times = cached.stat()
    cached.chmod(0o644)
    cached.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    cached.chmod(0o444)
    os.utime(cached, ns=(times.st_atime_ns, times.st_mtime_ns))
    shutil.rmtree(other.root / "data/raw/mine")
    other.run("dvc", "checkout", "-q", RAW)
    assert image.read_bytes() != content
    assert "up to date" in other.run("dvc", "status", RAW).stdout  # DVC does not see it

    ddpm = "results/ddpm/mine/bottle/seed0/base/model.safetensors"
    other.snakemake("--touch", "--", manifest)
    output = other.snakemake("--", ddpm, ok=False)
    assert f"realnet: {name}: " in output and not (other.root / ddpm).exists()
    output = other.run("realnet", "data", "cache", "--remove", ok=False).stdout
    assert f"damaged ({name})" in output and f"  {name}: damaged too" in output
    other.run("dvc", "pull", "-q", RAW)
    assert image.read_bytes() == content
    assert "0 damaged" in other.run("realnet", "data", "cache").stdout
    other.snakemake("--touch", "--", manifest)
    other.snakemake("--", ddpm)


def test_download_records_are_not_tracked_as_data(origin):
    """They contain dates, so two clones of the same data would differ."""
    record = origin.root / "data/raw/mine.fetch.json"
    archives = origin.root / "data/raw/.archives/mine"
    command = ("dvc", "status", "-q", "data")  # exit status: whether something changed
    origin.snakemake("--", "data")
    origin.run("dvc", "commit", "-q", "--force", "data")
    origin.run(*command)
    record.write_text("{}\n")
    archives.mkdir(parents=True)
    (archives / "mine.tar.xz.part").write_bytes(b"half")
    try:
        origin.run(*command)
        (origin.root / "data/raw/mine/bottle/train/good/new.png").write_bytes(b"")
        origin.run(*command, ok=False)
    finally:
        record.unlink()
        git(origin, "clean", "-qfdx", "data/raw/.archives", "data/raw/mine/bottle/train/good")
        origin.run("dvc", "checkout", "-q", "--force", RAW)


def test_results_through_a_folder(finished, tmp_path):
    """As documented: pull, check the status, touch; then there is nothing to compute."""
    add = ("dvc", "remote", "add", "--local", "-d", "folder", str(tmp_path / "store"))
    finished.run("dvc", "repro", "-q")
    finished.run(*add)
    finished.run("dvc", "push", "-q")
    git(finished, "add", "dvc.lock")
    git(finished, "commit", "-qm", "results")

    other = clone(finished, tmp_path / "other")
    other.run(*add)
    other.run("dvc", "pull", "-q")
    for folder in ("data/raw/demo", "results/evaluate", "results/realnet", "results/tables"):
        assert digests(other, folder) == digests(finished, folder)
    assert "up to date" in other.run("dvc", "status").stdout
    other.snakemake("--touch", "--forceall")
    assert other.planned() == {"track_runs": 1}  # MLflow's database is rebuilt, not versioned
    assert "up to date" in other.run("dvc", "status").stdout
    # The parameters are recorded as if the stages had run here: a change reruns them.
    assert other.planned("--config", "ddpm={steps: 7}")["train_ddpm"] == 2
