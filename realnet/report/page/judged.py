"""Verdicts as the page shows them."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from realnet.report.page.page_data import SHOWN
from realnet.tables.published import title
from realnet.tables.result_tables import TITLES
from realnet.tables.runs import METRICS, OFFICIAL_BEST, STRICT_BEST, under
from realnet.tables.verdict_rules import FAILED, IN_KIND, NOISE, NOT_RUN, REPRODUCED
from realnet.tables.verdicts import Verdict

HEADINGS = {
    "number": "Numbers of the paper",
    "claim": "Claims of the paper",
    "selection": "Effect of choosing the checkpoint on the test set",
}
# Style of each verdict; others are neutral.
TONES = {REPRODUCED: "good", NOISE: "open", FAILED: "bad"}
TONES |= {IN_KIND[verdict]: tone for verdict, tone in TONES.items()}


class Line(NamedTuple):
    """One verdict; numbers as text, empty if there is none."""

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
    at: str  # address of the runs behind its number, as JSON: dataset, category, variant
    against: str  # the variant that is subtracted
    of: str  # indices into SHOWN


class Section(NamedTuple):
    kind: str
    heading: str
    counts: list[tuple[str, str, int]]  # verdict, tone, how many
    lines: list[Line]
    absent: list[Line]  # not run


def sections(verdicts: Iterable[Verdict], digits: int = 1) -> list[Section]:
    """One section per kind of verdict, in order of appearance."""
    by_kind: dict[str, list[Line]] = {}
    for verdict in verdicts:
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


def _line(verdict: Verdict, digits: int) -> Line:
    signed = verdict.kind != "number"
    first, second = (*verdict.variants, "", "")[:2]
    bounds = [_text(bound, digits) for bound in verdict.interval or ()]
    # The heading of this section has the rest of the claim.
    claim = verdict.claim.rpartition(", ")[2] if verdict.kind == "selection" else verdict.claim
    return Line(
        claim,
        title(verdict.dataset),
        TITLES.get(verdict.metric, verdict.metric),
        _text(verdict.paper, None, signed),
        _text(verdict.ours, digits, signed),
        f"[{', '.join(bounds)}]" if bounds else "",
        _text(verdict.difference, digits, signed=True),
        verdict.verdict,
        TONES.get(verdict.verdict, "none"),
        verdict.note,
        json.dumps([verdict.dataset, verdict.category, first]),
        second,
        _of(verdict.kind, verdict.metric),
    )


def _of(kind: str, metric: str) -> str:
    """Numbers use the paper's protocol; claims the exact metrics of the last checkpoint."""
    if metric not in METRICS:
        return ""
    number = under(OFFICIAL_BEST, metric)
    addresses = {"number": [number], "selection": [under(STRICT_BEST, metric), metric]}
    return " ".join(str(SHOWN.index(a)) for a in addresses.get(kind, [metric]))


def _text(value: float | None, digits: int | None, signed: bool = False) -> str:
    """A number as text; ``digits`` None: not rounded."""
    if value is None or math.isnan(value):
        return ""
    text = str(value) if digits is None else f"{value:.{digits}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    text = f"+{text}" if signed and float(text) > 0 else text
    return text.replace("-", "−")
