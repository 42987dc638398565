rule evaluate_detector:
    input:
        manifest="results/data/{dataset}/{category}/manifest.csv",
        model=model_of("safetensors"),
        # Also names the weights that were best on the test set, if the training keeps them.
        config=model_of("json"),
        code=code("evaluate"),
    output:
        metrics="results/evaluate/{dataset}/{category}/seed{seed}/{variant}/metrics.json",
        scores="results/evaluate/{dataset}/{category}/seed{seed}/{variant}/scores.npz",
        images="results/evaluate/{dataset}/{category}/seed{seed}/{variant}/images.csv",
        regions="results/evaluate/{dataset}/{category}/seed{seed}/{variant}/regions.csv",
        curves="results/evaluate/{dataset}/{category}/seed{seed}/{variant}/curves.npz",
        per_image="results/evaluate/{dataset}/{category}/seed{seed}/{variant}/per_image.npz",
        figure=report(
            "results/evaluate/{dataset}/{category}/seed{seed}/{variant}/qualitative.png",
            category="Heat maps",
            subcategory="{dataset}",
            labels={
                "category": "{category}",
                "seed": "{seed}",
                "variant": "{variant}",
            },
            caption="../report/qualitative.rst",
        ),
        stage="results/evaluate/{dataset}/{category}/seed{seed}/{variant}/stage.json",
    log:
        "results/logs/evaluate/{dataset}/{category}/seed{seed}/{variant}.log",
    benchmark:
        "results/benchmarks/evaluate/{dataset}/{category}/seed{seed}/{variant}.tsv"
    priority: 40
    conda:
        "../envs/realnet.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        cfg=cfg("evaluate"),
        model=subpath(input.model, parent=True),
        out=subpath(output.metrics, parent=True),
    shell:
        stage(
            "evaluate --manifest {input.manifest:q} --model {params.model:q}"
            " --dataset {wildcards.dataset:q} --category {wildcards.category:q}"
            " --seed {wildcards.seed} --variant {wildcards.variant} --out {params.out:q} --params {params.cfg:q}",
            gpu=True,
        )


rule evaluate:
    input:
        layer("evaluate", "metrics.json"),
