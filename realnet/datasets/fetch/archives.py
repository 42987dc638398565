"""The published archives (``archives.yaml``): where they are, what they are, their licences."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from realnet.datasets.categories import KNOWN_CATEGORIES


@dataclass(frozen=True)
class Licence:
    name: str
    url: str
    use: str  # in a few words


@dataclass(frozen=True)
class Source:
    """One entry of ``archives.yaml``, which explains the fields."""

    title: str
    page: str
    file: str
    licence: Licence
    citation: str
    holds: tuple[str, ...]
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    bytes: int | None = None
    get: str | None = None
    next: str | None = None


@cache
def sources() -> dict[str, Source]:
    """Dataset -> its archive."""
    table = yaml.safe_load(Path(__file__).with_name("archives.yaml").read_text(encoding="utf-8"))
    return {
        name: Source(
            **fields
            | {
                "licence": Licence(**fields["licence"]),
                "urls": tuple(fields.get("urls", ())),
                "holds": tuple(fields.get("holds") or KNOWN_CATEGORIES[name]),
            }
        )
        for name, fields in table.items()
    }
