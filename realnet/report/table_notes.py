"""What stands below the tables: whose numbers these are, and how far they can be compared."""

from collections.abc import Iterable, Sequence

from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.report.collect import (
    MEAN,
    METRICS,
    OFFICIAL_BEST,
    OFFICIAL_LAST,
    Results,
    under,
)
from realnet.report.published import Number, number, others, source, title
from realnet.report.published import claims as published_claims
from realnet.report.resamples import lacking

WORDS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pro": "PRO"}


def seeds(results: Results) -> str:
    given = results.matrix.seeds
    if len(given) == 1:
        return f"One seed ({given[0]})."
    return f"Mean ± standard deviation over {len(given)} seeds ({', '.join(map(str, given))})."


def intervals(results: Results) -> list[str]:
    """What the brackets behind the numbers are, and where they are not."""
    count, level = results.matrix.bootstrap, f"{100 * results.matrix.level:g} %"
    if count == 0:
        return []
    absent = lacking(results)
    if not _any_interval(results):
        return ["No intervals: the evaluations have no per_image.npz; evaluate again."]
    several = len(results.matrix.seeds) > 1
    training = "for which ± stands" if several else "which one seed cannot tell"
    said = [
        f"[low, high]: {level} interval over the choice of test images ({count} resampled test"
        f" sets, within each kind of defect). Not in it: the noise of training, {training}."
    ]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        said.append(f"No interval with {absent[0]}{more}: no per_image.npz; evaluate again.")
    return said


def _any_interval(results: Results) -> bool:
    folders = {results.files[cell].parent for cell in results.cells}
    return results.matrix.bootstrap > 0 and len(lacking(results)) < len(folders)


def differences(results: Results, reference: str) -> list[str]:
    """Of tables with differences between variants."""
    said = f"Δ: difference to {reference} before rounding, points"
    if not _any_interval(results):
        return [f"{said}."]
    return [
        f"{said}, with its interval. p: of no difference, both over the choice of test images,"
        " paired (the same images, the same seeds); p is corrected by Holm over the variants of"
        " this table, for each dataset and metric. See docs/verdicts.md."
    ]


def ranks(results: Results) -> list[str]:
    """Of tables with a best and a second."""
    if len(results.matrix.variants) == 1:
        return []
    second = "; second: underlined, in Markdown in italics"
    return [f"Best: bold{second if len(results.matrix.variants) > 2 else ''}."]


def compared(results: Results, datasets: Sequence[str]) -> list[str]:
    """Of tables with strict, official and the paper's numbers side by side."""
    best, last = _chosen(results, datasets)
    said = ["strict: exact metrics, last checkpoint; nothing is chosen on the test set."]
    if best:
        said.append(
            "official: metrics of the official code (its PRO is another measure than the strict"
            f" one) on the checkpoint that was best on the test set{_except(last)}."
        )
    elif last:
        said.append(
            "official: metrics of the official code (its PRO is another measure than the strict"
            " one), but on the last checkpoint, since none was chosen on the test set"
            " (training.select_every)."
        )
    paper = _paper(results, datasets, "“official”")
    if paper and any(results.is_whole(d) for d in datasets):
        paper[0] += " Δ: official minus paper before rounding, points."
    return said + paper + masks(results, datasets)


def protocols(results: Results) -> list[str]:
    """Of the table of protocols."""
    datasets = list(results.matrix.datasets)
    best, last = _chosen(results, datasets)
    said = [
        "Strict: exact metrics; PRO is AU-PRO. Official: the official code's metrics, which put"
        " 1 - AUROC for an AUROC below 0.5, take an image's label from its resized mask, and have a"
        " PRO of their own, not comparable with AU-PRO."
    ]
    if best:
        said.append(
            "best: of all evaluations on the test set during training (training.select_every), the"
            " one with the largest mean of official image and pixel AUROC. Best − last: what this"
            " choice adds to the same exact metric of the same run, points before rounding, with"
            " Student's interval from two seeds on. Nobody can make it without the answers."
        )
    if last:
        where = f" in {', '.join(last)}" if best else ""
        said.append(f"No checkpoint was chosen on the test set{where} (training.select_every).")
    said += _paper(results, datasets, _column(best, last))
    for dataset, found in others()["ader"]["last_and_best"].items():
        if dataset in datasets:
            gaps = ", ".join(f"{WORDS[m]} {b - a:.1f}" for m, (a, b) in found.items())
            said.append(
                f"Best − last as others measured it on {title(dataset)}, with one model for all"
                f" categories and the best of each metric and category: {gaps}"
                f" ({others()['ader']['source']})."
            )
    return said + masks(results)


def claims(results: Results) -> list[str]:
    """What the paper's own ablations say about the datasets of the matrix."""
    said = []
    for dataset in results.matrix.datasets:
        for claim in published_claims(dataset):
            found = Number(**claim["difference"])
            metric = WORDS[claim["metrics"][0]]
            said.append(
                f"paper, {title(dataset)}: {claim['first']} against {claim['second']},"
                f" {metric} {found.value:+}{'' if found.certain else '†'} points"
                f" ({found.certainty} certainty, {source(found.source)})."
            )
    return said


def masks(results: Results, datasets: Sequence[str] | None = None) -> list[str]:
    """Why pixel metrics are n/a: where the data have no masks."""
    bare = [cell for cell in results.without_masks if datasets is None or cell[0] in datasets]
    if not bare:
        return []
    names = ", ".join("/".join(cell) for cell in bare)
    return [
        f"n/a: no masks in {names}, so image metrics only; a mean over categories or datasets is"
        " given where all of them have masks."
    ]


def _chosen(results: Results, datasets: Iterable[str]) -> tuple[list[str], list[str]]:
    """Where the reference variant's checkpoint was chosen on the test set, and where not.

    As ``dataset/category``, or the dataset where all its categories are alike; those whose
    protocols were not evaluated are in neither list.
    """
    reference = results.matrix.variants[0]
    best, last = [], []
    for dataset in datasets:
        found = {True: [], False: []}
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
    """Of the table of protocols, the column that comes nearest to the paper's."""
    if best and last:
        return "“Official, best” (“last” where there is none)"
    return "“Official, best”" if best else "“Official, last”, which lacks the choice,"


def _except(last: Sequence[str]) -> str:
    return f"; on the last one in {', '.join(last)} and in means with it" if last else ""


def _paper(results: Results, datasets: Sequence[str], column: str) -> list[str]:
    """Which protocol the paper's numbers have, where they come from and how certain they are."""
    known = [d for d in datasets if d in KNOWN_CATEGORIES and number(d, MEAN, METRICS[0])]
    whole = [d for d in known if results.is_whole(d)]
    said = []
    if whole:
        said.append(
            "paper: official metrics of the checkpoint that was best on the test set, one run;"
            f" compare with {column} alone."
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
        said += [f"paper, {', '.join(names)}: {source(key)}." for key, names in certain.items()]
        said += [
            f"† paper, {', '.join(values)}: {certainty} certainty, {source(key)}."
            for (certainty, key), values in uncertain.items()
        ]
    said += [
        f"{title(d)}: {len(results.categories[d])} of {len(KNOWN_CATEGORIES[d])}"
        " categories, so the paper's mean over all of them is not shown."
        for d in known
        if d not in whole
    ]
    return said


def _words(dataset: str, metric: str, found: Number) -> str:
    return f"{title(dataset)} {WORDS[metric]} {found.value}"
