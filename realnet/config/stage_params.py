"""What each stage reads of the parameters: one typed model per stage.

A stage is given these sections and no others, so that a change of another section is no reason to
rerun it.
"""

import json
from typing import TYPE_CHECKING, Any, Self, TypeVar

from realnet.config.sections import (
    Afs,
    Backbone,
    Classifier,
    Compute,
    Data,
    Ddpm,
    Evaluate,
    Experiment,
    ImageScore,
    Model,
    PatchCore,
    Prepare,
    Report,
    Sdas,
    SdasChain,
    SdasCheck,
    SdasStart,
    Section,
    Sia,
    Synthesis,
    Training,
)

if TYPE_CHECKING:
    from realnet.config.params import Params


class StageParams(Section):
    """The sections that one stage reads."""

    @classmethod
    def of(cls, params: "Params") -> Self:
        """These sections of ``params``, whose variant is already applied.

        Of a section that the stage declares with fewer keys (`SdasStart` of `sdas`), only those.
        """
        return cls(
            **{
                name: _part(getattr(params, name), field.annotation)
                for name, field in cls.model_fields.items()
            }
        )

    def to_json(self) -> str:
        """Canonical JSON: Snakemake reruns the stage when it changes."""
        return json.dumps(self.model_dump(), sort_keys=True)


def _part(section: Any, declared: Any) -> Any:
    """``section``, or its keys that the type ``declared`` has, where it is of another type."""
    narrower = isinstance(declared, type) and issubclass(declared, Section)
    if not narrower or isinstance(section, declared):
        return section
    return declared(**{key: getattr(section, key) for key in declared.model_fields})


class DemoParams(StageParams):
    data: Data


class DataParams(StageParams):
    prepare: Prepare


class BackboneParams(StageParams):
    backbone: Backbone
    compute: Compute


class DdpmParams(StageParams):
    data: Data
    ddpm: Ddpm
    compute: Compute


class ClassifierParams(StageParams):
    data: Data
    ddpm: Ddpm
    classifier: Classifier
    compute: Compute


class SdasParams(StageParams):
    data: Data
    ddpm: Ddpm
    sdas: Sdas
    compute: Compute


class SdasCheckParams(StageParams):
    sdas: SdasChain
    sdas_check: SdasCheck
    compute: Compute


class SiaParams(StageParams):
    sdas: SdasStart
    sia: Sia
    compute: Compute


class AfsParams(StageParams):
    data: Data
    backbone: Backbone
    synthesis: Synthesis
    afs: Afs
    model: Model
    compute: Compute


class RealNetParams(StageParams):
    data: Data
    backbone: Backbone
    synthesis: Synthesis
    afs: Afs
    model: Model
    training: Training
    compute: Compute
    evaluate: ImageScore

    @classmethod
    def of(cls, params: "Params") -> Self:
        pool = params.evaluate.image_score_pool if params.training.select_every else None
        sections = {name: getattr(params, name) for name in cls.model_fields if name != "evaluate"}
        return cls(**sections, evaluate=ImageScore(image_score_pool=pool))


class PatchCoreParams(StageParams):
    data: Data
    patchcore: PatchCore
    compute: Compute


class EvaluateParams(StageParams):
    data: Data
    evaluate: Evaluate
    compute: Compute


class ReportParams(StageParams):
    experiment: Experiment
    variants: dict[str, dict[str, dict[str, Any]]]
    report: Report


P = TypeVar("P", bound=StageParams)
