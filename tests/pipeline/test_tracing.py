"""`realnet trace --check` on a real run: no mismatch, damage is named with a working repair."""

import os
import subprocess

import pytest

from realnet.core.io import sha256

pytestmark = pytest.mark.pipeline

RUN = "demo/hex_nut/seed0/base"


def test_trace_accepts_a_finished_run_and_names_the_repair_of_damage(finished, tmp_path):
    root = tmp_path / "project"
    subprocess.run(["cp", "-r", "--preserve=timestamps", str(finished.root), str(root)], check=True)
    copy = type(finished)(root)
    trace = ("realnet", "trace", "results/tables/ablation.csv", "--check")
    assert "everything matches" in copy.run(*trace).stdout
    # Damage a selection of channels and a synthetic image, with their old times, so that
    # Snakemake does not notice.
    damaged = [f"results/afs/{RUN}/afs.json", f"results/sdas/{RUN}/images/00001.png"]
    digests = [sha256(root / name) for name in damaged]
    for name in damaged:
        path = root / name
        times = path.stat()
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert copy.planned() == {}
    output = copy.run(*trace, ok=False).stdout
    named = [line.split(": ")[1] for line in output.splitlines() if line.startswith("mismatch: ")]
    assert sorted(named) == damaged
    assert "Traceback" not in output
    repair = output.partition("to rebuild:\n")[2].splitlines()[:2]
    for line in repair:
        words = line.split()
        if words[0] == "rm":
            subprocess.run(words, cwd=root, check=True)
        else:
            assert words[:3] == ["snakemake", "--cores", "all"]
            copy.snakemake(*words[3:])
    assert [sha256(root / name) for name in damaged] == digests
    assert "everything matches" in copy.run(*trace).stdout
