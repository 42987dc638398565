"""The published image counts (``published.yaml``), and how a dataset differs from them."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

Counts = Mapping[str, Mapping[str, int]]  # split -> defect type -> images


@cache
def _table() -> dict:
    return yaml.safe_load(
        Path(__file__).with_name("published_counts.yaml").read_text(encoding="utf-8")
    )


def published(dataset: str, category: str) -> dict[str, dict[str, int]] | None:
    """Split -> defect type (or ``good``) -> number of images; None for other datasets."""
    return _table().get(dataset, {}).get(category)


def differences(found: Counts, expected: Counts) -> list[str]:
    """One line per split and defect type with another count than published; empty if none.

    Where both have a single defect type, its names may differ:
    the prepared VisA calls ``ko`` what others call ``bad``.
    """
    lines = []
    for split in ("train", "test"):
        have, want = dict(found.get(split, {})), dict(expected.get(split, {}))
        kinds = [name for name in want if name != "good"], [name for name in have if name != "good"]
        if len(kinds[0]) == len(kinds[1]) == 1:
            have[kinds[0][0]] = have.pop(kinds[1][0])
        for kind in sorted(set(have) | set(want), key=lambda name: (name != "good", name)):
            if have.get(kind, 0) != want.get(kind, 0):
                lines.append(f"{split}/{kind} {have.get(kind, 0)} instead of {want.get(kind, 0)}")
    return lines
