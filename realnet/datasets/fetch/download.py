"""Download of one file over HTTP, going on where a cut connection or a killed process stopped.

What has arrived is in ``<target>.part``; ``<target>.part.json`` says of which file it is a part
(address, ETag, date, size), so that the rest is only asked of the same file (``If-Range``).
"""

import contextlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3

from realnet.core import io
from realnet.core.errors import UserError
from realnet.datasets.fetch.transfer import byte_progress, disk_errors, in_words, require_room

CHUNK = 1 << 20
TIMEOUT = (15.0, 60.0)  # seconds to connect; between two packets
ATTEMPTS = 5  # consecutive attempts without progress
LONGEST_PAUSE = 60.0
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
TRANSIENT = (
    *(requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError),
    urllib3.exceptions.HTTPError,
)


class Refused(UserError):
    """This address does not give the file; another may."""


class _Interrupted(Exception):
    """Worth another attempt, after ``pause`` seconds if the server said so."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


@dataclass(frozen=True)
class Remote:
    """A file on a server, according to its headers."""

    url: str
    etag: str | None
    modified: str | None
    size: int | None

    @property
    def validator(self) -> str | None:
        """The validator for ``If-Range``, which must not be a weak ETag."""
        strong = self.etag and not self.etag.startswith("W/")
        return self.etag if strong else self.modified


def shown(url: str) -> str:
    """A URL without the parts that may be secret: user, password, query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def download(
    url: str,
    target: Path,
    label: str,
    size: int | None = None,
    sha256: str | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> str:
    """Fetch ``url`` to ``target`` and return its SHA-256; ``target`` appears only when it is whole.

    ``size`` (bytes) and ``sha256`` are those of the wanted file, if known. Room is required for
    the file and once more for what is in it. Refused: the address does not give that file.
    UserError: no room.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    in_pieces = _transfer(url, part, label, size, sha256, pause)
    found = io.sha256(part)
    if in_pieces and sha256 not in (None, found):
        print(f"{label}: the pieces do not fit together; starting over", flush=True)
        _forget(part)
        _transfer(url, part, label, size, sha256, pause)
        found = io.sha256(part)
    if sha256 not in (None, found):
        _forget(part)
        raise Refused(
            f"{shown(url)}: wrong file, removed: its sha256 is {found}, expected {sha256}"
        )
    part.replace(target)
    _state(part).unlink(missing_ok=True)
    return found


def _transfer(
    url: str,
    part: Path,
    label: str,
    size: int | None,
    sha256: str | None,
    pause: Callable[[float], object],
) -> bool:
    """Attempts until ``part`` is whole; returns whether it came in several pieces."""
    furthest, failures = _length(part) if _read_state(part, url) else 0, 0
    while True:
        try:
            return _attempt(url, part, label, size, sha256 is not None)
        except _Interrupted as error:
            have = _length(part)
            failures = 1 if have > furthest else failures + 1
            furthest = max(furthest, have)
            if failures >= ATTEMPTS:
                kept = (
                    f"; {in_words(have)} are kept, the same command resumes from there"
                    if have
                    else ""
                )
                raise Refused(f"{shown(url)}: {error}, {failures} times in a row{kept}") from None
            wait = 2.0 ** (failures - 1) if error.pause is None else error.pause
            wait = min(wait, LONGEST_PAUSE)
            print(f"{label}: {error}; next attempt in {wait:.0f} s", flush=True)
            pause(wait)


def _attempt(url: str, part: Path, label: str, size: int | None, checkable: bool) -> bool:
    """One request. True: resumed a partial file. False: started from the first byte."""
    known = _read_state(part, url)
    have = _length(part) if known and (known.validator or checkable) else 0
    if known and have and have == known.size:
        return True
    # No transparent compression: ranges and hashes are those of the file itself.
    headers = {"Accept-Encoding": "identity", "User-Agent": "realnet-bench"}
    if known and have:
        headers["Range"] = f"bytes={have}-"
        if known.validator:
            headers["If-Range"] = known.validator
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            going_on = _check_answer(response, url, known, have, part)
            length = response.headers.get("Content-Length", "")
            total = int(length) + (have if going_on else 0) if length.isdigit() else None
            if size is not None and total not in (None, size):
                raise Refused(
                    f"{shown(url)}: {total} bytes, but the published file has {size}; it is another"
                    " file"
                )
            total = total if total is not None else size
            remote = Remote(
                shown(url),
                response.headers.get("ETag"),
                response.headers.get("Last-Modified"),
                total,
            )
            if not going_on:
                if have:
                    print(f"{label}: the server sends the file from its beginning", flush=True)
                have = 0
                _forget(part)  # first: an old partial file must never have a new state
                io.write_json(_state(part), asdict(remote))
            if total is not None:
                require_room(part.parent, 2 * total - have, f"{label}, packed and unpacked")
            _receive(response, part, label, have, total)
            return going_on
    except TRANSIENT as error:
        if isinstance(error, requests.exceptions.SSLError):
            raise Refused(f"{shown(url)}: no secure connection ({_reason(error)})") from None
        raise _Interrupted(_reason(error)) from None
    except requests.RequestException as error:
        raise Refused(f"{shown(url)}: {_reason(error)}") from None


def _check_answer(
    response: requests.Response, url: str, known: Remote | None, have: int, part: Path
) -> bool:
    """True: the bytes from ``have`` on follow. False: the whole file follows."""
    status, headers = response.status_code, response.headers
    if status in TRANSIENT_STATUS:
        after = headers.get("Retry-After", "")
        raise _Interrupted(
            f"the server answered {_named(status)}", float(after) if after.isdigit() else None
        )
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
        _forget(part)
        raise _Interrupted("the file on the server has changed", 0.0)
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise Refused(f"{shown(url)}: the server answered {_named(status)}")
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        raise Refused(f"{shown(url)}: a web page, not an archive (perhaps it asks for a login)")
    if status == HTTPStatus.OK:
        return False
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    same = (
        known is not None
        and span is not None
        and int(span[1]) == have
        and (known.size is None or span[2] in ("*", str(known.size)))
        # Some servers support ranges but ignore If-Range.
        and headers.get("ETag", known.etag) == known.etag
        and headers.get("Last-Modified", known.modified) == known.modified
    )
    if not same:
        _forget(part)
        raise _Interrupted("the file on the server has changed", 0.0)
    return True


def _receive(
    response: requests.Response, part: Path, label: str, have: int, total: int | None
) -> None:
    with (
        disk_errors(part.parent),
        part.open("ab") as target,
        byte_progress(label, total, have) as update,
    ):
        # `raw`: some servers declare a .tar.gz as compressed in transit; it must stay as it is.
        stream = response.raw.stream(CHUNK, decode_content=False)
        while chunk := _next(stream):
            target.write(chunk)
            have += len(chunk)
            update(len(chunk))
    if total is not None and have > total:
        _forget(part)
    if total is not None and have != total:
        raise _Interrupted(f"the connection ended at {in_words(have)} of {in_words(total)}")


def _next(stream) -> bytes:
    """The next piece, empty at the end; errors of the network, not of the disk."""
    try:
        return next(stream, b"")
    except OSError as error:
        raise _Interrupted(_reason(error)) from None


def _reason(error: BaseException) -> str:
    """The cause at the bottom of a chain of wrapped network errors, in a few words."""
    if isinstance(error, (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError)):
        return f"no connection within {TIMEOUT[0]:.0f} s"
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return f"no data for {TIMEOUT[1]:.0f} s"
    while inner := error.__cause__ or error.__context__:
        error = inner
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, urllib3.exceptions.IncompleteRead):
        text = f"the connection ended, {in_words(error.expected or 0)} were still to come"
    return " ".join(text.split())


def _named(status: int) -> str:
    with contextlib.suppress(ValueError):
        return f"{status} {HTTPStatus(status).phrase}"
    return str(status)


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path, url: str) -> Remote | None:
    try:
        state = Remote(**json.loads(_state(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return state if state.url == shown(url) else None


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)
