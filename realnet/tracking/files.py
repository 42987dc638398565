"""Artifacts for MLflow as hard links, which need neither time nor space.

Results are replaced by new files and never changed in place, so a link keeps its content.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname


def link(files: Mapping[str, Path], folder: Path) -> None:
    """Link each file under its name in ``folder``; copy it where a link is impossible."""
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, target)


def log_files(client: Any, run_id: str, place: str, files: Mapping[str, Path]) -> None:
    """Add files under their names to the artifacts of a run, whose address is ``place``."""
    where = urlparse(place)
    if where.scheme in ("", "file"):
        link(files, Path(url2pathname(where.path)))
        return
    with tempfile.TemporaryDirectory() as folder:
        link(files, Path(folder))
        client.log_artifacts(run_id, folder)
