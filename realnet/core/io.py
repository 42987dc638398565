"""Atomic writes: a temporary file, then a rename, so a reader never sees an incomplete file."""

import contextlib
import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from realnet.core.environment_errors import WRITING
from realnet.core.errors import UserError


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except Exception as error:
        error.add_note(f"{WRITING}{path}")  # an error of a full disk does not name it
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Indented JSON; NaN is refused (callers write undefined numbers as null)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def write_csv(path: str | Path, rows: Sequence[dict[str, Any]], fields: Sequence[str]) -> None:
    """CSV with a header line; floats in their shortest exact form."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, fieldnames=list(fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open(newline="", encoding="utf-8") as source:
            return list(csv.DictReader(source))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table in UTF-8 ({error})") from None


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes. UserError: no such file."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    with Path(path).open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def write_png(path: str | Path, pixels: Any) -> None:
    """Lossless PNG from a uint8 array ``[H, W]`` or ``[H, W, 3]``."""
    from PIL import Image

    with atomic(Path(path).with_suffix(".png")) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def check_weights(state: Mapping[str, Any], where: str | Path) -> None:
    """UserError for weights that are not finite, before they are written to ``where``."""
    for key, value in state.items():
        if not value.isfinite().all():
            raise UserError(
                f"{where}: not written, since the training has diverged ({key} is not finite);"
                " lower the learning rate (lr), set grad_clip, or use compute.precision: fp32"
            )


def save_weights(path: str | Path, module: Any) -> str:
    """Write a module, or a state dict, as safetensors; returns the file's SHA-256.

    UserError for weights that are not finite.
    """
    import safetensors.torch

    state = module if isinstance(module, dict) else module.state_dict()
    check_weights(state, path)
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with atomic(path) as temporary:
        safetensors.torch.save_file(state, temporary)
    return sha256(path)
