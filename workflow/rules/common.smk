import contextlib
import functools
import glob
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from snakemake.utils import validate

# The project beside this Snakefile takes precedence over an installed one.
sys.path[:0] = [str(workflow.basedir), f"{workflow.basedir}/workflow/scripts"]

import accept
import dag
from realnet.config.params import Params, read_yaml
from realnet.core.errors import UserError
from realnet.provenance import stage_code
from realnet.registry import CODE

# For jobs: the same project, and the interpreter that runs Snakemake, so that the environment need
# not be activated; with `--sdm conda` it is the one of workflow/envs/realnet.yaml. The path is not
# part of the commands, since a changed command is a reason to rerun, and another path is not.
in_conda = bool(workflow.deployment_settings.deployment_method)
os.environ.update(
    REALNET_PYTHON="python" if in_conda else sys.executable,
    # A job ends with the process that started it, here or on a node of a cluster.
    REALNET_PARENT=str(os.getpid()),
    PYTHONPATH=os.pathsep.join([str(workflow.basedir), os.getenv("PYTHONPATH", "")]),
)


def user_error(error):
    """Exit with one line on stderr; a WorkflowError would add the line of this file."""
    raise SystemExit(f"realnet: {error}")


# `config` is params.yaml overlaid by `--config`, but a preset belongs between the two.
try:
    P = dag.settings(
        read_yaml(f"{workflow.basedir}/params.yaml"),
        workflow.config_settings.overwrite_config,
    )
    MATRIX = dag.matrix(P)
    dag.check_files(P, MATRIX)
    dag.check_guidance(P, MATRIX, P.experiment.variants)
    if workflow.is_main_process:  # and not each of its jobs
        stage_code.refresh(Path(workflow.basedir))
except UserError as error:
    user_error(error)
config.clear()
config.update(P.model_dump())
# The same rules once more, as the published schema (`realnet params schema`) has them. Without
# set_default, since Snakemake and DVC must see the same values.
validate(config, "../schemas/params.schema.yaml", set_default=False)

SEEDS = P.experiment.seeds
VARIANTS = P.experiment.variants
# Variants whose detector is a RealNet; others do not need the layers before it.
TRAINED = [variant for variant in VARIANTS if P.trains(variant)]
GPU = 0 if P.compute.device == "cpu" else 1
THREADS = P.compute.threads
# One training may use several GPUs. With `auto` it uses those that its job is given: one, or what
# `--set-resources train_ddpm:gpu=4` says.
PROCESSES = 1 if P.compute.processes == "auto" else P.compute.processes


# Names as in params.yaml. A result of any category can be requested by its path, also of a dataset
# that is not in the matrix; the functions below reject what does not exist.
wildcard_constraints:
    dataset=r"\w+",
    category=r"\w+",
    group=r"\w+",
    seed=r"\d+",
    variant=r"\w+",


def once(function):
    """A function of the parameters, called once per set of arguments (it may validate all
    parameters each time). A UserError ends the run with its one line."""

    @functools.cache
    def answer(*arguments):
        try:
            return function(P, *arguments)
        except UserError as error:
            user_error(error)

    return answer


section = once(Params.section_json)
variant_of = once(Params.variant)
uses_sdas = once(Params.uses_sdas)
trains = once(Params.trains)
raw_files = once(dag.raw_files)
all_categories = once(dag.categories_of)


def code(stage):
    """The file with the fingerprints of the stage's code, as an input. Snakemake compares small
    files by content. local(), since a default storage provider has no code."""
    if stage not in CODE:
        user_error(f"realnet/registry.py: CODE has no {stage}")
    return local(f"workflow/code/{stage}.json")


def cfg(stage):
    """What the stage reads and nothing else, so that other parameters are no reason to rerun."""
    return lambda wildcards: section(stage, getattr(wildcards, "variant", "base"))


def demo_cfg():
    """As `cfg`, for the demo dataset, which depends only on `demo` of the section `data`."""
    return json.dumps(
        {"data": {"root": "", "image_size": 64, "demo": config["data"]["demo"]}}
    )


def prepare_cfg(dataset):
    """As `cfg`, with what concerns this dataset only."""
    own = P.prepare.only(dataset).model_dump(mode="json")
    return json.dumps({"prepare": own}, sort_keys=True)


def shared(stage, variant):
    variant_of(variant)  # ends the run if it does not exist
    return P.shared_variant(stage, variant)


def place(stage, dataset, category, seed, variant):
    """The folder of a stage's result for this run, shared between variants where possible."""
    return f"results/{stage}/{dataset}/{category}/seed{seed}/{shared(stage, variant)}"


def group(category):
    """The folder of the diffusion model that a category uses."""
    return "all" if P.ddpm.scope == "dataset" else category


def layer(stage, name, variants=VARIANTS):
    """`name` of every result of a stage that the matrix needs, each once."""
    return list(
        dict.fromkeys(
            f"{place(stage, dataset, category, seed, variant)}/{name}"
            for dataset, categories in MATRIX.items()
            for category in categories
            for seed in SEEDS
            for variant in variants
        )
    )


def upstream(stage, name):
    """Input function: `name` of the result of `stage` that this job builds on."""
    return lambda w: f"{place(stage, w.dataset, w.category, w.seed, w.variant)}/{name}"


def raw_of(wildcards):
    """The raw files of a category."""
    return raw_files(wildcards.dataset, wildcards.category)


def backbone_of(wildcards):
    return (
        f"results/backbone/{shared('backbone', wildcards.variant)}/backbone.safetensors"
    )


def sdas_of(wildcards):
    """The SDAS images, for variants that use them as anomalies."""
    if uses_sdas(wildcards.variant):
        return upstream("sdas", "manifest.csv")(wildcards)
    return []


def sdas_option(wildcards, input):
    return (
        f"--sdas {shlex.quote(os.path.dirname(input.sdas))}"
        if input.get("sdas")
        else ""
    )


def model_of(name):
    """Input function: the fitted detector that is evaluated, by the variant's method."""

    def file(wildcards):
        if trains(wildcards.variant):
            return upstream("realnet", f"model.{name}")(wildcards)
        stem = "memory" if name == "safetensors" else "model"
        return upstream("patchcore", f"{stem}.{name}")(wildcards)

    return file


def weights_file(wildcards):
    """The state dict of `backbone.source: file`."""
    backbone = variant_of(wildcards.variant).backbone
    return [backbone.file] if backbone.source == "file" else []


def init_of(wildcards):
    """The weights that a diffusion model starts from, if `ddpm.init` names some."""
    folder = variant_of(wildcards.variant).ddpm.init
    return [f"{folder}/config.json", f"{folder}/model.safetensors"] if folder else []


def categories_of(dataset):
    """What a model of a whole dataset is trained on: the categories of the matrix, or all."""
    return MATRIX.get(dataset) or all_categories(dataset)


def ddpm_categories(wildcards):
    """The categories of one diffusion model, in the order of its classes."""
    if wildcards.group == "all":
        return categories_of(wildcards.dataset)
    return [wildcards.group]


def ddpm_of(wildcards):
    """The diffusion model that a category is sampled from."""
    trained = categories_of(wildcards.dataset)
    if P.ddpm.scope == "dataset" and wildcards.category not in trained:
        user_error(
            f"ddpm.scope is dataset, and the model of {wildcards.dataset} is trained on"
            f" {', '.join(trained)}: add {wildcards.category} to experiment.datasets"
        )
    folder = place(
        "ddpm",
        wildcards.dataset,
        group(wildcards.category),
        wildcards.seed,
        wildcards.variant,
    )
    return f"{folder}/model.safetensors"


uses_classifier = once(Params.uses_classifier)
check_variants = once(
    lambda params, *variants: (
        dag.check_files(params, MATRIX, variants),
        dag.check_guidance(params, MATRIX, variants),
    )
)


def classifier_folder(dataset, seed, variant):
    return place("classifier", dataset, "all", seed, variant)


def classifier_of(wildcards):
    """The guidance classifier of a dataset, if the sampling of this variant uses one."""
    if uses_classifier(wildcards.variant):
        folder = classifier_folder(wildcards.dataset, wildcards.seed, wildcards.variant)
        return f"{folder}/model.safetensors"
    return []


def classifier_option(wildcards, input):
    folder = os.path.dirname(input.get("classifier") or "")
    return f"--classifier {shlex.quote(folder)}" if folder else ""


def classifier_init(wildcards):
    """The weights that `classifier.init` names."""
    folder = P.variant(wildcards.variant).classifier.init
    return [f"{folder}/config.json", f"{folder}/model.safetensors"] if folder else []


def report_cfg(*sections):
    """The matrix (with `all` expanded, variants in order) and what the tables read."""
    values = {key: config[key] for key in sections}
    values["experiment"] = config["experiment"] | {"datasets": MATRIX}
    return json.dumps(values, sort_keys=True)


def of_group(name):
    """Input function: `name` of every evaluation of the group's variants. Checks the files that
    they need, but only for requested groups."""

    def files(wildcards):
        group = P.groups.get(wildcards.ablation)
        if group is None:
            user_error(
                f"no group of variants {wildcards.ablation!r}; known: {', '.join(P.groups)}"
            )
        check_variants(*group.variants)
        return layer("evaluate", name, group.variants)

    return files


def group_cfg(wildcards):
    """As `report_cfg`, with the variants of the group only."""
    group = P.groups[wildcards.ablation]
    values = {
        "experiment": {
            **config["experiment"],
            "datasets": MATRIX,
            "variants": group.variants,
        },
        "groups": {wildcards.ablation: group.model_dump()},
        "report": config["report"],
        "variants": {name: P.variants[name] for name in group.variants},
    }
    return json.dumps(values, sort_keys=True)


def check_places():
    """Before the first job: one line if results cannot be written, where Snakemake would stop
    later with a traceback."""
    for folder in ["results", *glob.glob("results/*/")]:
        if os.path.isdir(folder) and not os.access(folder, os.W_OK):
            user_error(
                f"{folder}: cannot be written (no permission, or a read-only disk); give this"
                " user the permission, or mount it writable"
            )


def check_code():
    """Before the first job: accept changed code if `realnet code --accept` asks for it; and stop
    if results of version 0.1.0 would be recomputed only because code was recorded otherwise.
    """
    if os.getenv("REALNET_ACCEPT_CODE"):
        jobs = accept.code_only(workflow)
        accept.accept(workflow, jobs)
        others = accept.others(workflow, jobs)
        print(
            f"realnet: accepted the results of {len(jobs)} jobs; {others} other jobs remain"
            " to be run (changed parameters or data, or no results)",
            file=sys.stderr,
        )
        raise SystemExit(0)
    old = accept.code_only(workflow, old=True)
    if old and not os.getenv("REALNET_RECOMPUTE"):
        user_error(
            f"{len(old)} jobs have results of version 0.1.0, which recorded code in another way."
            " Keep these results: `realnet code --accept`. Recompute them: set REALNET_RECOMPUTE=1"
        )


def report_failures():
    """On stderr, after an error: stages of the matrix that were started and have no result."""
    cfg = report_cfg("variants", "report")
    words = ["-m", "realnet", "failures", "--stopped", "--params", cfg]
    with contextlib.suppress(OSError):  # reporting errors must not fail
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        if done.returncode == 1 and done.stdout:
            print(f"\n{done.stdout}", file=sys.stderr, flush=True)


def remind_of_tracking():
    """On stderr: runs that could not be logged to MLflow, by the receipt of `track_runs`."""
    if os.path.isfile(TRACKED):
        from realnet.tracking import reminder

        if line := reminder(Path(TRACKED)):
            print(f"realnet: {line}", file=sys.stderr, flush=True)


def stage(command, gpu=False):
    """Shell command of a stage: output goes to the log; after an error, its end is also printed.

    On a GPU it runs through `realnet.compute.gpu`, which gives concurrent jobs different devices.
    """
    python = '"$REALNET_PYTHON"'
    lease = (
        f"{python} -m realnet.compute.gpu --count {{resources.gpu}} -- " if gpu else ""
    )
    return (
        f"{lease}{python} -m realnet {command} > {{log}} 2>&1"
        " || {{ status=$?; [ $status -ne 137 ] || echo 'realnet: ended by SIGKILL; perhaps the"
        " machine ran out of memory' >> {log}; tail -n 3 {log} >&2; exit $status; }}"
    )
