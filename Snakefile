from snakemake.utils import min_version

min_version("9.20")


configfile: "params.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/backbone.smk"
include: "workflow/rules/ddpm.smk"
include: "workflow/rules/classifier.smk"
include: "workflow/rules/sdas.smk"
include: "workflow/rules/sdas_check.smk"
include: "workflow/rules/sia.smk"
include: "workflow/rules/afs.smk"
include: "workflow/rules/realnet.smk"
include: "workflow/rules/patchcore.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/ablations.smk"


# `snakemake --cores all` runs everything; `data`, `backbone`, `ddpm`, `sdas`, `afs`, `realnet`,
# `evaluate` and `report` stop after that layer; `tables` renders what has been evaluated.
# `ablation_<group>` evaluates the variants of a group and makes their table; `ablations` all groups.
rule all:
    default_target: True
    input:
        REPORT,
        TRACKED,


# At every start: a reminder of runs that could not be logged to MLflow.
remind_of_tracking()


onstart:
    check_places()
    check_code()


onsuccess:
    remind_of_tracking()


# All failed stages and why, together: Snakemake reports them one by one, among other jobs.
onerror:
    report_failures()
