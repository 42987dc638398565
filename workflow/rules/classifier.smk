rule train_classifier:
    input:
        manifests=lambda w: [
            f"results/data/{w.dataset}/{category}/manifest.csv"
            for category in categories_of(w.dataset)
        ],
        init=classifier_init,
        code=code("classifier"),
    output:
        model="results/classifier/{dataset}/all/seed{seed}/{variant}/model.safetensors",
        config="results/classifier/{dataset}/all/seed{seed}/{variant}/config.json",
        history="results/classifier/{dataset}/all/seed{seed}/{variant}/history.csv",
        curves="results/classifier/{dataset}/all/seed{seed}/{variant}/curves.png",
        stage="results/classifier/{dataset}/all/seed{seed}/{variant}/stage.json",
    log:
        "results/logs/classifier/{dataset}/all/seed{seed}/{variant}.log",
    benchmark:
        "results/benchmarks/classifier/{dataset}/all/seed{seed}/{variant}.tsv"
    priority: 80
    # As in ddpm.smk: from the last checkpoint.
    retries: 1
    conda:
        "../envs/realnet.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        cfg=cfg("classifier"),
        manifests=lambda w, input: " ".join(
            f"--manifest {shlex.quote(path)}" for path in input.manifests
        ),
        categories=lambda w: " ".join(
            f"--category {shlex.quote(name)}" for name in categories_of(w.dataset)
        ),
        out=subpath(output.model, parent=True),
    shell:
        stage(
            "classifier {params.manifests} --dataset {wildcards.dataset:q} {params.categories}"
            " --seed {wildcards.seed} --out {params.out:q} --params {params.cfg:q}",
            gpu=True,
        )


rule classifier:
    input:
        sorted(
            {
                f"{classifier_folder(dataset, seed, variant)}/model.safetensors"
                for dataset in MATRIX
                for seed in SEEDS
                for variant in filter(uses_classifier, VARIANTS)
            }
        ),
