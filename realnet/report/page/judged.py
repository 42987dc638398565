"""Verdicts as the page shows them: those that were run first, the rest counted."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from realnet.report.collect import METRICS, OFFICIAL_BEST, STRICT_BEST, under
from realnet.report.page.page_data import SHOWN
from realnet.report.published import title
from realnet.report.tables import TITLES
from realnet.report.verdict_rules import FAILED, IN_KIND, NOISE, NOT_RUN, REPRODUCED
from realnet.report.verdicts import Verdict

HEADINGS = {
    "number": "Numbers of the paper",
    "claim": "Claims of the paper",
    "selection": "What choosing on the test set is worth",
}
# How a verdict looks; whatever is not here looks neutral.
TONES = {REPRODUCED: "good", NOISE: "open", FAILED: "bad"}
TONES |= {IN_KIND[verdict]: tone for verdict, tone in TONES.items()}


class Line(NamedTuple):
    """One verdict; numbers are texts, empty where there is none."""

    claim: str
    dataset: str
    metric: str
    paper: str
    ours: str
    interval: str
    difference: str
    verdict: str
    tone: str
    note: str
    at: str  # address of what its number was made from, as JSON: dataset, category, variant
    against: str  # the variant that is subtracted
    of: str  # which of SHOWN


class Section(NamedTuple):
    kind: str
    heading: str
    counts: list[tuple[str, str, int]]  # verdict, tone, how many
    lines: list[Line]
    absent: list[Line]  # not run


def sections(said: Iterable[Verdict], digits: int = 1) -> list[Section]:
    """By kind, in the order in which kinds come."""
    by_kind: dict[str, list[Line]] = {}
    for verdict in said:
        by_kind.setdefault(verdict.kind, []).append(_line(verdict, digits))
    return [
        Section(
            kind,
            HEADINGS.get(kind, kind),
            [
                (verdict, TONES.get(verdict, "none"), count)
                for verdict, count in Counter(line.verdict for line in lines).most_common()
            ],
            [line for line in lines if line.verdict != NOT_RUN],
            [line for line in lines if line.verdict == NOT_RUN],
        )
        for kind, lines in by_kind.items()
    ]


def _line(said: Verdict, digits: int) -> Line:
    signed = said.kind != "number"
    first, second = (*said.variants, "", "")[:2]
    bounds = [_text(bound, digits) for bound in said.interval or ()]
    # Of the choice on the test set, the heading says the rest.
    claim = said.claim.rpartition(", ")[2] if said.kind == "selection" else said.claim
    return Line(
        claim,
        title(said.dataset),
        TITLES.get(said.metric, said.metric),
        _text(said.paper, None, signed),
        _text(said.ours, digits, signed),
        f"[{', '.join(bounds)}]" if bounds else "",
        _text(said.difference, digits, signed=True),
        said.verdict,
        TONES.get(said.verdict, "none"),
        said.note,
        json.dumps([said.dataset, said.category, first]),
        second,
        _of(said.kind, said.metric),
    )


def _of(kind: str, metric: str) -> str:
    """Numbers of the paper are of its protocol; claims are of exact metrics of the last one."""
    if metric not in METRICS:
        return ""
    number = under(OFFICIAL_BEST, metric)
    addresses = {"number": [number], "selection": [under(STRICT_BEST, metric), metric]}
    return " ".join(str(SHOWN.index(a)) for a in addresses.get(kind, [metric]))


def _text(value: float | None, digits: int | None, signed: bool = False) -> str:
    """``digits`` None: as it is."""
    if value is None or math.isnan(value):
        return ""
    text = str(value) if digits is None else f"{value:.{digits}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    text = f"+{text}" if signed and float(text) > 0 else text
    return text.replace("-", "−")
