"""`realnet publish`: copy a report as small files to commit, with a README that shows them."""

import base64
import io
import re
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from realnet.core.errors import UserError
from realnet.core.io import read_json, write_text

TABLES = ("main", "verdicts", "ablation", "protocols", "sdas_check")
MAX_FIGURE = 2_000_000  # bytes; larger figures are not copied
MAX_TOTAL = 12_000_000  # bytes of all files
REDUCE_FROM = 200_000  # bytes; larger PNG files are reduced to 256 colours
MARK = "<!-- made by `realnet publish`; not to be edited by hand -->"


def publish(results: Path, out: Path) -> list[str]:
    """Copy the report, its tables and figures from ``results`` to ``out``, which is emptied first.

    Also writes ``README.md``, which shows them. Returns the figures that were too large. UserError:
    the report does not exist, ``out`` holds other files, or the files are too large to commit.
    """
    needed = [results / "report.html", results / "metrics.json", results / "figures/index.json"]
    needed += [results / f"tables/{name}.md" for name in TABLES]
    for path in needed:
        if not path.is_file():
            raise UserError(f"{path}: no such file; make the report first: snakemake --cores all")
    readme = out / "README.md"
    if (
        out.is_dir()
        and any(out.iterdir())
        and (not readme.is_file() or MARK not in readme.read_text(encoding="utf-8"))
    ):
        raise UserError(f"{out}: not empty, and not made by `realnet publish`; give another --out")
    index = read_json(results / "figures/index.json")
    figures, large = _figures(results, index)
    tables = sorted(p for p in (results / "tables").iterdir() if p.suffix in (".csv", ".md"))
    chosen = [*needed[:2], *tables, *figures]
    size = sum(path.stat().st_size for path in chosen)
    if size > MAX_TOTAL:
        raise UserError(
            f"{results}: {size / 1e6:.0f} MB to publish, limit {MAX_TOTAL / 1e6:.0f} MB"
        )
    shutil.rmtree(out, ignore_errors=True)
    for path in chosen:
        target = out / path.relative_to(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_smaller(path))
    write_text(readme, _page(results, index, {path.name for path in figures}))
    return large


def _smaller(path: Path) -> bytes:
    """A file's bytes; PNG images, also inside a page, with 256 colours if that is smaller."""
    content = path.read_bytes()
    if path.suffix == ".png":
        return _palette(content)
    if path.suffix != ".html":
        return content

    def smaller(found: re.Match[bytes]) -> bytes:
        picture = _palette(base64.b64decode(found.group(2)))
        return found.group(1) + base64.b64encode(picture)

    return re.sub(rb"(data:image/png;base64,)([A-Za-z0-9+/=]+)", smaller, content)


def _palette(png: bytes) -> bytes:
    """Reduced to 256 colours: a third of the bytes for photographs and heat maps."""
    if len(png) < REDUCE_FROM:
        return png
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(out, "PNG", optimize=True)
    return min(png, out.getvalue(), key=len)


def _figures(results: Path, index: dict[str, Any]) -> tuple[list[Path], list[str]]:
    """PNG files of all figures, and the names of those that are too large."""
    paths = [results / "figures" / _png(figure) for figure in index["figures"]]
    small = [path for path in paths if path.stat().st_size <= MAX_FIGURE]
    return small, [path.name for path in paths if path not in small]


def _png(figure: dict[str, Any]) -> str:
    return next(name for name in figure["files"] if name.endswith(".png"))


def _page(results: Path, index: dict[str, Any], there: set[str]) -> str:
    """Text of README.md: origin, tables and figures."""
    groups = sorted(path.stem for path in (results / "tables").glob("ablation_*.md"))
    parts = [MARK, "# Published results", _origin(results)]
    for name in (*TABLES[:2], *groups, *TABLES[2:]):
        parts.append((results / f"tables/{name}.md").read_text(encoding="utf-8").strip())
    parts.append("## Figures")
    for figure in index["figures"]:
        name = _png(figure)
        if name in there:
            parts.append(f"### {figure['title']}\n\n![{figure['title']}](figures/{name})")
            parts.append(figure["caption"])
    return "\n\n".join(parts) + "\n"


def _origin(results: Path) -> str:
    """Device, date and commits of the evaluations, from their records."""
    records = [read_json(path) for path in sorted(results.glob("evaluate/*/*/*/*/stage.json"))]
    if not records:
        raise UserError(
            f"{results}/evaluate: no evaluation found; its record is needed for the README"
        )
    commits = sorted({(record["git_commit"] or "none")[:12] for record in records})
    devices = sorted({record["device"] for record in records})
    last = max(record["finished"] for record in records)
    every = [read_json(path)["wall_s"] for path in results.glob("**/stage.json")]
    return (
        f"{len(records)} evaluations, the last one finished {last[:10]}, on {', '.join(devices)};"
        f" code at {', '.join(commits)}. All {len(every)} stages together took"
        f" {sum(every) / 3600:.1f} hours of wall time in sum.\n\n"
        "`make publish` reproduces everything on this page. The full report, with the provenance of"
        " every number: [report.html](report.html) (download it and open it from disk)."
    )
