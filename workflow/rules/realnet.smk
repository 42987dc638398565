rule train_realnet:
    input:
        manifest="results/data/{dataset}/{category}/manifest.csv",
        backbone=backbone_of,
        afs=upstream("afs", "afs.json"),
        sdas=sdas_of,
        code=code("realnet"),
    output:
        model="results/realnet/{dataset}/{category}/seed{seed}/{variant}/model.safetensors",
        config="results/realnet/{dataset}/{category}/seed{seed}/{variant}/model.json",
        history="results/realnet/{dataset}/{category}/seed{seed}/{variant}/history.csv",
        anomalies="results/realnet/{dataset}/{category}/seed{seed}/{variant}/anomalies.npz",
        curves="results/realnet/{dataset}/{category}/seed{seed}/{variant}/curves.png",
        stage="results/realnet/{dataset}/{category}/seed{seed}/{variant}/stage.json",
    log:
        "results/logs/realnet/{dataset}/{category}/seed{seed}/{variant}.log",
    benchmark:
        "results/benchmarks/realnet/{dataset}/{category}/seed{seed}/{variant}.tsv"
    priority: 50
    # As in ddpm.smk: from the last checkpoint.
    retries: 1
    conda:
        "../envs/realnet.yaml"
    threads: THREADS * PROCESSES
    resources:
        gpu=GPU * PROCESSES,
    params:
        cfg=cfg("realnet"),
        backbone=subpath(input.backbone, parent=True),
        afs=subpath(input.afs, parent=True),
        sdas=sdas_option,
        out=subpath(output.model, parent=True),
    shell:
        stage(
            "train --manifest {input.manifest:q} --backbone {params.backbone:q}"
            " --afs {params.afs:q} {params.sdas}"
            " --dataset {wildcards.dataset:q} --category {wildcards.category:q}"
            " --seed {wildcards.seed} --out {params.out:q} --params {params.cfg:q}",
            gpu=True,
        )


rule realnet:
    input:
        layer("realnet", "model.safetensors", TRAINED),
