FORMATS = (".csv", ".md", ".tex")


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


rule make_ablation:
    input:
        metrics=of_group("metrics.json"),
        per_image=of_group("per_image.npz"),
        code=code("ablation"),
    output:
        multiext("results/tables/ablation_{ablation}", *FORMATS),
    log:
        "results/logs/ablation_{ablation}.log",
    wildcard_constraints:
        ablation=r"\w+",
    localrule: True
    conda:
        "../envs/realnet.yaml"
    params:
        cfg=group_cfg,
    shell:
        stage(
            "report --results results --group {wildcards.ablation} --params {params.cfg:q}"
        )


for name in P.groups:

    rule:
        name:
            f"ablation_{name}"
        input:
            multiext(f"results/tables/ablation_{name}", *FORMATS),


rule ablations:
    input:
        expand(
            "results/tables/ablation_{group}{format}",
            group=list(P.groups),
            format=FORMATS,
        ),
