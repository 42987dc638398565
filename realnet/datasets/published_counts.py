"""The published image counts (``published.yaml``), and how a tree differs from them."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

Counts = Mapping[str, Mapping[str, int]]  # split -> kind -> images


@cache
def _table() -> dict:
    return yaml.safe_load(
        Path(__file__).with_name("published_counts.yaml").read_text(encoding="utf-8")
    )


def published(dataset: str, category: str) -> dict[str, dict[str, int]] | None:
    """Split -> kind (``good`` or a defect) -> number of images; None for other data sets."""
    return _table().get(dataset, {}).get(category)


def differences(found: Counts, expected: Counts) -> list[str]:
    """One line per split and kind whose count is not the published one; empty when all agree.

    Where the published set has a single kind of defect and the tree too, their names may differ:
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
