rule make_backbone:
    input:
        weights=weights_file,
        code=code("backbone"),
    output:
        weights="results/backbone/{variant}/backbone.safetensors",
        record="results/backbone/{variant}/backbone.json",
        stage="results/backbone/{variant}/stage.json",
    log:
        "results/logs/backbone/{variant}.log",
    benchmark:
        "results/benchmarks/backbone/{variant}.tsv"
    # The longest single job of the demo; every training waits for it.
    priority: 100
    conda:
        "../envs/realnet.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        cfg=cfg("backbone"),
        out=subpath(output.weights, parent=True),
    shell:
        stage("backbone --out {params.out:q} --params {params.cfg:q}", gpu=True)


rule backbone:
    input:
        sorted(
            {
                f"results/backbone/{shared('backbone', v)}/backbone.safetensors"
                for v in VARIANTS
            }
        ),
