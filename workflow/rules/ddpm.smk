rule train_ddpm:
    input:
        manifests=lambda w: [
            f"results/data/{w.dataset}/{category}/manifest.csv"
            for category in ddpm_categories(w)
        ],
        init=init_of,
        code=code("ddpm"),
    output:
        model="results/ddpm/{dataset}/{group}/seed{seed}/{variant}/model.safetensors",
        raw="results/ddpm/{dataset}/{group}/seed{seed}/{variant}/raw.safetensors",
        config="results/ddpm/{dataset}/{group}/seed{seed}/{variant}/config.json",
        history="results/ddpm/{dataset}/{group}/seed{seed}/{variant}/history.csv",
        samples="results/ddpm/{dataset}/{group}/seed{seed}/{variant}/samples.png",
        stage="results/ddpm/{dataset}/{group}/seed{seed}/{variant}/stage.json",
    log:
        "results/logs/ddpm/{dataset}/{group}/seed{seed}/{variant}.log",
    benchmark:
        "results/benchmarks/ddpm/{dataset}/{group}/seed{seed}/{variant}.tsv"
    priority: 80
    # The second attempt resumes from the last checkpoint, which is not a declared output. A user's
    # mistake is tried twice too, but fails within seconds.
    retries: 1
    conda:
        "../envs/realnet.yaml"
    threads: THREADS * PROCESSES
    resources:
        gpu=GPU * PROCESSES,
    params:
        cfg=cfg("ddpm"),
        manifests=lambda w, input: " ".join(
            f"--manifest {shlex.quote(path)}" for path in input.manifests
        ),
        categories=lambda w: " ".join(
            f"--category {shlex.quote(name)}" for name in ddpm_categories(w)
        ),
        out=subpath(output.model, parent=True),
    shell:
        stage(
            "ddpm {params.manifests} --dataset {wildcards.dataset:q} {params.categories}"
            " --seed {wildcards.seed} --out {params.out:q} --params {params.cfg:q}",
            gpu=True,
        )


SDAS_VARIANTS = [variant for variant in VARIANTS if P.uses_sdas(variant)]


rule ddpm:
    input:
        sorted(
            {
                f"{place('ddpm', dataset, group(category), seed, variant)}/model.safetensors"
                for dataset, categories in MATRIX.items()
                for category in categories
                for seed in SEEDS
                for variant in SDAS_VARIANTS
            }
        ),
