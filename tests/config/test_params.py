"""Parameters: presets, overrides, variants, and the sections that each stage depends on."""

import json
from pathlib import Path

import pytest
import yaml

from realnet.config.params import (
    PROJECT,
    load,
    merge,
    parse,
    read_yaml,
    resolve,
    schema,
    stage_params,
)
from realnet.core.errors import UserError
from realnet.registry import STAGES, params_of

FILE = PROJECT / "params.yaml"
PRESETS = sorted(path.stem for path in (PROJECT / "workflow/presets").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_and_its_variants_are_valid(preset):
    params = load(FILE, {"preset": preset})
    assert params.preset == preset
    for name in params.variants:
        params.variant(name)


def test_the_paper_preset_has_the_official_configuration():
    """Sizes and settings of the official configuration."""
    p = load(FILE, {"preset": "paper"})
    assert list(p.experiment.datasets) == ["mvtec_ad", "mpdd", "btad", "visa"]
    assert p.data.image_size == 256
    assert (p.backbone.source, p.backbone.arch) == ("timm", "wide_resnet50_2.racm_in1k")
    assert p.afs.channels == [256, 512, 512, 256]
    assert (p.afs.batches, p.afs.batch_size) == (64, 16)
    assert [(b.layers, b.stride) for b in p.model.blocks] == [
        ([0], 4),
        ([1], 8),
        ([2], 16),
        ([3], 32),
    ]
    assert p.model.reconstruction.multipliers == [1, 2, 4]
    assert p.model.rrs.channels * 3 == sum(p.afs.channels)
    assert p.ddpm.scope == "dataset" and p.ddpm.batch_size * p.ddpm.accumulation == 60
    assert (p.sdas.steps, p.sdas.strength) == (20, [0.1, 0.2])
    assert (p.sdas.strength_per, p.sdas.batch_size, p.sdas.jpeg_quality) == ("batch", 16, 75)
    assert p.synthesis.sources == {"normal": 0.5, "sdas": 0.5}
    assert (p.synthesis.perlin.turn, p.synthesis.empty_masks) == ("field", "keep")
    assert p.sdas.rounding == p.synthesis.rounding == "truncate"
    assert p.afs.passes == "per_block" and not p.model.feature_scale
    assert (p.training.lr, p.training.lr_schedule, p.training.batch_size) == (1e-4, "constant", 16)
    assert p.evaluate.image_score_pool == 16


def test_overrides_win_over_the_preset_and_the_preset_over_the_file():
    smoke = read_yaml(PROJECT / "workflow/presets/smoke.yaml")
    params = load(FILE, {"preset": "smoke", "training": {"steps": 7}})
    assert params.training.steps == 7
    assert params.training.batch_size == smoke["training"]["batch_size"]
    assert params.training.lr == read_yaml(FILE)["training"]["lr"]


def test_a_preset_overrides_its_base():
    paper, other = (load(FILE, {"preset": name}) for name in ("paper", "architecture_c"))
    assert {k for k in type(paper).model_fields if getattr(paper, k) != getattr(other, k)} == {
        "preset",
        "model",
    }
    assert [(b.layers, b.stride) for b in other.model.blocks] == [([0, 1], 4), ([2, 3], 16)]
    assert other.model.rrs == paper.model.rrs


def test_missing_and_circular_bases_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("realnet.config.params.PROJECT", tmp_path)
    (tmp_path / "workflow/presets").mkdir(parents=True)
    for name, base in {"a": "b", "b": "c", "c": "b", "d": "nowhere"}.items():
        (tmp_path / f"workflow/presets/{name}.yaml").write_text(f"base: {base}\n")
    for name, message in {
        "a": "is circular",
        "d": r"presets/d\.yaml: preset 'nowhere' is none of",
    }.items():
        with pytest.raises(UserError, match=message):
            load(FILE, {"preset": name})


def test_merge_is_recursive_but_replaces_proportions_and_lists():
    base = {"a": {"x": 1, "y": [1, 2]}, "s": {"sources": {"sdas": 1}}}
    merged = merge(base, {"a": {"y": [3]}, "s": {"sources": {"texture": 1}}})
    assert merged == {"a": {"x": 1, "y": [3]}, "s": {"sources": {"texture": 1}}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training": {"stepz": 1}}, "unknown key training.stepz"),
        ({"trainning": {}}, "unknown key trainning"),
        ({"training": {"steps": 0}}, "training.steps"),
        ({"training": {"lr": "fast"}}, "training.lr"),
        ({"ddpm": {"unet": {"attention": [True]}}}, "one entry per block_out_channels"),
        ({"ddpm": {"unet": {"norm_num_groups": 7}}}, "norm_num_groups 7"),
        ({"ddpm": {"unet": {"attention_head_dim": 48}}}, "attention_head_dim 48"),
        ({"model": {"rrs": {"channels": 193}}}, "the blocks have 192 channels"),
        ({"evaluate": {"image_score_pool": 129}}, "evaluate.image_score_pool 129"),
        ({"synthesis": {"perlin": {"min_exponent": 5}}}, "min_exponent must not exceed"),
        ({"synthesis": {"opacity": {"sdas": [0.9, 0.1]}}}, "opacity.sdas must be [low, high]"),
        ({"synthesis": {"sources": {"normal": 1}}}, "no weight to any anomalous source"),
        ({"synthesis": {"sources": {"dtd": 1}}}, "dtd_root"),
        ({"sdas": {"strength": [2, 1]}}, "[low, high]"),
        ({"afs": {"channels": [8]}}, "one m_k per layer"),
        ({"model": {"blocks": [{"layers": [9], "stride": 2}]}}, "model.blocks"),
        ({"experiment": {"variants": ["nope"]}}, "nope"),
        ({"variants": {"base": {"afs": {}}}}, "variants.base"),
        ({"variants": {"x": {"report": {}}}}, "variants.x.report"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(overrides, message):
    with pytest.raises(UserError) as error:
        load(FILE, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_missing_key_and_an_unknown_preset_are_refused():
    values = resolve(read_yaml(FILE))
    del values["afs"]["channels"]
    with pytest.raises(UserError, match=r"missing key afs\.channels"):
        parse(values)
    with pytest.raises(
        UserError, match="'papper' is none of architecture_c, demo, paper, published"
    ):
        load(FILE, {"preset": "papper"})


def test_invalid_yaml_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match="not valid YAML") as error:
        load(tmp_path / "bad.yaml")
    assert "\n" not in str(error.value)


def with_variants(**variants):
    names = ["base", *variants]
    return load(FILE, {"variants": variants, "experiment": {"variants": names}})


def test_a_variant_shares_the_stages_upstream_of_its_change():
    p = with_variants(fast={"training": {"steps": 5}})
    assert [p.shared_variant(s, "fast") for s in ("backbone", "ddpm", "sdas", "afs")] == [
        "base"
    ] * 4
    assert [p.shared_variant(s, "fast") for s in ("realnet", "evaluate")] == ["fast"] * 2
    weak = with_variants(weak={"sdas": {"strength": [0, 1]}})
    assert weak.shared_variant("ddpm", "weak") == "base"
    assert weak.shared_variant("sdas", "weak") == "weak"


def test_uses_sdas():
    p = with_variants(only_texture={"synthesis": {"sources": {"normal": 1, "texture": 1}}})
    assert p.uses_sdas("base") and not p.uses_sdas("only_texture")


def test_a_stage_gets_only_the_sections_that_it_reads():
    p = with_variants(fast={"training": {"steps": 5}})
    for stage, sections in ((name, stage.sections) for name, stage in STAGES.items()):
        assert set(json.loads(p.section_json(stage, "fast"))) == set(sections)
    assert json.loads(p.section_json("realnet", "fast"))["training"]["steps"] == 5
    assert p.section_json("afs", "fast") == p.section_json("afs", "base")


def test_stage_params_reads_json_and_files():
    p = load(FILE)
    from_json = stage_params(p.section_json("afs"), params_of("afs"))
    assert from_json.afs == p.afs == stage_params(str(FILE), params_of("afs")).afs
    assert not hasattr(from_json, "training")
    with pytest.raises(UserError, match="backbone is missing, AfsParams needs it"):
        stage_params(p.section_json("evaluate"), params_of("afs"))


def test_the_published_schema_is_current():
    path = Path(PROJECT, "workflow/schemas/params.schema.yaml")
    assert path.read_text() == schema(), "run `make schema`"
    assert yaml.safe_load(schema())["additionalProperties"] is False


@pytest.mark.parametrize(
    ("datasets", "message"),
    [({"btad": [1]}, r"category 1 is a number; quote it"), ({"btad": "some"}, "expected `all` or")],
)
def test_invalid_category_names_are_refused(datasets, message):
    with pytest.raises(UserError, match=message):
        load(FILE, {"experiment": {"datasets": datasets}})


def test_all_variants_are_the_union_of_the_groups():
    params = load(overrides={"experiment": {"variants": "all"}})
    names = [name for group in params.groups.values() for name in group.variants]
    assert params.experiment.variants[0] == "base"
    assert set(params.experiment.variants) == set(names)
    assert len(params.experiment.variants) == len(set(names))
    with pytest.raises(UserError, match="none"):
        resolve({"preset": "demo", "experiment": {"variants": "all"}, "groups": None})
