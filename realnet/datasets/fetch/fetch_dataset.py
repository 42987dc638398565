"""`realnet data fetch`: a published dataset from its archive to ``data/raw/<dataset>``."""

import contextlib
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from realnet.core import io
from realnet.core.errors import UserError, first_names
from realnet.datasets.fetch.archives import Source, sources
from realnet.datasets.fetch.download import Refused, download, shown
from realnet.datasets.fetch.unpack import Limits, find_data, unpack

DEFAULT_ROOT = Path("data/raw")


@dataclass(frozen=True)
class Archive:
    """An archive on this machine, and where it came from."""

    path: Path
    origin: str
    sha256: str
    ours: bool  # whether it was downloaded here, and so is ours to remove


@dataclass(frozen=True)
class Request:
    """How a dataset is fetched.

    given: a file or an http(s) address instead of the published addresses; sha256: its hash, if
    it is not the published archive.
    """

    given: str | None = None
    accept_licence: bool = False
    sha256: str | None = None
    keep_archive: bool = False


def fetch(
    dataset: str,
    root: Path,
    request: Request,
    *,
    ask: Callable[[str], str] | None = None,
    table: Mapping[str, Source] | None = None,
    limits: Limits | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> Path:
    """Get a dataset's archive, check and extract it to ``root/<dataset>``; return the folder.

    ``ask``: asks to accept the licence; None if not interactive. The folder is created atomically;
    an existing one is never changed. Licence and archive are recorded in
    ``root/<dataset>.fetch.json``.

    Raises UserError with a remedy for every failure.
    """
    table = sources() if table is None else table
    if dataset not in table:
        raise UserError(
            f"{dataset}: no such published dataset; there are {', '.join(table)}. Your own data:"
            f" put them into {root / dataset} (docs/data.md)"
        )
    source, target = table[dataset], root / dataset
    if request.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", request.sha256):
        raise UserError(f"--sha256: {request.sha256!r} is not a SHA-256 in hexadecimal (64 digits)")
    if request.sha256 is not None and request.given is None:
        raise UserError("--sha256 belongs to an archive of your own: give it with --from")
    _require_free(target, dataset)
    _check_given(request.given, source, target)
    how = _accept(source, request.accept_licence, ask)
    with _locked(root / ".archives" / dataset) as store:
        expected = request.sha256.lower() if request.sha256 else source.sha256
        archive = _obtain(dataset, source, request.given, expected, store, pause)
        found, files = _place_data(dataset, source, archive, target, expected, limits)
        size = archive.path.stat().st_size
        io.write_json(
            root / f"{dataset}.fetch.json",
            {
                "dataset": dataset,
                "title": source.title,
                "licence": {
                    "name": source.licence.name,
                    "url": source.licence.url,
                    "use": source.licence.use,
                    "accepted": how,
                },
                "citation": source.citation,
                "from": archive.origin,
                "bytes": size,
                "sha256": archive.sha256,
                "sha256_published": source.sha256,
                "files": files,
                "unpacked": _now(),
            },
        )
        if archive.ours and not request.keep_archive:
            archive.path.unlink()
    _report(source, target, found, files, archive, expected)
    if request.keep_archive:
        print(f"archive:  {archive.path}")
    print(f"next:     {_next(source, dataset, target)}")
    return target


# --- before --------------------------------------------------------------------------------------


def _require_free(target: Path, dataset: str) -> None:
    if target.is_symlink() or target.exists():
        raise UserError(
            f"{target}: already exists and is not changed; check it with `realnet data verify"
            f" {dataset}`, or move it away to fetch it again"
        )


def _check_given(given: str | None, source: Source, target: Path) -> None:
    """Check ``--from`` before the licence is shown."""
    if given is None:
        if not source.urls:
            raise UserError(
                f"{source.title} has no direct download: {source.get or f'see {source.page}'}; then"
                f" `realnet data fetch {target.name} --from FILE`"
            )
        return
    if _is_url(given):
        return
    if "://" in given:
        raise UserError(f"--from {given}: neither a file nor an http(s) address")
    path = Path(given)
    if path.is_dir():
        data = find_data(path, source.holds)
        if data is None:
            raise UserError(
                f"--from {given}: a folder without any of {_list(source.holds)}; give the archive"
            )
        raise UserError(
            f"--from {given}: already unpacked; move it, or link it: ln -s"
            f" {shlex.quote(str(data[0].resolve()))} {shlex.quote(str(target))}"
        )
    if not path.is_file() or not os.access(path, os.R_OK):
        raise UserError(f"--from {given}: no such file, or not readable")


def _accept(
    source: Source, accept_licence: bool, ask: Callable[[str], str] | None
) -> dict[str, str]:
    """Show the licence and have it accepted; returns how and when."""
    licence = source.licence
    print(f"{source.title}, {source.page}")
    print(f"licence:  {licence.name}")
    print(f"          {licence.url}")
    print(f"use:      {licence.use}")
    print(f"cite:     {source.citation}", flush=True)
    if accept_licence:
        return {"how": "--accept-licence", "when": _now()}
    if ask is None:
        raise UserError(
            f"{source.title}: its licence must be accepted; read it at {licence.url}, then add"
            " --accept-licence"
        )
    answer = ""
    with contextlib.suppress(EOFError):
        answer = ask("Do you accept this licence? Type yes: ")
    if answer.strip().lower() != "yes":
        raise UserError(f"{source.title}: licence not accepted, nothing was fetched")
    return {"how": "typed yes", "when": _now()}


# --- the archive ---------------------------------------------------------------------------------


def _obtain(
    dataset: str,
    source: Source,
    given: str | None,
    expected: str | None,
    store: Path,
    pause: Callable[[float], object],
) -> Archive:
    if given is not None and not _is_url(given):
        path = Path(given)
        print(f"checking: {path}", flush=True)
        return _matching(Archive(path, f"file {path.name}", io.sha256(path), False), expected)
    urls = source.urls if given is None else (given,)
    name = source.file if given is None else _file_name(given, f"{dataset}.archive")
    path = store / name
    if path.is_file() and expected is not None:
        print(f"checking: {path}", flush=True)
        found = io.sha256(path)
        if found == expected:
            return Archive(path, f"kept file {path.name}", found, True)
        path.unlink()
    size = source.bytes if expected == source.sha256 else None
    problems: list[str] = []
    for url in urls:
        print(f"from:     {shown(url)}", flush=True)
        try:
            digest = download(url, path, dataset, size, expected, pause)
            return Archive(path, shown(url), digest, True)
        except Refused as error:
            problems.append(str(error))
            if url != urls[-1]:
                print(f"{error}; trying the next address", flush=True)
    if given is not None:
        hint = "if it is an archive of your own, give its hash with --sha256"
        raise UserError(f"{problems[0]}" + (f"; {hint}" if "wrong file" in problems[0] else ""))
    raise UserError(
        f"{source.title} could not be fetched: {'; '.join(problems)}. See {source.page}; an archive"
        " from elsewhere: --from FILE_OR_ADDRESS"
    )


def _matching(archive: Archive, expected: str | None) -> Archive:
    if expected is not None and archive.sha256 != expected:
        raise UserError(
            f"{archive.path}: its sha256 is {archive.sha256}, expected {expected}: truncated, or"
            " another archive; if you trust it, repeat with --sha256 and its own hash"
        )
    return archive


def _place_data(
    dataset: str,
    source: Source,
    archive: Archive,
    target: Path,
    expected: str | None,
    limits: Limits | None,
) -> tuple[list[str], int]:
    """Extract beside the target and rename; return the categories found and the number of files."""
    temporary = target.with_name(f".{dataset}-unpacking.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    temporary.mkdir()
    try:
        unpack(archive.path, temporary, limits)
        data = find_data(temporary, source.holds)
        if data is None:
            raise UserError(
                f"{archive.path}: not {source.title}: it holds"
                f" {_list(sorted(p.name for p in temporary.iterdir())) or 'nothing'}, none of"
                f" {_list(source.holds)}"
            )
        files = sum(len(names) for _, _, names in os.walk(data[0]))
        _require_free(target, dataset)
        data[0].rename(target)
        return data[1], files
    except UserError:
        # With a known hash it is correct and is kept for the next attempt; otherwise it is removed.
        if archive.ours and expected is None:
            archive.path.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(store: Path) -> Iterator[Path]:
    """The folder of a dataset's archive, locked for one process; removed if it is empty."""
    lock = FileLock(store / "lock", timeout=0)
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{store}: another `realnet data fetch` of this dataset is running"
        ) from None
    except OSError as error:
        raise UserError(f"{store}: cannot write there ({error.strerror})") from None
    try:
        yield store
    finally:
        # While it is held: whoever opened it before cannot take it for the next one's.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        for folder in (store, store.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()


# --- words ---------------------------------------------------------------------------------------


def _report(
    source: Source,
    target: Path,
    found: list[str],
    files: int,
    archive: Archive,
    expected: str | None,
) -> None:
    known = "as published" if expected == source.sha256 else "as given"
    print(f"sha256:   {archive.sha256} ({known if expected else 'nothing known to compare with'})")
    several = f", {len(found)} of {len(source.holds)} categories" if len(source.holds) > 1 else ""
    print(f"done:     {target}, {files} files{several}")
    if missing := [name for name in source.holds if name not in found]:
        print(f"missing:  {_list(missing)}")


def _next(source: Source, dataset: str, target: Path) -> str:
    if source.next:
        return source.next.replace("{folder}", str(target))
    elsewhere = (
        "" if target.parent == DEFAULT_ROOT else f" --root {shlex.quote(str(target.parent))}"
    )
    return f"realnet data verify {dataset}{elsewhere}"


def _is_url(given: str) -> bool:
    return urlsplit(given).scheme in ("http", "https")


def _file_name(url: str, default: str) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return name if re.fullmatch(r"[\w][\w.+ -]{0,150}", name) else default


def _list(names) -> str:
    return first_names(list(names), 6)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
