# Nothing is made from the check: SDAS and the trainings do not wait for it.
rule check_samples:
    input:
        manifest="results/data/{dataset}/{category}/manifest.csv",
        backbone=backbone_of,
        ddpm=ddpm_of,
        classifier=classifier_of,
        code=code("sdas_check"),
    output:
        check="results/sdas_check/{dataset}/{category}/seed{seed}/{variant}/check.json",
        figure="results/sdas_check/{dataset}/{category}/seed{seed}/{variant}/samples.png",
        stage="results/sdas_check/{dataset}/{category}/seed{seed}/{variant}/stage.json",
    log:
        "results/logs/sdas_check/{dataset}/{category}/seed{seed}/{variant}.log",
    benchmark:
        "results/benchmarks/sdas_check/{dataset}/{category}/seed{seed}/{variant}.tsv"
    priority: 65
    conda:
        "../envs/realnet.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        cfg=cfg("sdas_check"),
        backbone=subpath(input.backbone, parent=True),
        ddpm=subpath(input.ddpm, parent=True),
        classifier=classifier_option,
        out=subpath(output.check, parent=True),
    shell:
        stage(
            "sdas-check --ddpm {params.ddpm:q} --backbone {params.backbone:q}"
            " --manifest {input.manifest:q} {params.classifier}"
            " --dataset {wildcards.dataset:q} --category {wildcards.category:q}"
            " --seed {wildcards.seed} --out {params.out:q} --params {params.cfg:q}",
            gpu=True,
        )


rule sdas_check:
    input:
        layer("sdas_check", "check.json", SDAS_VARIANTS),
