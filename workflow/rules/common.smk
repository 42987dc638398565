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

# The project beside this Snakefile comes first, whatever else the environment has installed.
sys.path[:0] = [str(workflow.basedir), f"{workflow.basedir}/workflow/scripts"]

import accept
import dag
from realnet.config.params import Params, read_yaml
from realnet.core.errors import UserError
from realnet.provenance import stage_code
from realnet.registry import CODE

# For jobs: the same project, and the interpreter that runs Snakemake, so that the environment need
# not be activated; with `--sdm conda` it is the one of workflow/envs/realnet.yaml. The path is no
# part of the commands, since a changed command is a reason to rerun and another path is not.
in_conda = bool(workflow.deployment_settings.deployment_method)
os.environ.update(
    REALNET_PYTHON="python" if in_conda else sys.executable,
    # A job ends with the process that started it, here or on a cluster's node.
    REALNET_PARENT=str(os.getpid()),
    PYTHONPATH=os.pathsep.join([str(workflow.basedir), os.getenv("PYTHONPATH", "")]),
)


def user_error(error):
    """End with one line on stderr; a WorkflowError would add the place in this file."""
    raise SystemExit(f"realnet: {error}")


# `config` is params.yaml with `--config` laid over it, but a preset belongs between the two.
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
# Those whose detector is a RealNet; others have no use for the layers before it.
TRAINED = [variant for variant in VARIANTS if P.trains(variant)]
GPU = 0 if P.compute.device == "cpu" else 1
THREADS = P.compute.threads
# One training may take several GPUs. With `auto` it takes those that its job is given, which is one
# or what `--set-resources train_ddpm:gpu=4` says.
PROCESSES = 1 if P.compute.processes == "auto" else P.compute.processes


# Names as in params.yaml. A result of any category can be asked for by its path, also of a data set
# that is not in the matrix; the functions below refuse what there is not.
wildcard_constraints:
    dataset=r"\w+",
    category=r"\w+",
    group=r"\w+",
    seed=r"\d+",
    variant=r"\w+",


def once(function):
    """A function of the parameters that every job asks, once for each of its arguments (it may
    validate all parameters each time). A UserError ends the run with its one line."""

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
    """What the stage reads, and nothing else: a change of another parameter is no reason to rerun."""
    return lambda wildcards: section(stage, getattr(wildcards, "variant", "base"))


def demo_cfg():
    """As `cfg`, for the demo set: of the section `data` only `demo` has a say in what is drawn."""
    return json.dumps(
        {"data": {"root": "", "image_size": 64, "demo": config["data"]["demo"]}}
    )


def prepare_cfg(dataset):
    """As `cfg`, with this data set's layout alone: another's is no reason to rerun."""
    layouts = config["prepare"]["layouts"]
    own = {dataset: layouts[dataset]} if dataset in layouts else {}
    return json.dumps({"prepare": config["prepare"] | {"layouts": own}}, sort_keys=True)


def shared(stage, variant):
    variant_of(variant)  # ends the run where there is none
    return P.shared_variant(stage, variant)


def place(stage, dataset, category, seed, variant):
    """The folder of a stage's result for this cell of the matrix, shared where it can be."""
    return f"results/{stage}/{dataset}/{category}/seed{seed}/{shared(stage, variant)}"


def group(category):
    """The folder of the diffusion model that a category uses."""
    return "all" if P.ddpm.scope == "dataset" else category


def layer(stage, name, variants=VARIANTS):
    """`name` of every result of a stage that the matrix asks for, each once."""
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
    """The synthetic images, for variants whose anomalies come (also) from them."""
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
    """The weights that a diffusion model starts from, where `ddpm.init` names some."""
    folder = variant_of(wildcards.variant).ddpm.init
    return [f"{folder}/config.json", f"{folder}/model.safetensors"] if folder else []


def categories_of(dataset):
    """What a model for a whole data set is trained on: the matrix, or all of another data set."""
    return MATRIX.get(dataset) or all_categories(dataset)


def ddpm_categories(wildcards):
    """What one diffusion model is trained on, in the order of its classes."""
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
    """The guided classifier of a data set, where this variant's sampling uses one."""
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
    """The matrix (with `all` spelt out, variants in order) and what the tables read."""
    values = {key: config[key] for key in sections}
    values["experiment"] = config["experiment"] | {"datasets": MATRIX}
    return json.dumps(values, sort_keys=True)


def of_group(name):
    """Input function: `name` of every evaluation of the group's variants, after a look at what they
    need; of groups that nobody asks for, nothing is asked."""

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
    """As `report_cfg`, with the variants of the group alone."""
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
    """Before the first job: one line where results cannot be written, which Snakemake would find
    out in the middle, with a traceback, and stop everything."""
    for folder in ["results", *glob.glob("results/*/")]:
        if os.path.isdir(folder) and not os.access(folder, os.W_OK):
            user_error(
                f"{folder}: cannot be written (no right to it, or a read-only disk); give this"
                " user the right to it, or mount it writable"
            )


def check_code():
    """Before the first job: accept changed code where `realnet code --accept` asks for it; and stop
    where results of version 0.1.0 would be recomputed only since reruns were decided otherwise.
    """
    if os.getenv("REALNET_ACCEPT_CODE"):
        jobs = accept.code_only(workflow)
        accept.accept(workflow, jobs)
        others = accept.others(workflow, jobs)
        print(
            f"realnet: accepted the results of {len(jobs)} jobs; {others} other jobs remain to be run"
            " (changed parameters or data, or no results)",
            file=sys.stderr,
        )
        raise SystemExit(0)
    jobs = [
        job
        for job in accept.code_only(workflow)
        if accept.recorded_by_old_version(workflow, job)
    ]
    if jobs and not os.getenv("REALNET_RECOMPUTE"):
        user_error(
            f"{len(jobs)} jobs have results of version 0.1.0, which recorded code in another way."
            " Keep these results: `realnet code --accept`. Recompute them: set REALNET_RECOMPUTE=1"
        )


def tell_failures():
    """On stderr, after an error: stages of the matrix that were started and have no result."""
    cfg = report_cfg("variants", "report")
    words = ["-m", "realnet", "failures", "--stopped", "--params", cfg]
    with contextlib.suppress(OSError):  # an account of errors must not be one
        told = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        if told.returncode == 1 and told.stdout:
            print(f"\n{told.stdout}", file=sys.stderr, flush=True)


def remind_of_tracking():
    """On stderr: runs that MLflow could not be told of, by the receipt of `track_runs`."""
    if os.path.isfile(TRACKED):
        from realnet.tracking import reminder

        if line := reminder(Path(TRACKED)):
            print(f"realnet: {line}", file=sys.stderr, flush=True)


def stage(command, gpu=False):
    """Shell text of a stage: its output goes to the log, and its last words also to the terminal.

    On a GPU it runs behind `realnet.compute.gpu`, which gives concurrent jobs different devices.
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
