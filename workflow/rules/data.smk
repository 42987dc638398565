rule demo:
    input:
        code=code("demo"),
    output:
        f"{P.data.root}/demo/dataset.json",
    log:
        "results/logs/demo.log",
    benchmark:
        "results/benchmarks/demo.tsv"
    priority: 100
    conda:
        "../envs/realnet.yaml"
    params:
        cfg=demo_cfg(),
        out=subpath(output[0], parent=True),
    shell:
        stage("data demo --out {params.out:q} --params {params.cfg:q}")


rule prepare:
    input:
        raw=raw_of,
        code=code("data"),
    output:
        manifest="results/data/{dataset}/{category}/manifest.csv",
        summary="results/data/{dataset}/{category}/summary.json",
    log:
        "results/logs/data/{dataset}/{category}.log",
    priority: 90
    conda:
        "../envs/realnet.yaml"
    params:
        cfg=lambda w: prepare_cfg(w.dataset),
        root=lambda w: f"{P.data.root}/{w.dataset}",
        out=subpath(output.manifest, parent=True),
    shell:
        stage(
            "data prepare --dataset {wildcards.dataset:q} --category {wildcards.category:q}"
            " --root {params.root:q} --out {params.out:q} --params {params.cfg:q}"
        )


rule raw:
    input:
        [f"{P.data.root}/demo/dataset.json"] if "demo" in MATRIX else [],


rule data:
    input:
        [
            f"results/data/{d}/{c}/manifest.csv"
            for d, cats in MATRIX.items()
            for c in cats
        ],


# Not part of the benchmark: a figure with each foreground rule applied to an image.
rule foregrounds:
    input:
        manifests=rules.data.input,
        code=code("foregrounds"),
    output:
        "results/figures/foregrounds.png",
    log:
        "results/logs/foregrounds.log",
    localrule: True
    conda:
        "../envs/realnet.yaml"
    params:
        cfg=json.dumps({"prepare": config["prepare"]}, sort_keys=True),
        names=[
            word
            for d, cats in MATRIX.items()
            for c in cats
            for word in ("--dataset", f"{d}/{c}")
        ],
    shell:
        stage(
            "data foregrounds {params.names:q} --out {output:q} --params {params.cfg:q}"
        )
