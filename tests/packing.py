"""Valid and malicious archives for tests."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

TREE = {
    "01/train/ok/0.bmp": b"image " * 1000,
    "01/test/ko/1.png": b"defect",
    "02/train/ok/0.png": b"x",
    "03/train/ok/0.bmp": b"",
}
Entries = dict[str, bytes | tarfile.TarInfo]


def make_tar(path: Path, entries: Entries, mode: str = "w", format: int = tarfile.GNU_FORMAT):
    with tarfile.open(path, mode, format=format) as archive:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.uid = len(content), 0o4000, 12345
                archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, entries: dict[str, bytes], mode: int = 0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
