"""Safe extraction of untrusted archives: nothing outside the folder, no links, bounded size.

The bytes decide what an archive is, not its name. Permissions, owners and times in it are ignored.
"""

import bz2
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from realnet.core.errors import UserError
from realnet.datasets.fetch.transfer import byte_progress, disk_errors, in_words, require_room

CHUNK = 1 << 20
TAR_BLOCK = 512


class _Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes: ...


Opener = Callable[[BinaryIO], _Readable]  # decompresses a stream
COMPRESSED: dict[bytes, Opener] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
# The zeros that end an archive. Undocumented, so the stubs lack it.
EOFHeaderError = tarfile.EOFHeaderError  # type: ignore[attr-defined]
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError),
    # bz2 and gzip raise OSError for bad data (those of writing are caught where it is done), and
    # a mangled header any of the rest.
    *(OSError, ValueError, struct.error),
)
# What file managers add to archives of image folders.
LITTER = re.compile(r"(^|/)(__MACOSX(/|$)|\._[^/]*$|\.DS_Store$|Thumbs\.db$)")


@dataclass(frozen=True)
class Limits:
    """Limits of the extracted files; far above those of the known datasets."""

    bytes: int = 64 * 10**9
    files: int = 200_000
    ratio: float = 100.0  # bytes out per byte in; images hardly shrink ...
    free: int = 10**9  # ... but tiny ones in tar's blocks do: this size is always allowed


class _Budget:
    """Counts extracted bytes and files, since sizes in headers may be wrong."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.archive, self.limits = archive, limits
        packed = archive.stat().st_size
        self.bytes = min(limits.bytes, max(limits.free, int(limits.ratio * packed)))
        self.files = limits.files

    def spend(self, count: int) -> None:
        self.bytes -= count
        if self.bytes < 0:
            raise UserError(
                f"{self.archive}: refused: it unpacks to more than {self.limits.ratio:.0f} times"
                f" its size, or more than {in_words(self.limits.bytes)}"
            )

    def entry(self) -> None:
        self.files -= 1
        if self.files < 0:
            raise UserError(f"{self.archive}: refused: more than {self.limits.files} entries")


class _StrictInfo(tarfile.TarInfo):
    """Python's tarfile takes a broken or missing header for the end; only an end mark is one."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


class _Counted(io.BufferedIOBase):
    """A stream of bytes whose length is counted against a budget."""

    def __init__(self, stream: _Readable, budget: _Budget) -> None:
        self.stream, self.budget = stream, budget

    def read(self, size: int | None = -1, /) -> bytes:
        data = self.stream.read(-1 if size is None else size)
        self.budget.spend(len(data))
        return data


def unpack(archive: Path, folder: Path, limits: Limits | None = None) -> None:
    """Extract a tar (plain, gz, bz2, xz) or zip into the empty ``folder``.

    UserError: neither of them, truncated or damaged, a name that leads outside, a link or device,
    encrypted, over ``limits``, no room. ``folder`` may then hold a part: the caller discards it.
    """
    with archive.open("rb") as source:
        start = source.read(8)
    budget = _Budget(archive, limits or Limits())
    try:
        if start.startswith(ZIP):
            _unpack_zip(archive, folder, budget)
            return
        opener = next((f for magic, f in COMPRESSED.items() if start.startswith(magic)), None)
        _unpack_tar(archive, folder, budget, opener)
    except DAMAGE as error:
        raise UserError(
            f"{archive}: truncated or damaged ({error or type(error).__name__}); get it again"
        ) from None


def find_data(folder: Path, names: Iterable[str], depth: int = 3) -> tuple[Path, list[str]] | None:
    """The folder that has most of ``names`` as subfolders, at most ``depth`` levels down.

    Returns it with the names found, in the given order; of equals, the highest and first one.
    """
    best: tuple[Path, list[str]] | None = None
    level = [folder]
    for _ in range(depth + 1):
        for place in level:
            found = [name for name in names if (place / name).is_dir()]
            if found and (best is None or len(found) > len(best[1])):
                best = place, found
        level = sorted(child for place in level for child in place.iterdir() if child.is_dir())
    return best


# --- tar -----------------------------------------------------------------------------------------


def _unpack_tar(archive: Path, folder: Path, budget: _Budget, opener: Opener | None) -> None:
    _require_tar(archive, opener)
    with archive.open("rb") as packed:
        # The size of tar.gz and tar.xz is only known at the end; images hardly compress.
        require_room(folder, archive.stat().st_size, f"the content of {archive.name}")
        stream = _Counted(opener(packed) if opener else packed, budget)
        with (
            tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictInfo, errorlevel=2) as tar,
            byte_progress(f"unpacking {archive.name}", archive.stat().st_size) as update,
        ):
            read = 0
            for member in tar:
                budget.entry()
                if not (member.isreg() or member.isdir()):
                    kind = "link" if member.issym() or member.islnk() else "device or pipe"
                    raise UserError(f"{archive}: refused: {member.name!r} is a {kind}")
                path = _place(archive, folder, member.name)
                if path is not None:
                    content = tar.extractfile(member)  # None: a folder
                    if content is None:
                        _make_folder(path)
                    else:
                        _write(path, content)
                update(packed.tell() - read)
                read = packed.tell()
            while stream.read(CHUNK):  # to the end, where gz and xz have their checksums
                pass
            update(packed.tell() - read)


def _require_tar(archive: Path, opener: Opener | None) -> None:
    with archive.open("rb") as packed:
        header = (opener(packed) if opener else packed).read(TAR_BLOCK)
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except EOFHeaderError:
        raise UserError(f"{archive}: an archive with nothing in it") from None
    except tarfile.HeaderError:
        page = header.lstrip()[:1] == b"<"
        raise UserError(
            f"{archive}: neither a tar (plain, gz, bz2, xz) nor a zip archive"
            + ("; it looks like a web page" if page else "")
        ) from None


# --- zip -----------------------------------------------------------------------------------------


def _unpack_zip(archive: Path, folder: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as packed:
        entries = packed.infolist()
        places = [_checked(archive, folder, entry, budget) for entry in entries]
        require_room(folder, sum(entry.file_size for entry in entries), f"content of {archive}")
        total = sum(entry.compress_size for entry in entries)
        with byte_progress(f"unpacking {archive.name}", total) as update:
            for entry, path in zip(entries, places, strict=True):
                if path is not None and entry.is_dir():
                    _make_folder(path)
                elif path is not None:
                    try:
                        with packed.open(entry) as content:
                            _write(path, _Counted(content, budget))
                    except NotImplementedError as error:
                        raise UserError(f"{archive}: {entry.filename!r}: {error}") from None
                update(entry.compress_size)


def _checked(archive: Path, folder: Path, entry: zipfile.ZipInfo, budget: _Budget) -> Path | None:
    budget.entry()
    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0: made where there are no such modes
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "link" if kind == stat.S_IFLNK else "device or pipe"
        raise UserError(f"{archive}: refused: {entry.filename!r} is a {what}")
    if entry.flag_bits & 1:
        raise UserError(f"{archive}: encrypted; unpack it by hand")
    return _place(archive, folder, entry.filename)


# --- files ---------------------------------------------------------------------------------------


def _place(archive: Path, folder: Path, name: str) -> Path | None:
    """Target path of an entry, None if it is not data. UserError: it is outside the folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if (
        name.startswith("/")
        or ".." in parts
        or re.match(r"[A-Za-z]:", name)
        or re.search(r"[\\\x00-\x1f\x7f]", name)
    ):
        raise UserError(f"{archive}: refused: {name!r} may lead outside the folder")
    return folder.joinpath(*parts) if parts and not LITTER.search("/".join(parts)) else None


def _make_folder(path: Path) -> None:
    with disk_errors(path.parent):
        path.mkdir(parents=True, exist_ok=True)


def _write(path: Path, content: _Readable) -> None:
    _make_folder(path.parent)
    with disk_errors(path.parent):
        target = path.open("wb")
    with target:
        while chunk := content.read(CHUNK):
            with disk_errors(path.parent):
                target.write(chunk)
