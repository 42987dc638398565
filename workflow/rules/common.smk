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

import dag
from realnet.core.errors import UserError
from realnet.config.params import Params, read_yaml

# For jobs: the same project and the interpreter that runs Snakemake, so that the environment need
# not be activated; with `--sdm conda` it is that of workflow/envs/realnet.yaml. The path is not in
# the commands, since a changed command triggers a rerun, which another path must not.
in_conda = bool(workflow.deployment_settings.deployment_method)
os.environ.update(
    REALNET_PYTHON="python" if in_conda else sys.executable,
    # A job ends with the process that started it, here or on a cluster's node.
    REALNET_PARENT=str(os.getpid()),
    PYTHONPATH=os.pathsep.join([str(workflow.basedir), os.getenv("PYTHONPATH", "")]),
)


def user_error(error):
    """Exit with one line on stderr; a WorkflowError would add the line of this file."""
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
# One training may use several GPUs. With `auto` it uses those that its job gets: one, or the number
# in `--set-resources train_ddpm:gpu=4`.
PROCESSES = 1 if P.compute.processes == "auto" else P.compute.processes


# Names as in params.yaml. A result of any category can be requested by its path, also of a dataset
# that is not in the matrix; the functions below refuse unknown ones.
wildcard_constraints:
    dataset=r"\w+",
    category=r"\w+",
    group=r"\w+",
    seed=r"\d+",
    variant=r"\w+",


def once(function):
    """A function of the parameters, cached by its arguments, since every job calls it and it may
    validate all parameters. A UserError ends the run with its one line."""

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
    """The stage's source files as inputs. Small files are compared by content, so a `git checkout`
    costs nothing; local(), since a default storage provider has no code."""
    return [local(path) for path in dag.closure(dag.CODE[stage])]


def cfg(stage):
    """The sections that the stage reads: a change of another parameter triggers no rerun."""
    return lambda wildcards: section(stage, getattr(wildcards, "variant", "base"))


def demo_cfg():
    """Like `cfg`, for the demo dataset: it depends only on `demo` in the section `data`."""
    return json.dumps(
        {"data": {"root": "", "image_size": 64, "demo": config["data"]["demo"]}}
    )


def prepare_cfg(dataset):
    """Like `cfg`, with this dataset's layout alone: another's triggers no rerun."""
    layouts = config["prepare"]["layouts"]
    own = {dataset: layouts[dataset]} if dataset in layouts else {}
    return json.dumps({"prepare": config["prepare"] | {"layouts": own}}, sort_keys=True)


def shared(stage, variant):
    variant_of(variant)  # exits if there is none
    return P.shared_variant(stage, variant)


def place(stage, dataset, category, seed, variant):
    """The folder of a stage's result for this run, shared between variants where possible."""
    return f"results/{stage}/{dataset}/{category}/seed{seed}/{shared(stage, variant)}"


def group(category):
    """The folder of the diffusion model that a category uses."""
    return "all" if P.ddpm.scope == "dataset" else category


def layer(stage, name, variants=VARIANTS):
    """`name` of every result of a stage that the matrix contains, each once."""
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
    """The synthetic images, for variants that use them as a source of anomalies."""
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
    """The initial weights of a diffusion model, if `ddpm.init` names some."""
    folder = variant_of(wildcards.variant).ddpm.init
    return [f"{folder}/config.json", f"{folder}/model.safetensors"] if folder else []


def categories_of(dataset):
    """Categories of a model for a whole dataset: those of the matrix, or all of another dataset."""
    return MATRIX.get(dataset) or all_categories(dataset)


def ddpm_categories(wildcards):
    """Categories of one diffusion model, in the order of its classes."""
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
    """The guidance classifier of a dataset, if this variant's sampling uses one."""
    if uses_classifier(wildcards.variant):
        folder = classifier_folder(wildcards.dataset, wildcards.seed, wildcards.variant)
        return f"{folder}/model.safetensors"
    return []


def classifier_option(wildcards, input):
    folder = os.path.dirname(input.get("classifier") or "")
    return f"--classifier {shlex.quote(folder)}" if folder else ""


def classifier_init(wildcards):
    """The initial weights of a classifier, if `classifier.init` names some."""
    folder = P.variant(wildcards.variant).classifier.init
    return [f"{folder}/config.json", f"{folder}/model.safetensors"] if folder else []


def report_cfg(*sections):
    """The matrix (with `all` expanded, variants in order) and what the tables read."""
    values = {key: config[key] for key in sections}
    values["experiment"] = config["experiment"] | {"datasets": MATRIX}
    return json.dumps(values, sort_keys=True)


def of_group(name):
    """Input function: `name` of every evaluation of the group's variants. What they need is checked
    for requested groups only."""

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
    """Like `report_cfg`, with the variants of the group alone."""
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
    """Before the first job: exit with one line if results are not writable. Snakemake would notice
    it later and stop with a traceback."""
    for folder in ["results", *glob.glob("results/*/")]:
        if os.path.isdir(folder) and not os.access(folder, os.W_OK):
            user_error(
                f"{folder}: cannot be written (no right to it, or a read-only disk); give this"
                " user the right to it, or mount it writable"
            )


def tell_failures():
    """On stderr, after an error: stages of the matrix that started and have no result."""
    cfg = report_cfg("variants", "report")
    words = ["-m", "realnet", "failures", "--stopped", "--params", cfg]
    with contextlib.suppress(OSError):  # a report of errors must not raise one
        told = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        if told.returncode == 1 and told.stdout:
            print(f"\n{told.stdout}", file=sys.stderr, flush=True)


def remind_of_tracking():
    """On stderr: runs that could not be logged to MLflow, by the receipt of `track_runs`."""
    if os.path.isfile(TRACKED):
        from realnet.tracking import reminder

        if line := reminder(Path(TRACKED)):
            print(f"realnet: {line}", file=sys.stderr, flush=True)


def stage(command, gpu=False):
    """Shell command of a stage: its output goes to the log, the last lines also to the terminal.

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
