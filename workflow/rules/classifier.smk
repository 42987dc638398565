# Only for variants whose sampling is guided (`sdas.guidance_scale` above 0).
GUIDED_VARIANTS = [variant for variant in VARIANTS if P.uses_classifier(variant)]

for dataset, categories in MATRIX.items():
    if GUIDED_VARIANTS and len(categories) < 2:
        user_error(
            f"sdas.guidance_scale is above 0 for variant {GUIDED_VARIANTS[0]}, but {dataset} has"
            f" one category ({categories[0]}), and none to be guided away from; set it to 0"
        )


def classifier_folder(dataset, seed, variant):
    return place("classifier", dataset, "all", seed, variant)


def classifier_of(wildcards):
    """The guided classifier of a data set, where this variant's sampling uses one."""
    if wildcards.variant in GUIDED_VARIANTS:
        folder = classifier_folder(wildcards.dataset, wildcards.seed, wildcards.variant)
        return f"{folder}/model.safetensors"
    return []


def classifier_option(wildcards, input):
    folder = os.path.dirname(input.get("classifier") or "")
    return f"--classifier {folder}" if folder else ""


def classifier_init(wildcards):
    """The weights that `classifier.init` names."""
    folder = P.variant(wildcards.variant).classifier.init
    return [f"{folder}/config.json", f"{folder}/model.safetensors"] if folder else []


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
            f"--manifest {path}" for path in input.manifests
        ),
        categories=lambda w: " ".join(
            f"--category {name}" for name in categories_of(w.dataset)
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
                for variant in GUIDED_VARIANTS
            }
        ),
