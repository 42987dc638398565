"""`realnet data cache`: find corrupt files in DVC's cache.

DVC names a file of the cache by the MD5 of its content and does not check it again: a file that has
become corrupt is checked out, pushed and reported as up to date. Here each file is hashed again.
Corrupt files can be removed, together with corrupt checked-out copies; ``dvc pull`` then fetches
them from the remote.
"""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realnet.config.params import read_yaml
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.core.progress import in_threads

FILES = "files/md5"
LISTING = ".dir"


@dataclass(frozen=True)
class Damaged:
    """A file of the cache whose content does not match its name."""

    path: Path
    tracked: tuple[Path, ...]  # where it is checked out, if known
    copies: tuple[Path, ...]  # checked-out copies that are corrupt too


def cache_folder(root: Path) -> Path:
    """The folder of DVC's cache. UserError: ``root`` is in no DVC project."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{root}: DVC does not know it as a project; run in one, or `dvc init`")
    return Path(done.stdout.strip())


def check_cache(root: Path, folder: Path | None = None) -> tuple[list[Damaged], int]:
    """Corrupt files, and the number of files read. ``folder``: the cache; None: ask DVC."""
    folder = cache_folder(root) if folder is None else folder
    files = sorted(path for path in (folder / FILES).glob("??/*") if path.is_file())
    found = in_threads(_md5, files, "cache")
    bad = [p for p, digest in zip(files, found, strict=True) if digest != _name(p)]
    if not bad:
        return [], len(files)
    places = _places(root, folder, {path for path in bad if path.suffix == LISTING})
    damaged = []
    for path in bad:
        tracked = tuple(places.get(_name(path) + path.suffix, ()))
        copies = tuple(p for p in tracked if p.is_file() and _md5(p) != _name(path))
        damaged.append(Damaged(path, tracked, copies))
    return damaged, len(files)


def run(root: Path, remove: bool) -> tuple[str, bool]:
    """The report, and whether nothing is corrupt. ``remove``: delete corrupt files and copies."""
    damaged, count = check_cache(root)
    lines = []
    for found in damaged:
        names = ", ".join(map(str, found.tracked)) or "of no file that is tracked now"
        lines.append(f"{found.path}: damaged ({names})")
        lines += [f"  {path}: damaged too" for path in found.copies]
        if remove:
            for path in (found.path, *found.copies):
                path.unlink()
    lines.append(f"{count} files in DVC's cache, {len(damaged)} damaged")
    if damaged and remove:
        lines.append("removed; get them from the remote: dvc pull. Without one: dvc add FOLDER")
    elif damaged:
        lines.append("remove them with their damaged copies: realnet data cache --remove")
    return "\n".join(lines), not damaged


def _name(path: Path) -> str:
    """The MD5 in the path of a cache file."""
    return path.parent.name + path.name.removesuffix(LISTING)


def _md5(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _places(root: Path, folder: Path, unreadable: set[Path]) -> dict[str, list[Path]]:
    """MD5 (with ``.dir`` for a folder) -> tracked paths, from .dvc files and dvc.lock."""
    found: dict[str, list[Path]] = {}
    hidden = {".git", ".dvc", ".snakemake"}
    sources = [p for p in root.rglob("*.dvc") if p.is_file() and not hidden & set(p.parts)]
    for source in [*sources, root / "dvc.lock"]:
        if not source.is_file():
            continue
        content: dict[str, Any] = read_yaml(source)
        stages = content.get("stages", {}).values() if source.name == "dvc.lock" else [content]
        for out in (out for stage in stages for out in stage.get("outs", ())):
            digest, place = out.get("md5", ""), source.parent / out["path"]
            found.setdefault(digest, []).append(place)
            listing = folder / FILES / digest[:2] / digest[2:]
            if digest.endswith(LISTING) and listing.is_file() and listing not in unreadable:
                for entry in read_json(listing):
                    found.setdefault(entry["md5"], []).append(place / entry["relpath"])
    return found
