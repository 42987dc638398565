"""Tables and figures, rebuilt from the evaluation's result files alone.

Command (what a workflow calls):

    realnet report --results results --params PARAMS [--metrics FILE…] [--allow-missing]

PARAMS is ``params.yaml`` (its preset is applied), or the JSON of the sections ``experiment``,
``variants`` and ``report`` (``Params.section_json("report")``), for a workflow whose parameters
were overridden on its command line. It defines the matrix: datasets, categories, seeds and
variants, the first variant being the reference. Rows follow ``realnet.datasets.categories`` (the
paper's order), then come other datasets by name.

``--metrics`` (repeat it once per file) lists the evaluation's metrics files,
``…/evaluate/<dataset>/<category>/seed<k>/<variant>/metrics.json``. Without it the
command searches ``<results>/evaluate``. ``all`` means the categories of the listed files or,
without them, those
of ``realnet.datasets.categories`` or, for an unknown dataset, those that have a folder
under ``<results>/data`` or ``<results>/evaluate``. Files outside the matrix are ignored.
``scores.npz`` beside each metrics file feeds ``overview.png``, and ``per_image.npz`` the intervals
(a workflow lists all three as inputs). Claims of the paper that name variants outside the matrix
get a verdict too, once those are evaluated, but not with ``--metrics``.

Written, in this order:

    <results>/metrics.json                      dataset -> variant -> category or "mean" -> metrics
    <results>/tables/main.{csv,md,tex}          reference variant beside the paper, by dataset
    <results>/tables/<dataset>.{csv,md,tex}    the same for one dataset, category by category
    <results>/tables/protocols.{csv,md,tex}     last and best checkpoint, exact and official metrics
    <results>/tables/per_category.{csv,md,tex}  every variant, category by category
    <results>/tables/ablation.{csv,md,tex}      one row per variant, difference to the reference
    <results>/tables/verdicts.{csv,md,tex}      the paper's numbers and claims beside ours
    <results>/tables/cells.csv                  one row per run, unrounded
    <results>/figures/summary.png               the three metrics, category by category
    <results>/figures/overview.png              input, ground truth and heat map per category
    <results>/figures/*.svg, *.png              these and the figures of ``realnet.plots``
    <results>/figures/index.json                titles and captions; figures skipped, and why
    <results>/report.html                       all on one page, with the origin of every number

If a run is missing, the command ends with one line (status 2) that names the file and how to make
it; ``--allow-missing`` prints a dash instead. The same files always give the same bytes.
"""
