rule fit_patchcore:
    input:
        manifest="results/data/{dataset}/{category}/manifest.csv",
        backbone=backbone_of,
        code=code("patchcore"),
    output:
        memory="results/patchcore/{dataset}/{category}/seed{seed}/{variant}/memory.safetensors",
        config="results/patchcore/{dataset}/{category}/seed{seed}/{variant}/model.json",
        stage="results/patchcore/{dataset}/{category}/seed{seed}/{variant}/stage.json",
    log:
        "results/logs/patchcore/{dataset}/{category}/seed{seed}/{variant}.log",
    benchmark:
        "results/benchmarks/patchcore/{dataset}/{category}/seed{seed}/{variant}.tsv"
    conda:
        "../envs/realnet.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        cfg=cfg("patchcore"),
        backbone=subpath(input.backbone, parent=True),
        out=subpath(output.memory, parent=True),
    shell:
        stage(
            "patchcore --manifest {input.manifest:q} --backbone {params.backbone:q}"
            " --dataset {wildcards.dataset:q} --category {wildcards.category:q}"
            " --seed {wildcards.seed} --out {params.out:q} --params {params.cfg:q}",
            gpu=True,
        )


rule patchcore:
    input:
        layer("patchcore", "model.json", [v for v in VARIANTS if v not in TRAINED]),
