from snakemake.utils import min_version

min_version("9.20")


configfile: "params.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/backbone.smk"
include: "workflow/rules/ddpm.smk"
include: "workflow/rules/classifier.smk"
include: "workflow/rules/sdas.smk"
include: "workflow/rules/sia.smk"
include: "workflow/rules/afs.smk"
include: "workflow/rules/realnet.smk"
include: "workflow/rules/patchcore.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/ablations.smk"


# `snakemake --cores all` runs everything; `data`, `backbone`, `ddpm`, `sdas`, `afs`, `realnet`,
# `evaluate` and `report` stop after that layer; `tables` renders what has been evaluated.
# `ablation_<group>` evaluates the variants of a group and writes their table; `ablations`: all.
rule all:
    default_target: True
    input:
        REPORT,
        TRACKED,


# Repeated until done: results that could not be logged to MLflow.
remind_of_tracking()


onstart:
    check_places()


onsuccess:
    remind_of_tracking()


# A summary of what stopped and why; Snakemake reports it job by job, among other output.
onerror:
    tell_failures()
