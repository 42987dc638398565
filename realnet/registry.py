"""The stages of the DAG, in order: the single definition of each stage.

The parameters a stage reads, what it builds on, where its result lies and what it writes are
stated here; the workflow, the parameters, provenance, tracking and `dvc.yaml` read it from here or
are checked against it by a test. A new stage is one entry here, one module in `realnet/stages/`
and one rule in `workflow/rules/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from realnet.config import stage_params as params
from realnet.config.stage_params import StageParams

CATEGORY = "{dataset}/{category}"
RUN = "{dataset}/{category}/seed{seed}/{variant}"


@dataclass(frozen=True)
class Stage:
    """One stage of the DAG."""

    name: str
    module: str  # whose code, with all that it imports, the result depends on
    params: type[StageParams]  # the sections that it reads
    upstream: tuple[str, ...] = ()  # stages whose results it reads
    # Sections that decide which upstream stage is used, or whether one is.
    chosen_by: tuple[str, ...] = ()
    folder: str = RUN  # of its result and its log, under results/<name>/ and results/logs/<name>/
    result: str = "stage.json"  # the file that is there once the stage has succeeded
    files: tuple[str, ...] = ()  # what else it writes, and later stages or readers rely on
    figures: Mapping[str, str] = field(default_factory=dict)  # file -> its name in MLflow

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the parameter sections that the stage reads."""
        return tuple(self.params.model_fields)

    @property
    def path(self) -> str:
        """The folder of a result, relative to the results."""
        return f"{self.name}/{self.folder}"


_ALL = (
    Stage(
        "data",
        "realnet.stages.data",
        params.DataParams,
        folder=CATEGORY,
        result="manifest.csv",
        files=("summary.json",),
    ),
    Stage(
        "backbone",
        "realnet.stages.backbone",
        params.BackboneParams,
        folder="{variant}",
        files=("backbone.safetensors", "backbone.json"),
    ),
    Stage(
        "ddpm",
        "realnet.stages.ddpm",
        params.DdpmParams,
        ("data",),
        folder="{dataset}/{group}/seed{seed}/{variant}",
        files=("model.safetensors", "raw.safetensors", "config.json", "history.csv"),
        figures={"samples.png": "ddpm_samples.png"},
    ),
    Stage(
        "classifier",
        "realnet.stages.classifier",
        params.ClassifierParams,
        ("data",),
        folder="{dataset}/all/seed{seed}/{variant}",
        files=("model.safetensors", "config.json", "history.csv", "curves.png"),
    ),
    Stage(
        "sdas",
        "realnet.stages.sdas",
        params.SdasParams,
        ("data", "ddpm", "classifier"),
        files=("images", "manifest.csv", "grid.npz"),
        figures={"grid.png": "sdas_strengths.png"},
    ),
    Stage(
        "sdas_check",
        "realnet.stages.sdas_check",
        params.SdasCheckParams,
        ("data", "backbone", "ddpm", "classifier"),
        files=("check.json", "samples.png"),
    ),
    Stage(
        "sia",
        "realnet.stages.sia",
        params.SiaParams,
        ("data", "ddpm", "classifier"),
        chosen_by=("data", "sdas"),
        files=("manifest.csv", "sia.json", "sheet.png"),
    ),
    Stage(
        "afs",
        "realnet.stages.afs",
        params.AfsParams,
        ("data", "backbone", "sdas"),
        files=("afs.json",),
        figures={"afs.png": "selected_features.png"},
    ),
    Stage(
        "realnet",
        "realnet.stages.realnet",
        params.RealNetParams,
        ("data", "backbone", "sdas", "afs"),
        files=("model.safetensors", "model.json", "history.csv", "anomalies.npz"),
        figures={"curves.png": "training_curves.png"},
    ),
    Stage(
        "patchcore",
        "realnet.stages.patchcore",
        params.PatchCoreParams,
        ("data", "backbone"),
        files=("memory.safetensors", "model.json"),
    ),
    Stage(
        "evaluate",
        "realnet.stages.evaluate",
        params.EvaluateParams,
        ("data", "realnet", "patchcore"),
        chosen_by=("method",),
        files=(
            "metrics.json",
            "scores.npz",
            "images.csv",
            "regions.csv",
            "curves.npz",
            "per_image.npz",
        ),
        figures={"qualitative.png": "heat_maps.png"},
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}

# What is not the result of a run, but reads parameters as stages do.
OTHERS: dict[str, type[StageParams]] = {"demo": params.DemoParams, "report": params.ReportParams}

# Where the code of every rule starts: what this module imports, directly or not, is its code, and a
# change of meaning there is a reason to rerun. The names are those of the files in workflow/code.
CODE: dict[str, str] = {
    **{stage.name: stage.module for stage in _ALL},
    "demo": "realnet.datasets.demo.demo_dataset",
    "sia_shard": "realnet.stages.sia_shard",  # draws the images that the stage sia collects
    "foregrounds": "realnet.plots.foreground_rules",
    "report": "realnet.report.report",
    "ablation": "realnet.tables.groups",
    "track": "realnet.tracking",
}

# Modules, with all that is in them, that no result depends on: the parameters are a reason to rerun
# of their own, and the rest words messages and records.
NOT_CODE: tuple[str, ...] = (
    "realnet.config",
    "realnet.core.environment_errors",
    "realnet.core.errors",
    "realnet.core.progress",
    "realnet.core.stopping",
    "realnet.provenance.record",
    "realnet.registry",
    "realnet.stages.job",
)
# Code of the report, but not of the computation of a run: figures and provenance.
WITHOUT_RESULTS: tuple[str, ...] = ("realnet.plots", "realnet.provenance")
RESULTS = frozenset({*(stage.name for stage in _ALL), "demo", "sia_shard"})


def not_code(name: str) -> tuple[str, ...]:
    """The modules that are no code of this key of :data:`CODE`."""
    return NOT_CODE + (WITHOUT_RESULTS if name in RESULTS else ())


def params_of(name: str) -> type[StageParams]:
    """The sections that a stage, `demo` or `report` reads, as one model."""
    return STAGES[name].params if name in STAGES else OTHERS[name]


def depends_on(name: str) -> frozenset[str]:
    """Every section that a stage's result depends on: its own, and those of all stages before."""
    stage = STAGES[name]
    own = frozenset(stage.sections) | frozenset(stage.chosen_by)
    if name == "realnet":  # reads only the pooling of it, and only to select checkpoints
        own -= {"evaluate"}
    return own.union(*(depends_on(before) for before in stage.upstream))


# Sections that a variant may overlay: those that some run depends on.
OVERLAID: tuple[str, ...] = (
    *("data", "backbone", "ddpm", "classifier", "sdas", "sdas_check", "synthesis", "afs", "model"),
    *("training", "method", "patchcore", "evaluate", "sia"),
)
