# Not part of the benchmark (`all`): the Synthetic Industrial Anomaly dataset, of the base variant.
# One job per shard, so that several GPUs share a category and a killed run keeps finished shards.
sia_shards = once(dag.sia_shards)
sia_shard_section = once(dag.sia_shard_section)
# As classifier_of, also if no detector is trained on guided images.
SIA_GUIDED = [v for v in P.variants if variant_of(v).sdas.guidance_scale > 0]
SIA_COMMAND = (
    "sia --ddpm {params.ddpm:q} --manifest {input.manifest:q} {params.classifier}"
    " --dataset {wildcards.dataset:q} --category {wildcards.category:q}"
    " --seed {wildcards.seed} --out {params.out:q} --params {params.cfg:q}"
)


rule draw_sia_shard:
    input:
        manifest="results/data/{dataset}/{category}/manifest.csv",
        ddpm=ddpm_of,
        classifier=lambda w: (
            f"{classifier_folder(w.dataset, w.seed, w.variant)}/model.safetensors"
            if w.variant in SIA_GUIDED
            else []
        ),
        code=code("sia_shard"),
    output:
        images=directory(
            "results/sia/{dataset}/{category}/seed{seed}/{variant}/images/shard{shard}"
        ),
        record="results/sia/{dataset}/{category}/seed{seed}/{variant}/shards/{shard}.json",
    log:
        "results/logs/sia/{dataset}/{category}/seed{seed}/{variant}/{shard}.log",
    benchmark:
        "results/benchmarks/sia/{dataset}/{category}/seed{seed}/{variant}/{shard}.tsv"
    wildcard_constraints:
        shard=r"\d\d\d+",
    priority: 20
    conda:
        "../envs/realnet.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        cfg=lambda w: sia_shard_section(w.variant, int(w.shard)),
        ddpm=subpath(input.ddpm, parent=True),
        classifier=classifier_option,
        out=subpath(output.record, ancestor=2),
    shell:
        stage(f"{SIA_COMMAND} --shard {{wildcards.shard}}", gpu=True)


# Checks the digest of every image; samples nothing.
rule collect_sia:
    input:
        shards=lambda w: [
            f"results/sia/{w.dataset}/{w.category}/seed{w.seed}/{w.variant}/shards/{k:03d}.json"
            for k in range(sia_shards(w.variant))
        ],
        manifest="results/data/{dataset}/{category}/manifest.csv",
        ddpm=ddpm_of,
        classifier=lambda w: (
            f"{classifier_folder(w.dataset, w.seed, w.variant)}/model.safetensors"
            if w.variant in SIA_GUIDED
            else []
        ),
        code=code("sia"),
    output:
        manifest="results/sia/{dataset}/{category}/seed{seed}/{variant}/manifest.csv",
        sheet="results/sia/{dataset}/{category}/seed{seed}/{variant}/sheet.png",
        summary="results/sia/{dataset}/{category}/seed{seed}/{variant}/sia.json",
        stage="results/sia/{dataset}/{category}/seed{seed}/{variant}/stage.json",
    log:
        "results/logs/sia/{dataset}/{category}/seed{seed}/{variant}/collect.log",
    priority: 20
    conda:
        "../envs/realnet.yaml"
    params:
        cfg=cfg("sia"),
        ddpm=subpath(input.ddpm, parent=True),
        classifier=classifier_option,
        out=subpath(output.manifest, parent=True),
    shell:
        stage(SIA_COMMAND)


rule sia:
    input:
        [
            f"results/sia/{dataset}/{category}/seed{seed}/base/sia.json"
            for dataset, categories in MATRIX.items()
            for category in categories
            for seed in SEEDS
        ],
