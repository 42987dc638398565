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
        """These sections of ``params``, whose variant is already applied."""
        return cls(**{name: getattr(params, name) for name in cls.model_fields})

    def to_json(self) -> str:
        """Canonical JSON: Snakemake reruns the stage when it changes."""
        return json.dumps(self.model_dump(), sort_keys=True)


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

    @classmethod
    def of(cls, params: "Params") -> Self:
        chain = {name: getattr(params.sdas, name) for name in SdasChain.model_fields}
        return cls(sdas=SdasChain(**chain), sdas_check=params.sdas_check, compute=params.compute)


class SiaParams(StageParams):
    sdas: SdasStart
    sia: Sia
    compute: Compute

    @classmethod
    def of(cls, params: "Params") -> Self:
        start = {name: getattr(params.sdas, name) for name in SdasStart.model_fields}
        return cls(sdas=SdasStart(**start), sia=params.sia, compute=params.compute)


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
