rule select_features:
    input:
        manifest="results/data/{dataset}/{category}/manifest.csv",
        backbone=backbone_of,
        sdas=sdas_of,
        code=code("afs"),
    output:
        afs="results/afs/{dataset}/{category}/seed{seed}/{variant}/afs.json",
        figure="results/afs/{dataset}/{category}/seed{seed}/{variant}/afs.png",
        stage="results/afs/{dataset}/{category}/seed{seed}/{variant}/stage.json",
    log:
        "results/logs/afs/{dataset}/{category}/seed{seed}/{variant}.log",
    benchmark:
        "results/benchmarks/afs/{dataset}/{category}/seed{seed}/{variant}.tsv"
    priority: 60
    conda:
        "../envs/realnet.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        cfg=cfg("afs"),
        backbone=subpath(input.backbone, parent=True),
        sdas=sdas_option,
        out=subpath(output.afs, parent=True),
    shell:
        stage(
            "afs --manifest {input.manifest:q} --backbone {params.backbone:q} {params.sdas}"
            " --dataset {wildcards.dataset:q} --category {wildcards.category:q}"
            " --seed {wildcards.seed} --out {params.out:q} --params {params.cfg:q}",
            gpu=True,
        )


rule afs:
    input:
        layer("afs", "afs.json", TRAINED),
