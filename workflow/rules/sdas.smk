rule sample_sdas:
    input:
        manifest="results/data/{dataset}/{category}/manifest.csv",
        ddpm=ddpm_of,
        classifier=classifier_of,
        code=code("sdas"),
    output:
        images=directory(
            "results/sdas/{dataset}/{category}/seed{seed}/{variant}/images"
        ),
        manifest="results/sdas/{dataset}/{category}/seed{seed}/{variant}/manifest.csv",
        grid="results/sdas/{dataset}/{category}/seed{seed}/{variant}/grid.png",
        grid_data="results/sdas/{dataset}/{category}/seed{seed}/{variant}/grid.npz",
        stage="results/sdas/{dataset}/{category}/seed{seed}/{variant}/stage.json",
    log:
        "results/logs/sdas/{dataset}/{category}/seed{seed}/{variant}.log",
    benchmark:
        "results/benchmarks/sdas/{dataset}/{category}/seed{seed}/{variant}.tsv"
    priority: 70
    conda:
        "../envs/realnet.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        cfg=cfg("sdas"),
        ddpm=subpath(input.ddpm, parent=True),
        classifier=classifier_option,
        out=subpath(output.manifest, parent=True),
    shell:
        stage(
            "sdas --ddpm {params.ddpm:q} --manifest {input.manifest:q} {params.classifier}"
            " --dataset {wildcards.dataset:q} --category {wildcards.category:q}"
            " --seed {wildcards.seed} --out {params.out:q} --params {params.cfg:q}",
            gpu=True,
        )


rule sdas:
    input:
        layer("sdas", "manifest.csv", SDAS_VARIANTS),
