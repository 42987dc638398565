EVALUATED = layer("evaluate", "metrics.json")
REPORT = [
    "results/metrics.json",
    *expand(
        "results/tables/{table}.{format}",
        table=[*dag.TABLES, *MATRIX],
        format=["csv", "md", "tex"],
    ),
    "results/tables/cells.csv",
    *expand("results/figures/{figure}.png", figure=["summary", "overview"]),
    # Lists all figures: which exist depends on the data.
    "results/figures/index.json",
    "results/report.html",
]
# In Snakemake's own report.
SHOWN = {
    f"{name}.csv" for name in ("main", "protocols", "ablation", "verdicts", *MATRIX)
} | {os.path.basename(path) for path in REPORT if path.endswith(".png")}
TRACKED = "results/tracking/runs.json"
RENDER = "report --results results --params {params.cfg:q}"


rule make_report:
    input:
        metrics=EVALUATED,
        scores=layer("evaluate", "scores.npz"),
        per_image=layer("evaluate", "per_image.npz"),
        records=layer("evaluate", "stage.json"),
        checks=layer("sdas_check", "check.json", SDAS_VARIANTS),
        code=code("report"),
    output:
        [
            (
                report(path, category="Results", caption="../report/main.rst")
                if os.path.basename(path) in SHOWN
                else path
            )
            for path in REPORT
        ],
    log:
        "results/logs/report.log",
    localrule: True
    conda:
        "../envs/realnet.yaml"
    params:
        cfg=report_cfg("variants", "report", "groups", "preset"),
    shell:
        stage(RENDER)


rule track_runs:
    input:
        metrics=EVALUATED,
        code=code("track"),
    output:
        TRACKED,
    log:
        "results/logs/track.log",
    localrule: True
    conda:
        "../envs/realnet.yaml"
    params:
        cfg=report_cfg("variants", "preset"),
    shell:
        stage(
            "track --results results --receipt {output:q} --later --params {params.cfg:q}"
        )


rule report:
    input:
        REPORT,


rule track:
    input:
        TRACKED,


# Renders all existing evaluations; trains nothing and needs neither data nor models.
rule tables:
    log:
        "results/logs/tables.log",
    localrule: True
    conda:
        "../envs/realnet.yaml"
    params:
        cfg=report_cfg("variants", "report", "groups", "preset"),
    shell:
        stage(f"{RENDER} --allow-missing")
