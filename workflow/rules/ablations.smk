FORMATS = (".csv", ".md", ".tex")


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
