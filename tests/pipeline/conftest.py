"""A copy of the project in which the real DAG runs once, at smoke scale, for all these tests."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkout import copy_files


@dataclass(frozen=True)
class Copy:
    """A checkout with results; commands run in it with the interpreter of the tests."""

    root: Path

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess:
        """``python -m <command>``; stdout and stderr together, as text."""
        bin_folder = str(Path(sys.executable).parent)
        environment = os.environ | {"PATH": bin_folder + os.pathsep + os.environ["PATH"]}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout[-4000:]
        return done

    def snakemake(self, *arguments: str, ok: bool = True) -> str:
        return self.run("snakemake", "--cores", "2", *arguments, ok=ok).stdout

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that a run with these arguments would have; {} if none."""
        output = self.snakemake("--dry-run", "--quiet", "reason", *arguments)
        if "Nothing to be done" in output:
            return {}
        table = output.partition("Job stats:")[2].partition("\n\n")[0]
        found = dict(re.findall(r"^(\w+)\s+(\d+)$", table, flags=re.MULTILINE))
        assert found, output[-2000:]
        return {rule: int(count) for rule, count in found.items() if rule not in ("total", "all")}


def copy_project(target: Path) -> Copy:
    """Copy tracked and untracked, not ignored files to a git repository with one commit."""
    copy_files(target)
    params = target / "params.yaml"
    params.write_text(params.read_text().replace("\npreset: demo\n", "\npreset: smoke\n"))
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "copy"]):
        subprocess.run(["git", *command], cwd=target, check=True)
    return Copy(target)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Copy:
    """The copy after one complete `snakemake`."""
    copy = copy_project(tmp_path_factory.mktemp("project"))
    copy.snakemake()
    return copy
