"""Downloads from a local server that fails in many ways."""

import gzip
import os
import signal
import subprocess
import sys
import time

import pytest
from packing import digest
from webserver import BODY, ETAG, Page, serving

from realnet.core.errors import UserError
from realnet.datasets.fetch.download import Refused, download

DATE = "Mon, 01 Jan 2024 00:00:00 GMT"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def get(server, tmp_path):
    """Download a path to ``tmp_path/store/file``; pauses are recorded instead of waited for."""
    pauses: list[float] = []

    def run(path: str, **how) -> bytes:
        target = tmp_path / "store" / "file"
        found = download(server.url(path), target, "data", pause=pauses.append, **how)
        assert digest(target.read_bytes()) == found
        assert [p.name for p in target.parent.iterdir()] == ["file"]
        return target.read_bytes()

    run.pauses = pauses
    run.part = tmp_path / "store" / "file.part"
    return run


def start(get, server, path: str, size: int, **how) -> Page:
    """A first attempt that fails after ``size`` bytes."""
    page = server.put(path, cuts=[size], errors=[503] * 4, **how)
    with pytest.raises(Refused):
        get(path)
    assert get.part.stat().st_size == size
    page.asked.clear()
    return page


def test_download_resumes_after_several_cuts(get, server):
    page = server.put("/a", cuts=[700_000, 0, 900_000, 1])
    assert get("/a", sha256=digest(BODY), size=len(BODY)) == BODY
    ranges = [request.get("Range") for request in page.asked]
    assert ranges == [
        None,
        *("bytes=700000-", "bytes=700000-", "bytes=1600000-", "bytes=1600001-"),
    ]
    assert all(request["If-Range"] == ETAG for request in page.asked[1:])
    assert get.pauses == [1, 2, 1, 1]  # longer only while there is no progress


def test_retries_continue_while_there_is_progress(get, server):
    server.put("/a", cuts=[100_000] * 20)
    assert get("/a") == BODY
    server.put("/b", cuts=[100_000] * 2 + [0] * 10)
    with pytest.raises(Refused, match=r"5 times in a row; 200\.0 kB are kept, the same command"):
        get("/b")


def test_the_next_run_resumes_the_partial_file(get, server):
    page = start(get, server, "/a", 1_000_000)
    assert get("/a") == BODY
    assert [request.get("Range") for request in page.asked] == ["bytes=1000000-"]


def test_last_modified_is_used_without_an_etag(get, server):
    page = start(get, server, "/a", 1_000_000, etag=None, modified=DATE)
    assert get("/a") == BODY
    assert page.asked[0]["If-Range"] == DATE


def test_weak_etag_is_not_sent_as_if_range(get, server):
    page = start(get, server, "/a", 1_000_000, etag='W/"one"', modified=DATE)
    assert get("/a") == BODY
    assert page.asked[0]["If-Range"] == DATE


def test_without_a_validator_resuming_requires_a_known_hash(get, server):
    page = start(get, server, "/a", 1_000_000, etag=None)
    assert get("/a") == BODY
    assert "Range" not in page.asked[0]
    page = start(get, server, "/b", 1_000_000, etag=None)
    assert get("/b", sha256=digest(BODY)) == BODY
    assert page.asked[0]["Range"] == "bytes=1000000-"


@pytest.mark.parametrize("honours", [True, False])
def test_a_changed_file_on_the_server_restarts_the_download(get, server, honours):
    page = start(get, server, "/a", 1_000_000, honours_if_range=honours)
    page.body, page.etag = BODY[::-1], '"two"'
    assert get("/a") == BODY[::-1]


def test_a_smaller_file_on_the_server_restarts_the_download(get, server):
    page = start(get, server, "/a", 1_000_000, honours_if_range=False)
    page.body = BODY[:900_000]
    assert get("/a") == BODY[:900_000]


def test_an_undetected_change_is_found_by_the_hash(get, server):
    page = start(get, server, "/a", 1_000_000, etag=None)
    page.body = BODY[::-1]
    assert get("/a", sha256=digest(BODY[::-1])) == BODY[::-1]
    assert [request.get("Range") for request in page.asked] == ["bytes=1000000-", None]


def test_a_server_without_ranges_restarts_the_download(get, server):
    page = start(get, server, "/a", 1_000_000, ranges=False)
    assert get("/a") == BODY
    assert len(page.asked) == 1


def test_a_complete_partial_file_is_not_downloaded_again(get, server):
    page = start(get, server, "/a", 1_000_000)
    with get.part.open("ab") as part:
        part.write(BODY[1_000_000:])
    assert get("/a", sha256=digest(BODY)) == BODY
    assert page.asked == []


def test_a_partial_file_of_another_address_is_not_resumed(get, server):
    start(get, server, "/a", 1_000_000)
    server.put("/b", body=BODY[::-1])
    assert get("/b") == BODY[::-1]


@pytest.mark.parametrize("state", ["", "{}", "[1]", '{"url": 3}'])
def test_a_partial_file_with_corrupt_metadata_is_not_resumed(get, server, state):
    page = start(get, server, "/a", 1_000_000)
    get.part.with_name("file.part.json").write_text(state)
    assert get("/a") == BODY
    assert "Range" not in page.asked[0]


def test_a_wrong_hash_leaves_no_files(get, server):
    server.put("/a")
    with pytest.raises(Refused, match=f"wrong file, removed.*{digest(BODY)}, expected {'0' * 64}"):
        get("/a", sha256="0" * 64)
    assert list(get.part.parent.iterdir()) == []
    assert get("/a", sha256=digest(BODY)) == BODY


def test_a_wrong_size_is_refused_before_downloading(get, server):
    server.put("/a", body=b"small")
    with pytest.raises(Refused, match="5 bytes, but the published file has 3000000"):
        get("/a", size=len(BODY))
    assert not get.part.exists()


def test_retry_after_is_respected(get, server):
    server.put("/a", errors=[503, 429])
    assert get("/a") == BODY
    assert get.pauses == [7, 7]


@pytest.mark.parametrize(("status", "words"), [(404, "404 Not Found"), (403, "403 Forbidden")])
def test_client_errors_are_not_retried(get, server, status, words):
    page = server.put("/a", status=status)
    with pytest.raises(Refused, match=words):
        get("/a")
    assert len(page.asked) == 1


def test_a_web_page_is_refused(get, server):
    server.put("/a", kind="text/html; charset=utf-8")
    with pytest.raises(Refused, match="web page"):
        get("/a")


def test_redirects_are_followed_with_the_range(get, server):
    start(get, server, "/a", 1_000_000)
    server.put("/a", redirect=server.url("/b"))
    page = server.put("/b")
    assert get("/a") == BODY
    assert page.asked[0]["Range"] == "bytes=1000000-"
    server.put("/loop", redirect="/loop")
    with pytest.raises(Refused, match="redirects"):
        get("/loop")


def test_content_encoding_is_not_decoded(get, server):
    """Some servers declare a .tar.gz to be compressed for the transfer."""
    packed = gzip.compress(BODY)
    server.put("/a", body=packed, encoding="gzip")
    assert get("/a") == packed


def test_download_of_unknown_length(get, server):
    server.put("/a", chunked=True)
    assert get("/a") == BODY


def test_connection_errors_have_no_python_names(get, server):
    with pytest.raises(Refused, match=r"Connection refused, 5 times in a row$"):
        download("http://127.0.0.1:9/x", get.part, "data", pause=get.pauses.append)
    assert get.pauses == [1, 2, 4, 8]


def test_secrets_in_urls_are_not_shown(server, tmp_path):
    url = server.url("/x?key=secret").replace("//", "//me:secret@")
    with pytest.raises(Refused) as error:
        download(url, tmp_path / "file", "data")
    assert "secret" not in str(error.value)
    assert "/x" in str(error.value)


def test_disk_space_is_checked_before_downloading(get, server, monkeypatch):
    free = os.statvfs_result((4096, 4096, 10**6, 100, 100, 10, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: free)
    server.put("/a")
    with pytest.raises(UserError, match=r"6\.0 MB needed for data.*409\.6 kB free"):
        get("/a")
    assert not get.part.exists() or get.part.stat().st_size == 0


def test_a_killed_download_resumes(server, tmp_path):
    page = server.put("/a", pace=0.03)
    part = tmp_path / "file.part"
    code = "import sys; from pathlib import Path;"
    code += "from realnet.datasets.fetch.download import download;"
    code += "download(sys.argv[1], Path(sys.argv[2]), 'data')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.url("/a"), tmp_path / "file"], start_new_session=True
    )
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    have = part.stat().st_size
    assert 0 < have < len(BODY)
    page.pace = 0.0
    assert download(server.url("/a"), tmp_path / "file", "data") == digest(BODY)
    assert page.asked[-1]["Range"] == f"bytes={have}-"
