"""dvc.yaml and .gitignore: the dependencies of each layer, and the tracked data."""

import subprocess

import pytest
import yaml

from realnet.config.params import PROJECT
from realnet.registry import params_of

STAGES = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
# Layers with results; `code` reads no parameters, and `sia` runs nothing.
LAYERS = [name for name in STAGES if name not in ("code", "sia")]


@pytest.mark.parametrize("stage", LAYERS)
def test_dvc_depends_on_every_parameter_that_a_stage_reads(stage):
    """Of a section that is listed in parts (`data.demo`), any part counts."""
    named = {name.partition(".")[0] for name in STAGES[stage]["params"]}
    assert set(params_of(stage).model_fields) <= named, (
        f"dvc.yaml, stage {stage}: params lack a section"
    )
    assert "preset" in named  # it may override all of them


def test_dvc_finds_datasets_and_git_ignores_the_data(tmp_path, monkeypatch):
    """DVC interprets .gitignore differently and skips folders that it considers ignored: then
    `dvc push` and `dvc status` ignore a dataset and report no problem."""
    from dvc.repo import Repo

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in (".gitignore", ".dvcignore"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_bytes((PROJECT / ".dvc/config").read_bytes())
    for folder in ("data/raw/mine", "data/weights"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("x")
    (tmp_path / "data/raw/mine.fetch.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with Repo() as repo:
        repo.add(["data/raw/mine", "data/weights"])
    with Repo() as repo:
        found = {out.fspath for out in repo.index.outs}
        assert found == {str(tmp_path / "data/raw/mine"), str(tmp_path / "data/weights")}
    listed = subprocess.run(
        ["git", "ls-files", "-o", "--exclude-standard", "data"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert listed == ["data/raw/mine.dvc", "data/raw/mine.fetch.json", "data/weights.dvc"]
