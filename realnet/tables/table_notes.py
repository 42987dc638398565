"""Notes below the tables: protocols, sources of the numbers, intervals, missing masks."""

from collections.abc import Iterable, Sequence

from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.tables.published import Number, number, others, source, title
from realnet.tables.published import claims as published_claims
from realnet.tables.resamples import lacking
from realnet.tables.runs import (
    MEAN,
    METRICS,
    OFFICIAL_BEST,
    OFFICIAL_LAST,
    Results,
    under,
)

WORDS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pro": "PRO"}


def seeds(results: Results) -> str:
    given = results.matrix.seeds
    if len(given) == 1:
        return f"One seed ({given[0]})."
    return f"Mean ± standard deviation over {len(given)} seeds ({', '.join(map(str, given))})."


def intervals(results: Results) -> list[str]:
    """What the brackets after the numbers mean, and which evaluations have none."""
    count, level = results.matrix.bootstrap, f"{100 * results.matrix.level:g} %"
    if count == 0:
        return []
    absent = lacking(results)
    if not _any_interval(results):
        return ["No intervals: the evaluations have no per_image.npz; rerun them."]
    several = len(results.matrix.seeds) > 1
    training = "(see ±)" if several else "(unknown with one seed)"
    lines = [
        f"[low, high]: {level} interval over the choice of test images ({count} resampled test"
        f" sets, stratified by defect type). It does not include the noise of training {training}."
    ]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        lines.append(f"No interval for {absent[0]}{more}: no per_image.npz; rerun the evaluation.")
    return lines


def _any_interval(results: Results) -> bool:
    folders = {results.files[run].parent for run in results.runs}
    return results.matrix.bootstrap > 0 and len(lacking(results)) < len(folders)


def differences(results: Results, reference: str) -> list[str]:
    """For tables with differences between variants."""
    lines = f"Δ: difference to {reference} before rounding, points"
    if not _any_interval(results):
        return [f"{lines}."]
    return [
        f"{lines}, with its interval. p: two-sided, for no difference. Both are over the choice of"
        " test images, paired (same images, same seeds); p is corrected by Holm over the variants"
        " of this table, for each dataset and metric. See docs/verdicts.md."
    ]


def ranks(results: Results) -> list[str]:
    """For tables that mark the best and the second value."""
    if len(results.matrix.variants) == 1:
        return []
    second = "; second: underlined, in Markdown in italics"
    return [f"Best: bold{second if len(results.matrix.variants) > 2 else ''}."]


def compared(results: Results, datasets: Sequence[str]) -> list[str]:
    """For tables with strict, official and the paper's numbers side by side."""
    best, last = _chosen(results, datasets)
    lines = [
        "strict: exact metrics of the last checkpoint; the test set is not used for selection."
    ]
    if best:
        lines.append(
            "official: metrics of the official code (its PRO differs from the strict"
            f" one) on the checkpoint that was best on the test set{_except(last)}."
        )
    elif last:
        lines.append(
            "official: metrics of the official code (its PRO differs from the strict"
            " one), but on the last checkpoint, since none was chosen on the test set"
            " (training.select_every)."
        )
    paper = _paper(results, datasets, "“official”")
    if paper and any(results.is_whole(d) for d in datasets):
        paper[0] += " Δ: official minus paper before rounding, points."
    return lines + paper + masks(results, datasets)


def protocols(results: Results) -> list[str]:
    """For the table of protocols."""
    datasets = list(results.matrix.datasets)
    best, last = _chosen(results, datasets)
    lines = [
        "Strict: exact metrics; PRO is AU-PRO. Official: metrics of the official code, which"
        " replaces an AUROC below 0.5 by 1 - AUROC, takes an image's label from its resized mask,"
        " and defines PRO differently; its PRO is not comparable with AU-PRO."
    ]
    if best:
        lines.append(
            "best: of all evaluations on the test set during training (training.select_every), the"
            " one with the largest mean of official image and pixel AUROC. Best − last: what this"
            " choice adds to the same exact metric of the same training, in points before rounding;"
            " with Student's interval from two seeds on. The choice needs the labels of the test"
            " set, which are not available in practice."
        )
    if last:
        where = f" in {', '.join(last)}" if best else ""
        lines.append(f"No checkpoint was chosen on the test set{where} (training.select_every).")
    lines += _paper(results, datasets, _column(best, last))
    for dataset, found in others()["ader"]["last_and_best"].items():
        if dataset in datasets:
            gaps = ", ".join(f"{WORDS[m]} {b - a:.1f}" for m, (a, b) in found.items())
            lines.append(
                f"Best − last as measured by others on {title(dataset)}, with one model for all"
                f" categories and the best value of each metric and category: {gaps}"
                f" ({others()['ader']['source']})."
            )
    return lines + masks(results)


def claims(results: Results) -> list[str]:
    """The paper's ablation results on the datasets of the matrix."""
    lines = []
    for dataset in results.matrix.datasets:
        for claim in published_claims(dataset):
            found = Number(**claim["difference"])
            metric = WORDS[claim["metrics"][0]]
            lines.append(
                f"paper, {title(dataset)}: {claim['first']} against {claim['second']},"
                f" {metric} {found.value:+}{'' if found.certain else '†'} points"
                f" ({found.certainty} certainty, {source(found.source)})."
            )
    return lines


def masks(results: Results, datasets: Sequence[str] | None = None) -> list[str]:
    """Why pixel metrics are n/a: the categories without masks."""
    bare = [run for run in results.without_masks if datasets is None or run[0] in datasets]
    if not bare:
        return []
    names = ", ".join("/".join(run) for run in bare)
    return [
        f"n/a: no masks in {names}, so only image metrics; means of pixel metrics need masks in all"
        " categories or datasets."
    ]


def left_out(results: Results, datasets: Sequence[str] | None = None) -> list[str]:
    """The images that are excluded, or in image metrics only."""
    return [
        f"{dataset}/{category}: {line}."
        for (dataset, category), lines in results.left_out.items()
        if datasets is None or dataset in datasets
        for line in lines
    ]


def _chosen(results: Results, datasets: Iterable[str]) -> tuple[list[str], list[str]]:
    """Where the reference variant's checkpoint was chosen on the test set, and where not.

    As ``dataset/category``, or the dataset if it holds for all its categories. Categories whose
    protocols were not evaluated are in neither list.
    """
    reference = results.matrix.variants[0]
    best: list[str] = []
    last: list[str] = []
    for dataset in datasets:
        found: dict[bool, list[str]] = {True: [], False: []}
        for category in results.categories[dataset]:
            there = [
                results.stat(dataset, reference, category, under(protocol, METRICS[0])).value
                for protocol in (OFFICIAL_BEST, OFFICIAL_LAST)
            ]
            if any(value is not None for value in there):
                found[there[0] is not None].append(f"{dataset}/{category}")
        whole = len(results.categories[dataset])
        best += [dataset] if len(found[True]) == whole else found[True]
        last += [dataset] if len(found[False]) == whole else found[False]
    return best, last


def _column(best: Sequence[str], last: Sequence[str]) -> str:
    """The column of the table of protocols that is closest to the paper's protocol."""
    if best and last:
        return "“Official, best” (“last” where there is none)"
    return "“Official, best”" if best else "“Official, last”, without the choice of a checkpoint,"


def _except(last: Sequence[str]) -> str:
    return f"; on the last one in {', '.join(last)} and in means with it" if last else ""


def _paper(results: Results, datasets: Sequence[str], column: str) -> list[str]:
    """The protocol of the paper's numbers, their sources and certainty."""
    known = [d for d in datasets if d in KNOWN_CATEGORIES and number(d, MEAN, METRICS[0])]
    whole = [d for d in known if results.is_whole(d)]
    lines = []
    if whole:
        lines.append(
            "paper: official metrics of the checkpoint that was best on the test set, one run;"
            f" compare with {column} only."
        )
        certain: dict[str, list[str]] = {}
        uncertain: dict[tuple[str, str], list[str]] = {}
        for dataset in whole:
            for metric in METRICS:
                found = number(dataset, MEAN, metric)
                if found is None:
                    continue
                if found.certain:
                    names = certain.setdefault(found.source, [])
                    names += [] if title(dataset) in names else [title(dataset)]
                else:
                    key = (found.certainty, found.source)
                    uncertain.setdefault(key, []).append(_words(dataset, metric, found))
        lines += [f"paper, {', '.join(names)}: {source(key)}." for key, names in certain.items()]
        lines += [
            f"† paper, {', '.join(values)}: {certainty} certainty, {source(key)}."
            for (certainty, key), values in uncertain.items()
        ]
    lines += [
        f"{title(d)}: {len(results.categories[d])} of {len(KNOWN_CATEGORIES[d])}"
        " categories, so the paper's mean over all categories is not shown."
        for d in known
        if d not in whole
    ]
    return lines


def _words(dataset: str, metric: str, found: Number) -> str:
    return f"{title(dataset)} {WORDS[metric]} {found.value}"
