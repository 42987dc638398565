"""Output of `realnet data verify`: the JSON report and the printed summary.

The report (``--json``), the same for any number of workers:

    schema      "realnet-data-verify-1"
    ok          true when there is no error
    totals      categories, images, masks, bytes, errors, warnings, notes
    categories  a list, in the order they were named; each with
                dataset, category, manifest (path, or null: none there, nothing compared),
                images, masks (files that were listed), bytes (of those that could be read),
                errors, warnings, notes,
                counts ({split: {kind: images}}), sizes ({"WxH": images}; this and the next two of
                images that decode), formats ({"PNG": images}), modes (Pillow's names)
    problems    a list, by category, then kind (in the order of ``verify_files.KINDS``), then path;
                each with severity (error, warning, note), kind, dataset, category, path, message

Paths are as reached from the working folder.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realnet.datasets.manifest import count
from realnet.datasets.verify.verify_files import KINDS, Problem, Seen

SCHEMA = "realnet-data-verify-1"
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Checked:
    """One category, with all that was found in it."""

    dataset: str
    category: str
    manifest: Path | None
    images: int
    masks: int
    seen: tuple[Seen, ...]
    problems: tuple[Problem, ...]  # in the order of KINDS, then by path
    seconds: float  # for the summary on the screen; not in the report

    def number(self, severity: str) -> int:
        """How many problems of a severity there are."""
        return sum(p.severity == severity for p in self.problems)


def report(checked: Sequence[Checked]) -> dict[str, Any]:
    """The machine-readable report; its schema is at the top of this module."""
    categories: list[dict[str, Any]] = []
    for one in checked:
        decoded = [s for s in one.seen if s.pixels]
        categories.append(
            {
                "dataset": one.dataset,
                "category": one.category,
                "manifest": one.manifest.as_posix() if one.manifest else None,
                "images": one.images,
                "masks": one.masks,
                "bytes": sum(s.bytes for s in one.seen),
                **{f"{severity}s": one.number(severity) for severity in SEVERITIES},
                "counts": count([s.entry for s in one.seen]),
                "sizes": _tally(f"{s.width}x{s.height}" for s in decoded),
                "formats": _tally(s.format for s in decoded),
                "modes": _tally(s.mode for s in decoded),
            }
        )
    summed = ("images", "masks", "bytes", *(f"{severity}s" for severity in SEVERITIES))
    totals = {key: sum(category[key] for category in categories) for key in summed}
    problems = [
        {
            "severity": found.severity,
            "kind": found.kind,
            "dataset": one.dataset,
            "category": one.category,
            "path": found.path.as_posix(),
            "message": found.message,
        }
        for one in checked
        for found in one.problems
    ]
    return {
        "schema": SCHEMA,
        "ok": totals["errors"] == 0,
        "totals": {"categories": len(categories), **totals},
        "categories": categories,
        "problems": problems,
    }


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def summary(checked: Sequence[Checked], show: int = 5) -> str:
    """A table of the categories, then the first ``show`` problems of each kind, worst first."""
    made = report(checked)
    rows = [
        (
            f"{one.dataset}/{one.category}",
            *_numbers(entry, one.seconds),
            "yes" if one.manifest else "none",
        )
        for one, entry in zip(checked, made["categories"], strict=True)
    ]
    if len(checked) > 1:
        rows.append(("total", *_numbers(made["totals"], sum(one.seconds for one in checked)), ""))
    lines = _table(_HEAD, rows)
    for severity in SEVERITIES:
        for kind in KINDS:
            those = [p for one in checked for p in one.problems if p.kind == kind]
            lines += _group(severity, kind, [p for p in those if p.severity == severity], show)
    totals = made["totals"]
    parts = [_plural(totals[f"{severity}s"], severity) for severity in SEVERITIES]
    found = f"{', '.join(parts)} in {_plural(totals['images'], 'image')}"
    return "\n".join([*lines, "", f"{'ok' if made['ok'] else 'NOT OK'}: {found}"])


_HEAD = ("category", "images", "masks", "MB", "images/s", "errors", "warnings", "notes", "manifest")


def _numbers(entry: dict[str, Any], seconds: float) -> tuple[str, ...]:
    rate = f"{entry['images'] / seconds:.0f}" if seconds else "-"
    counted = (str(entry[f"{severity}s"]) for severity in SEVERITIES)
    size = f"{entry['bytes'] / 1e6:.1f}"
    return (str(entry["images"]), str(entry["masks"]), size, rate, *counted)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def _group(severity: str, kind: str, found: list[Problem], show: int) -> list[str]:
    if not found:
        return []
    lines = ["", f"{severity}: {KINDS[kind][1]} ({len(found)}, {kind})"]
    lines += [_printable(f"  {p.path.as_posix()}: {p.message}") for p in found[:show]]
    if len(found) > show:
        lines.append(f"  and {len(found) - show} more")
    return lines


def _printable(line: str) -> str:
    """A file name may contain bytes that are not text."""
    return line.encode("utf-8", "backslashreplace").decode()


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
