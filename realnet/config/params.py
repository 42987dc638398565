"""`params.yaml` as typed sections: the only reader of parameters.

Resolution order, later wins: `params.yaml`, the overlay `workflow/presets/<preset>.yaml`, overrides
from the command line (`snakemake --config`), and, per variant, the overlay `variants.<name>`. A
preset that says `base: <another>` at its top is laid over that one.
"""

import json
import math
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, model_validator

from realnet.config.sections import (
    Afs,
    Backbone,
    Classifier,
    Compute,
    Data,
    Ddpm,
    Evaluate,
    Experiment,
    Group,
    Method,
    Model,
    Name,
    PatchCore,
    Prepare,
    Report,
    Sdas,
    SdasCheck,
    Section,
    Sia,
    Synthesis,
    Training,
)
from realnet.config.stage_params import P
from realnet.core.errors import UserError
from realnet.registry import OVERLAID, depends_on, params_of

PROJECT = Path(__file__).resolve().parents[2]
PRESETS = Path("workflow/presets")
DEPTH = 40  # levels of parameters at most; real ones have 8


class Params(Section):
    preset: Name
    experiment: Experiment
    variants: dict[Name, dict[str, dict[str, Any]]]
    groups: dict[Name, Group]
    compute: Compute
    data: Data
    prepare: Prepare
    backbone: Backbone
    ddpm: Ddpm
    classifier: Classifier
    sdas: Sdas
    sdas_check: SdasCheck
    sia: Sia
    synthesis: Synthesis
    afs: Afs
    model: Model
    training: Training
    method: Method
    patchcore: PatchCore
    evaluate: Evaluate
    report: Report

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        layers = len(self.backbone.out_indices)
        if len(self.afs.channels) != layers:
            raise ValueError(
                f"afs.channels has {len(self.afs.channels)} entries,"
                f" backbone.out_indices has {layers}: one m_k per layer"
            )
        used = sorted(layer for block in self.model.blocks for layer in block.layers)
        if len(set(used)) != len(used) or (used and used[-1] >= layers):
            raise ValueError(
                f"model.blocks uses layers {used}: each at most once, from 0 to {layers - 1}"
            )
        rrs, maps = self.model.rrs, sum(self.afs.channels[layer] for layer in used)
        # With selection `all` the widths are the backbone's, and the stage `afs` checks.
        if self.afs.selection != "all" and rrs.mode != "all" and rrs.channels > maps:
            raise ValueError(
                f"model.rrs.channels is {rrs.channels}, but the blocks have {maps} channels"
                " (afs.channels)"
            )
        if self.evaluate.image_score_pool > self.data.image_size:
            raise ValueError(
                f"evaluate.image_score_pool {self.evaluate.image_score_pool} is larger than"
                f" data.image_size {self.data.image_size}"
            )
        if self.sdas.guidance_scale > 0 and self.ddpm.scope != "dataset":
            raise ValueError(
                f"sdas.guidance_scale {self.sdas.guidance_scale:g} guides to one category among"
                f" others and needs ddpm.scope: dataset, found {self.ddpm.scope}; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _variants(self) -> "Params":
        if self.variants.get("base") != {}:
            raise ValueError("variants.base must exist and be empty ({}): it is these parameters")
        lists = {"experiment.variants": self.experiment.variants}
        lists |= {f"groups.{name}.variants": group.variants for name, group in self.groups.items()}
        for where, names in lists.items():
            for name in names:
                if name not in self.variants:
                    raise ValueError(
                        f"{where} names {name!r}, not among variants: {self._near(name)}"
                    )
        for name, overlay in self.variants.items():
            for key in overlay:
                if key not in OVERLAID:
                    raise ValueError(
                        f"variants.{name}.{key}: not a section; one of {', '.join(OVERLAID)}"
                    )
        return self

    def _near(self, name: str) -> str:
        """For an unknown variant: the most similar names, or the first few."""
        first = list(self.variants)[:8] + (["..."] if len(self.variants) > 8 else [])
        return ", ".join(get_close_matches(name, self.variants, n=3) or first)

    def variant(self, name: str) -> "Params":
        """These parameters with the overlay ``variants.<name>`` laid over their sections."""
        if name not in self.variants:
            raise UserError(f"no variant {name!r}; known: {self._near(name)}")
        return parse(merge(self.model_dump(), self.variants[name]), where=f"variants.{name}")

    def shared_variant(self, stage: str, name: str) -> str:
        """The variant whose ``stage`` result ``name`` uses: ``base`` if nothing differs.

        Also ``base`` for SDAS and DDPM of a variant that does not use SDAS images.
        """
        overlay = self.variants[name]
        touched = set(overlay) & depends_on(stage)
        if stage == "realnet" and "image_score_pool" in overlay.get("evaluate", {}):
            touched |= {"evaluate"} if self.training.select_every is not None else set()
        return name if touched else "base"

    def uses_sdas(self, name: str) -> bool:
        """Whether the variant uses images of the diffusion model as anomalies."""
        return self.trains(name) and self.variant(name).synthesis.sources.get("sdas", 0) > 0

    def trains(self, name: str) -> bool:
        """Whether the variant's detector is a RealNet."""
        return self.variant(name).method.name == "realnet"

    def uses_classifier(self, name: str) -> bool:
        """Whether the variant's SDAS images are guided."""
        return self.uses_sdas(name) and self.variant(name).sdas.guidance_scale > 0

    def section_json(self, stage: str, name: str = "base") -> str:
        """What ``stage`` reads, as one canonical JSON string: Snakemake reruns when it changes."""
        return params_of(stage).of(self.variant(name)).to_json()


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """``overlay`` over ``base``, mappings key by key, everything else (lists too) replaced.

    Two mappings are replaced whole, since a key left over would change their meaning: the
    proportions ``sources`` and the matrix ``datasets``.
    """
    whole = {"sources", "datasets", "arch_args"}
    result = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both and key not in whole else value
    return result


def parse(values: dict[str, Any], where: str = "params.yaml") -> Params:
    """Validate; the first problem becomes one line that names the key."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_one_line(error)}") from None


def _one_line(error: ValidationError) -> str:
    errors = error.errors()
    # `all`, or a list of names: the wrong name is reported, not that the list is not `all`.
    names = (e for e in errors if e["type"] == "string_pattern_mismatch")
    first = next(names, errors[0])
    parts = (str(part) for part in first["loc"])
    key = ".".join(part for part in parts if not part.startswith(("list[", "literal[")))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{more}"
    if first["type"] == "missing":
        return f"missing key {key}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        message = "expected a name of letters A-Z and a-z, digits and _, not beginning with _"
    if not key:
        return f"{message}{more}"
    got = "" if isinstance(first["input"], dict) else f", got {_short(first['input'])}"
    return f"{key}: {message}{got}{more}"


def _short(value: Any, most: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def read_yaml(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; run from the project's folder, or give its path")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2020-99-99 is a ValueError
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path}: nested deeper than {DEPTH} levels") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    check_plain(values, path)
    return values


class _Loader(yaml.SafeLoader):
    """Plain values only; a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                message = f"duplicate key {key.value!r}"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def check_plain(values: Any, where: str | Path) -> None:
    """Check that parameters can be represented in JSON.

    Raises:
        UserError: a date, infinity, a key that is not text, or values nested too deeply (as by an
            alias of a mapping inside itself).
    """
    todo: list[tuple[tuple[Any, ...], Any]] = [((), values)]
    while todo:
        place, value = todo.pop()
        key = ".".join(map(str, place[:8]))
        if len(place) > DEPTH:
            raise UserError(f"{where}: {key}...: nested deeper than {DEPTH} levels")
        if isinstance(value, dict):
            odd = next((name for name in value if not isinstance(name, str)), "")
            if odd != "":
                within = f" in {key}" if key else ""
                raise UserError(f"{where}: key {_short(odd)}{within} is not text; put it in quotes")
            parts = list(value.items())
        elif isinstance(value, list | tuple):
            parts = list(enumerate(value))
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}: {key}: {value} is not a finite number")
        elif value is not None and not isinstance(value, str | int | float):
            found = type(value).__name__
            raise UserError(
                f"{where}: {key}: {_short(value)} is a {found}; expected a number, text, a list or"
                " a mapping (put text in quotes)"
            )
        else:
            continue
        todo += [((*place, name), part) for name, part in parts]


def resolve(values: dict[str, Any], overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """``values`` under the preset that they (or ``overrides``) name, under ``overrides``."""
    overrides = overrides or {}
    check_plain(overrides, "--config")
    preset = overrides.get("preset", values.get("preset"))
    laid = _laid_over(values, _overlay(preset, "params.yaml"))
    return _all_variants(merge(laid, {**overrides, "preset": preset}))


def _all_variants(values: dict[str, Any]) -> dict[str, Any]:
    """Expand ``experiment.variants: all``: the variants of every group, each once, in order."""
    experiment = values.get("experiment")
    groups: Any = values.get("groups")
    if not isinstance(experiment, dict) or experiment.get("variants") != "all":
        return values
    try:
        names = [name for group in groups.values() for name in group["variants"]]
    except (AttributeError, KeyError, TypeError):
        message = "experiment.variants: all needs `groups`, and there are none"
        raise UserError(message) from None
    return values | {"experiment": experiment | {"variants": list(dict.fromkeys(names))}}


def _laid_over(values: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    """A preset over the values below it. Its `variants` and `groups` replace those below, since an
    overlay for one network size is wrong for another; the command line adds to them.
    """
    own: dict[str, Any] = {key: {} for key in ("variants", "groups") if key in preset}
    return merge(values | own, preset)


def _overlay(preset: Any, named_in: str, above: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The preset's values, laid over those of the preset that it names as its ``base``."""
    known = sorted(path.stem for path in (PROJECT / PRESETS).glob("*.yaml"))
    if preset not in known:
        raise UserError(f"{named_in}: preset {_short(preset)} is none of {', '.join(known)}")
    path = PROJECT / PRESETS / f"{preset}.yaml"
    if preset in above:
        raise UserError(f"{named_in}: base: {preset} is circular")
    values = read_yaml(path)
    if "base" not in values:
        return values
    base = values.pop("base")
    return _laid_over(_overlay(base, f"{PRESETS}/{preset}.yaml", (*above, preset)), values)


def load(path: str | Path = "params.yaml", overrides: dict[str, Any] | None = None) -> Params:
    """Read, resolve and validate a parameter file."""
    return parse(resolve(read_yaml(path), overrides), where=str(path))


def schema() -> str:
    """The JSON schema of the parameters, as YAML: workflow/schemas/params.schema.yaml."""
    head = "# Made by `realnet params schema`, after every change of the sections.\n"
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head + yaml.safe_dump(dialect | Params.model_json_schema(), sort_keys=False)


def as_json(text: str) -> dict[str, Any] | None:
    """``--params`` that is JSON of sections, decoded; None where it names a file.

    UserError: malformed JSON.
    """
    if not text.lstrip().startswith("{"):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--params: neither a file nor valid JSON ({_short(error)})") from None
    check_plain(values, "--params")
    return values


def stage_params(text: str, kind: type[P], variant: str = "base") -> P:
    """The sections that a stage reads, from ``--params``: JSON of sections, or a YAML file."""
    values = as_json(text)
    if values is None:
        return kind.of(load(text).variant(variant))
    for key in kind.model_fields:
        if key not in values:
            raise UserError(f"--params: section {key} is missing, {kind.__name__} needs it")
    try:
        return kind.model_validate({key: values[key] for key in kind.model_fields})
    except ValidationError as error:
        raise UserError(f"--params: {_one_line(error)}") from None
