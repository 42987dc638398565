"""Extraction of valid, damaged and malicious archives."""

import gzip
import os
import stat
import tarfile
from pathlib import Path

import pytest
from packing import TREE, make_tar, make_zip, read_tree, special
from webserver import BODY

from realnet.core.errors import UserError
from realnet.datasets.fetch.unpack import Limits, find_data, unpack


def refused(tmp_path: Path, archive: Path, words: str, limits: Limits | None = None) -> None:
    """The archive is refused, and nothing is written outside the folder."""
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    before = {p for p in tmp_path.rglob("*") if folder not in p.parents}
    with pytest.raises(UserError, match=words) as error:
        unpack(archive, folder, limits)
    assert "\n" not in str(error.value)
    assert str(archive) in str(error.value)
    assert {p for p in tmp_path.rglob("*") if folder not in p.parents} == before
    assert not any(p.is_symlink() for p in folder.rglob("*"))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_formats_are_detected_by_content(tmp_path, mode, format):
    entries = {"./": special("./", tarfile.DIRTYPE)} | {f"./{k}": v for k, v in TREE.items()}
    archive = make_tar(tmp_path / "archive.zip", entries, mode, format)
    (tmp_path / "out").mkdir()
    unpack(archive, tmp_path / "out")
    assert read_tree(tmp_path / "out") == TREE


def test_zip_is_detected_by_content(tmp_path):
    archive = make_zip(tmp_path / "archive.tar", {"03/": b"", **TREE})
    (tmp_path / "out").mkdir()
    unpack(archive, tmp_path / "out")
    assert read_tree(tmp_path / "out") == TREE


@pytest.mark.parametrize("maker", [make_tar, make_zip])
def test_extracted_files_have_default_permissions(tmp_path, maker):
    archive = maker(tmp_path / "archive", TREE)
    (tmp_path / "out").mkdir()
    old = os.umask(0o027)
    try:
        unpack(archive, tmp_path / "out")
    finally:
        os.umask(old)
    modes = {(p.is_dir(), stat.S_IMODE(p.stat().st_mode)) for p in (tmp_path / "out").rglob("*")}
    assert modes == {(True, 0o750), (False, 0o640)}


def test_files_of_file_managers_are_omitted(tmp_path):
    litter = ["__MACOSX/01/._0.bmp", "01/.DS_Store", "01/train/ok/._0.bmp", "01/Thumbs.db"]
    archive = make_zip(tmp_path / "archive", TREE | dict.fromkeys(litter, b"litter"))
    (tmp_path / "out").mkdir()
    unpack(archive, tmp_path / "out")
    assert read_tree(tmp_path / "out") == TREE


@pytest.mark.parametrize("maker", [make_tar, make_zip])
@pytest.mark.parametrize(
    "name",
    [
        *("../evil", "01/../../evil", "/tmp/evil", "//evil", "C:/evil", "c:evil", "01\\..\\evil"),
        *("01/..", "01/new\nline"),
    ],
)
def test_path_traversal_is_refused(tmp_path, maker, name):
    archive = maker(tmp_path / "archive", {**TREE, name: b"evil"})
    refused(tmp_path, archive, "may lead outside")


@pytest.mark.parametrize(
    "entry",
    [
        special("01/link", tarfile.SYMTYPE, "/etc"),
        special("01/link", tarfile.SYMTYPE, "train"),
        special("01/link", tarfile.LNKTYPE, "01/test/ko/1.png"),
        special("01/pipe", tarfile.FIFOTYPE),
        special("01/null", tarfile.CHRTYPE),
    ],
)
def test_links_and_devices_in_tar_are_refused(tmp_path, entry):
    archive = make_tar(tmp_path / "archive", {**TREE, "x": entry, "01/link/evil": b"evil"})
    refused(tmp_path, archive, "'01/.*' is a (link|device or pipe)")


def test_links_in_zip_are_refused(tmp_path):
    archive = make_zip(tmp_path / "archive", {"01": b"/etc", **TREE}, stat.S_IFLNK | 0o777)
    refused(tmp_path, archive, "'01' is a link")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
def test_truncated_tar(tmp_path, mode, part):
    whole = make_tar(tmp_path / "whole", {**TREE, "01/last": BODY[:200_000]}, mode).read_bytes()
    archive = tmp_path / "archive"
    archive.write_bytes(whole[: int(part * len(whole))])
    refused(tmp_path, archive, "truncated or damaged")


def test_tar_truncated_between_two_files(tmp_path):
    """Python's tarfile treats this as the end."""
    archive = make_tar(tmp_path / "archive", TREE)
    with tarfile.open(archive) as tar:
        cut = tar.getmembers()[2].offset
    archive.write_bytes(archive.read_bytes()[:cut])
    refused(tmp_path, archive, "truncated or damaged")


def test_tar_with_a_corrupt_header_in_the_middle(tmp_path):
    """Python's tarfile treats this as the end."""
    archive = make_tar(tmp_path / "archive", TREE)
    data = bytearray(archive.read_bytes())
    with tarfile.open(archive) as tar:
        data[tar.getmembers()[2].offset + 3] ^= 1
    archive.write_bytes(data)
    refused(tmp_path, archive, "truncated or damaged")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_checksum_of_a_compressed_tar_is_verified(tmp_path, mode):
    # Large enough for two blocks of bz2.
    archive = make_tar(tmp_path / "archive", TREE | {"01/last": BODY[:1_200_000]}, mode)
    data = bytearray(archive.read_bytes())
    data[len(data) - 10_000] ^= 1
    archive.write_bytes(data)
    refused(tmp_path, archive, "truncated or damaged")


@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
def test_truncated_zip(tmp_path, part):
    whole = make_zip(tmp_path / "whole", {**TREE, "01/last": BODY[:200_000]}).read_bytes()
    archive = tmp_path / "archive"
    archive.write_bytes(whole[: int(part * len(whole))])
    refused(tmp_path, archive, "truncated or damaged")


def test_zip_with_a_flipped_bit(tmp_path):
    archive = make_zip(tmp_path / "archive", {"01/a": BODY[:100_000]})
    data = bytearray(archive.read_bytes())
    data[50_000] ^= 1
    archive.write_bytes(data)
    refused(tmp_path, archive, "truncated or damaged")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated|nothing in it|neither"),
        (b"\0" * 10240, "nothing in it"),
        (b"<!DOCTYPE html><html>" + b" " * 600, "neither a tar .* it looks like a web page"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "neither a tar"),
        (b"Rar!\x1a\x07" + bytes(600), "neither a tar"),
    ],
)
def test_other_files_are_refused(tmp_path, content, words):
    archive = tmp_path / "archive.tar.xz"
    archive.write_bytes(content)
    refused(tmp_path, archive, words)


def test_a_compressed_file_without_a_tar_is_refused(tmp_path):
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(gzip.compress(b"just text" * 200))
    refused(tmp_path, archive, "neither a tar")


def test_encrypted_zip_is_refused(tmp_path):
    archive = make_zip(tmp_path / "archive", {"01/a": b"x"})
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    archive.write_bytes(data)
    refused(tmp_path, archive, "encrypted")


BOMB = Limits(free=100_000)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_tar_bomb(tmp_path, mode):
    archive = make_tar(tmp_path / "archive", {"01/zeros": bytes(50_000_000)}, mode)
    refused(tmp_path, archive, "more than 100 times its size", BOMB)
    written = sum(len(data) for data in read_tree(tmp_path / "deep").values())
    assert written <= max(100_000, 100 * archive.stat().st_size)


def test_bomb_after_the_end_of_archive(tmp_path):
    archive = make_tar(tmp_path / "archive", {"01/a": b"x"})
    archive.write_bytes(gzip.compress(archive.read_bytes() + bytes(50_000_000)))
    refused(tmp_path, archive, "more than 100 times its size", BOMB)


def test_zip_bomb(tmp_path):
    archive = make_zip(tmp_path / "archive", {"01/zeros": bytes(50_000_000)})
    refused(tmp_path, archive, "more than 100 times its size", BOMB)
    assert sum(len(data) for data in read_tree(tmp_path / "deep").values()) <= 50_000_000 // 2


def test_limits_of_size_and_count(tmp_path):
    archive = make_tar(tmp_path / "archive", TREE)
    refused(tmp_path, archive, "more than 2 entries", Limits(files=2))
    refused(tmp_path / "again", archive, r"more than .* 1\.0 kB", Limits(bytes=1000))


def test_conflicting_entries_are_refused(tmp_path):
    archive = make_tar(tmp_path / "archive", {"01/a": b"file", "01/a/b": b"below a file"})
    refused_folder = tmp_path / "out"
    refused_folder.mkdir()
    with pytest.raises(UserError, match="cannot write there"):
        unpack(archive, refused_folder)


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    archive = make_tar(tmp_path / "archive", TREE)
    (tmp_path / "out" / "01" / "train" / "ok").mkdir(parents=True)
    # A device that is always full is in place of the image.
    (tmp_path / "out" / "01" / "train" / "ok" / "0.bmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match="the disk is full"):
        unpack(archive, tmp_path / "out")


def test_disk_space_for_the_content_is_checked(tmp_path, monkeypatch):
    free = os.statvfs_result((1, 1, 10**6, 100, 100, 10, 10, 10, 0, 255))
    for maker in (make_tar, make_zip):
        archive = maker(tmp_path / maker.__name__, TREE)
        (tmp_path / "out" / maker.__name__).mkdir(parents=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", lambda path: free)
            with pytest.raises(UserError, match="100 bytes free"):
                unpack(archive, tmp_path / "out" / maker.__name__)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["01", "02"], ("", ["01", "02"])),
        (["BTech/01", "BTech/03", "docs"], ("BTech", ["01", "03"])),
        (["a/b/c/01"], ("a/b/c", ["01"])),
        (["a/b/c/d/01"], None),
        (["01", "copy/01", "copy/02"], ("copy", ["01", "02"])),
        (["b/01", "a/01"], ("a", ["01"])),
        (["bottle"], None),
    ],
)
def test_the_dataset_is_found_below_other_folders(tmp_path, folders, expected):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    found = find_data(tmp_path, ["01", "02", "03"])
    assert found == (None if expected is None else (tmp_path / expected[0], expected[1]))
