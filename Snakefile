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


# `snakemake --cores all` makes everything; `data`, `backbone`, `ddpm`, `sdas`, `afs`, `realnet`,
# `evaluate` and `report` stop after that layer; `tables` renders what has been evaluated.
# `ablation_<group>` evaluates the variants of a group and makes their table; `ablations` all groups.
rule all:
    default_target: True
    input:
        REPORT,
        TRACKED,


# Each time until it is done: results that MLflow could not be told of.
remind_of_tracking()


onstart:
    check_places()
    check_code()


onsuccess:
    remind_of_tracking()


# What stopped and why, once more and together: Snakemake has told it job by job, between others.
onerror:
    tell_failures()
