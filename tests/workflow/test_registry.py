"""The registry of stages agrees with the rules, with `dvc.yaml` and with its readers."""

import re

import pytest
import yaml

from realnet.config.params import PROJECT, Params
from realnet.plots import chain
from realnet.registry import CODE, OVERLAID, STAGES, depends_on
from realnet.tracking import contents

RULES = {path.stem: path.read_text() for path in (PROJECT / "workflow/rules").glob("*.smk")}
LAYERS = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]


def outputs(stage: str) -> set[str]:
    """Paths below results/<stage>/ that the rules of a stage write."""
    blocks = re.findall(r"^    output:\n(.*?)^    \w+:", RULES[stage], flags=re.M | re.S)
    return set(re.findall(rf'"results/{stage}/([^"]+)"', "".join(blocks)))


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_rule_writes_the_files_of_its_stage_to_its_folder(stage):
    wanted = {f"{stage.folder}/{name}" for name in (stage.result, *stage.files, *stage.figures)}
    shards = {path for path in outputs(stage.name) if "{shard}" in path}  # one job of sia each
    assert outputs(stage.name) - shards == wanted


def test_every_rule_names_its_code_in_the_registry():
    named = set(re.findall(r'code\("(\w+)"\)', "".join(RULES.values())))
    assert named == set(CODE)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_layer_of_dvc_depends_on_the_results_of_upstream_stages(stage):
    if stage.name == "sia":  # runs nothing: it records existing files
        return
    found = {dep.split("/")[1] for dep in LAYERS[stage.name]["deps"] if dep.startswith("results/")}
    assert found == set(stage.upstream)


def test_stages_are_in_topological_order():
    names = list(STAGES)
    for stage in STAGES.values():
        assert all(names.index(before) < names.index(stage.name) for before in stage.upstream)


def test_sections_match_the_parameters():
    for stage in STAGES.values():
        assert {*stage.sections, *stage.chosen_by} <= set(Params.model_fields)
    used = frozenset().union(*(depends_on(name) for name in STAGES))
    assert set(OVERLAID) == used - {"compute", "prepare"}


def test_figures_and_tracking_read_the_registry():
    assert set(chain.STAGES) == set(STAGES) - {"data", "sdas_check", "sia"}
    assert {s.name: s.figures for s in STAGES.values() if s.figures} == contents.FIGURES
