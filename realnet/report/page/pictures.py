"""Figures inside the page: plots as SVG, figures with images as PNG."""

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.provenance.lineage import relative

LIMIT = (
    11_000_000  # bytes of all figure files; base64 adds a third, and the page is limited to 15 MB
)
VECTOR = 1_500_000  # bytes; a larger SVG renders slower than its PNG
# Figures that every report has, used if there is no index.
PLAIN = {
    "summary": "Summary: the three metrics of all variants, category by category",
    "overview": "Overview: input, ground truth and heat map of typical defective test images",
}


@dataclass(frozen=True)
class Picture:
    """A figure of the index; ``data``: its URI, or None with the ``reason`` why it is not shown."""

    name: str
    dataset: str  # empty: of all
    title: str
    caption: str
    data: str | None
    reason: str = ""
    files: tuple[str, ...] = ()  # relative to the results
    size: tuple[int, int] | None = None  # width, height in CSS pixels, where known


def pictures(results: Path, limit: int = LIMIT) -> list[Picture]:
    """The figures of ``figures/index.json`` in its order, with their data up to ``limit`` bytes of
    files. Without an index: the figures that every report has. UserError: malformed index."""
    found, left = [], limit
    for entry in _index(results / "figures"):
        picture, size = _picture(results, entry, left)
        left -= size
        found.append(picture)
    return found


def _index(folder: Path) -> list[dict[str, Any]]:
    path = folder / "index.json"
    if not path.is_file():
        return [
            {"name": name, "title": text.split(":")[0], "caption": f"{text.split(': ')[1]}.",
             "files": [f"{name}.png"]}
            for name, text in PLAIN.items()
            if (folder / f"{name}.png").is_file()
        ]  # fmt: skip
    index = read_json(path)
    entries = None
    if isinstance(index, dict):
        entries = [entry for key in ("figures", "skipped") for entry in index.get(key, ())]
    if entries is None or not all(isinstance(each, dict) and "name" in each for each in entries):
        raise UserError(
            f"{path}: expected figures and skipped, lists of named entries; rerun realnet report"
        )
    return entries


def _picture(results: Path, entry: Mapping[str, Any], left: int) -> tuple[Picture, int]:
    """The figure, and how many bytes of the limit it uses."""
    name = str(entry["name"])
    title = str(entry.get("title") or name.replace("_", " ").capitalize())
    files = [path for path in _files(results / "figures", entry) if path.is_file()]
    fields = (name, str(entry.get("dataset") or ""), title, str(entry.get("caption") or ""))
    names = tuple(relative(path, results) for path in files)
    if entry.get("reason"):
        return Picture(*fields, None, str(entry["reason"])), 0
    if not files:
        return Picture(*fields, None, "its files are missing"), 0
    path = _chosen(files)
    size = path.stat().st_size
    if size > left:
        reason = f"left out, {size / 1e6:.1f} MB: the page would be larger than 15 MB"
        return Picture(*fields, None, reason, names), 0
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    content = path.read_bytes()
    data = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return Picture(*fields, data, "", names, _shape(entry, content)), size


def _shape(entry: Mapping[str, Any], content: bytes) -> tuple[int, int] | None:
    """Size in CSS pixels (96 per inch; the index has inches)."""
    try:
        return round(96 * entry["width"]), round(96 * entry["height"])
    except (KeyError, TypeError):
        return png_size(content)


def _files(folder: Path, entry: Mapping[str, Any]) -> list[Path]:
    """The entry's ``files``, restricted to plain names in the figures folder."""
    names = [str(name) for name in entry.get("files") or ()]
    return [folder / name for name in names if name == Path(name).name]


def _chosen(files: list[Path]) -> Path:
    by_kind = {path.suffix: path for path in files}
    vector, pixels = by_kind.get(".svg"), by_kind.get(".png")
    if vector is None or pixels is None:
        return vector or pixels or files[0]
    whole = vector.stat().st_size <= VECTOR and b"<image" not in vector.read_bytes()
    return vector if whole else pixels


def png_size(content: bytes) -> tuple[int, int] | None:
    """Width and height from the PNG header; None: not a PNG."""
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        return None
    return struct.unpack(">II", content[16:24])


def alternative(picture: Picture) -> str:
    """Alternative text of the figure: its title and caption."""
    return f"{picture.title}. {picture.caption}".strip()
