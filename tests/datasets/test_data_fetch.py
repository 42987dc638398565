"""`data fetch`: licence, archive from a server or a file, extracted folder."""

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from packing import TREE, digest, make_tar, make_zip, read_tree
from webserver import serving

from realnet.core.errors import UserError
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.datasets.fetch.archives import Licence, Source, sources
from realnet.datasets.fetch.fetch_dataset import Request, fetch

SOURCE = Source(
    title="BTAD",
    page="https://example.org/btad",
    file="btad.zip",
    licence=Licence("CC BY-NC-SA 4.0", "https://example.org/licence", "not commercial"),
    citation="Somebody: Something.",
    holds=KNOWN_CATEGORIES["btad"],
)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def zipped(tmp_path) -> Path:
    tree = {f"BTech_Dataset_transformed/{name}": data for name, data in TREE.items()}
    return make_zip(tmp_path / "here.zip", tree)


@pytest.fixture
def published(server, zipped):
    """The archive at two addresses, of which the first does not exist."""
    body = zipped.read_bytes()
    server.put("/btad.zip", body=body)
    urls = (server.url("/gone.zip"), server.url("/btad.zip"))
    return replace(SOURCE, urls=urls, sha256=digest(body), bytes=len(body))


@pytest.fixture
def run(tmp_path):
    def run(source: Source, given: str | None = None, **how):
        names = {"accept_licence", "sha256", "keep_archive"} & set(how)
        request = Request(given, **{"accept_licence": True} | {k: how.pop(k) for k in names})
        how = {"pause": lambda seconds: None} | how
        return fetch("btad", tmp_path / "raw", request, table={"btad": source}, **how)

    return run


def left(tmp_path: Path) -> list[str]:
    """All files below the root, including hidden ones."""
    root = tmp_path / "raw"
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*")) if root.exists() else []


def test_published_archive_from_the_second_address(run, published, tmp_path, capsys):
    target = run(published)
    assert target == tmp_path / "raw" / "btad"
    assert read_tree(target) == TREE
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["btad", "btad.fetch.json"]
    record = json.loads((tmp_path / "raw" / "btad.fetch.json").read_text())
    assert record["licence"]["name"] == "CC BY-NC-SA 4.0"
    assert record["licence"]["accepted"]["how"] == "--accept-licence"
    assert record["licence"]["accepted"]["when"].endswith("+00:00")
    assert (record["from"], record["sha256"]) == (published.urls[1], published.sha256)
    assert (record["files"], record["bytes"]) == (len(TREE), published.bytes)
    out = capsys.readouterr().out
    assert "404 Not Found; trying the next address" in out
    assert "https://example.org/licence" in out
    assert "not commercial" in out
    assert "3 of 3 categories" in out
    assert out.rstrip().endswith(f"realnet data verify btad --root {tmp_path / 'raw'}")


def test_a_kept_archive_is_reused(run, published, server, tmp_path):
    target = run(published, keep_archive=True)
    assert (tmp_path / "raw/.archives/btad/btad.zip").is_file()
    target.rename(tmp_path / "elsewhere")
    asked = len(server.pages["/btad.zip"].asked)
    run(published)
    assert len(server.pages["/btad.zip"].asked) == asked
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["btad", "btad.fetch.json"]


def test_a_corrupt_kept_archive_is_downloaded_again(run, published, tmp_path):
    store = tmp_path / "raw/.archives/btad"
    store.mkdir(parents=True)
    (store / "btad.zip").write_bytes(b"half")
    assert read_tree(run(published)) == TREE


def test_all_addresses_failing_is_an_error(run, published, server, tmp_path):
    server.put("/btad.zip", body=b"another file of another size")
    with pytest.raises(UserError, match=r"404 Not Found; .*another file\. See https://example"):
        run(published)
    assert left(tmp_path) == []


def test_an_archive_with_a_wrong_hash_is_replaced(run, published, server, zipped, tmp_path):
    right = server.pages["/btad.zip"].body
    server.pages["/btad.zip"].body = right[:-1] + b"x"
    with pytest.raises(UserError, match="wrong file, removed"):
        run(published)
    assert left(tmp_path) == []
    server.pages["/btad.zip"].body = right
    assert read_tree(run(published)) == TREE


def test_an_interrupted_download_is_kept_for_the_next_run(run, published, server, tmp_path):
    page = server.pages["/btad.zip"]
    page.cuts = [300, 0, 0, 0, 0]
    with pytest.raises(UserError, match="300 bytes are kept, the same command resumes"):
        run(published)
    assert (tmp_path / "raw/.archives/btad/btad.zip.part").stat().st_size == 300
    assert not (tmp_path / "raw/btad").exists()
    page.asked.clear()
    assert read_tree(run(published)) == TREE
    assert page.asked[0]["Range"] == "bytes=300-"


def test_a_local_archive_is_not_moved(run, published, zipped, tmp_path, capsys):
    assert read_tree(run(published, str(zipped))) == TREE
    assert zipped.is_file()
    record = json.loads((tmp_path / "raw/btad.fetch.json").read_text())
    assert record["from"] == "file here.zip"
    assert "(as published)" in capsys.readouterr().out


def test_another_archive_requires_its_hash(run, published, tmp_path):
    own = make_tar(tmp_path / "own.tar.xz", {"01/train/ok/a.png": b"a"}, "w:xz")
    own_hash = digest(own.read_bytes())
    with pytest.raises(UserError, match=f"sha256 is {own_hash}, expected {published.sha256}"):
        run(published, str(own))
    assert left(tmp_path) == []
    run(published, str(own), sha256=own_hash.upper())
    assert read_tree(tmp_path / "raw/btad") == {"01/train/ok/a.png": b"a"}


def test_missing_categories_of_the_archive_are_named(run, tmp_path, capsys):
    own = make_tar(tmp_path / "own.tar", {"x/01/train/ok/a.png": b"a"})
    run(SOURCE, str(own))
    out = capsys.readouterr().out
    assert "1 of 3 categories" in out
    assert "missing:  02, 03" in out
    assert "nothing known to compare with" in out


def test_download_from_a_mirror(run, published, server, tmp_path):
    url = server.url("/mirror/data.zip?token=secret").replace("//", "//me:secret@")
    server.put("/mirror/data.zip", body=b"not it")
    with pytest.raises(UserError, match=r"published file has \d+; it is another") as error:
        run(published, url)
    assert "secret" not in str(error.value)
    server.pages["/mirror/data.zip"] = server.pages["/btad.zip"]
    assert read_tree(run(published, url)) == TREE
    assert "secret" not in (tmp_path / "raw/btad.fetch.json").read_text()


def test_a_mirror_with_another_archive_requires_its_hash(run, published, server, tmp_path):
    body = make_tar(tmp_path / "own", TREE, "w:gz").read_bytes()
    server.put("/own", body=body)
    unsized = replace(published, bytes=None)
    with pytest.raises(UserError, match=r"wrong file, removed.*--sha256"):
        run(unsized, server.url("/own"))
    assert read_tree(run(published, server.url("/own"), sha256=digest(body))) == TREE


def test_without_direct_download_the_page_is_named(run, tmp_path):
    with pytest.raises(UserError, match=r"BTAD has no direct download: ask.*--from FILE"):
        run(replace(SOURCE, get="ask the authors"))
    assert left(tmp_path) == []


def test_an_unpacked_folder_is_refused_with_a_hint(run, tmp_path):
    folder = tmp_path / "mine" / "BTech"
    (folder / "01").mkdir(parents=True)
    with pytest.raises(UserError, match=f"ln -s {folder} {tmp_path / 'raw' / 'btad'}$"):
        run(SOURCE, str(tmp_path / "mine"))
    with pytest.raises(UserError, match="a folder without any of 01, 02, 03"):
        run(SOURCE, str(tmp_path / "mine" / "BTech" / "01"))


@pytest.mark.parametrize("given", ["nowhere.zip", "ftp://example.org/btad.zip"])
def test_invalid_sources_are_refused(run, given):
    with pytest.raises(UserError, match=f"--from {given}: "):
        run(SOURCE, given)


def test_invalid_hashes_are_refused(run, zipped):
    with pytest.raises(UserError, match="'abc' is not a SHA-256"):
        run(SOURCE, str(zipped), sha256="abc")
    with pytest.raises(UserError, match="give it with --from"):
        run(SOURCE, sha256="0" * 64)


@pytest.mark.parametrize("what", ["folder", "empty", "file", "dangling"])
def test_an_existing_target_is_not_touched(run, zipped, tmp_path, what):
    target = tmp_path / "raw" / "btad"
    target.parent.mkdir()
    if what == "folder":
        (target / "01").mkdir(parents=True)
    elif what == "empty":
        target.mkdir()
    elif what == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    before = left(tmp_path)
    with pytest.raises(UserError, match="already exists and is not changed"):
        run(SOURCE, str(zipped))
    assert left(tmp_path) == before


def test_licence_must_be_accepted(run, zipped, tmp_path):
    with pytest.raises(UserError, match=r"https://example\.org/licence, then add --accept-licence"):
        run(SOURCE, str(zipped), accept_licence=False)
    with pytest.raises(UserError, match="not accepted, nothing was fetched"):
        run(SOURCE, str(zipped), accept_licence=False, ask=lambda question: "no")
    assert left(tmp_path) == []
    run(SOURCE, str(zipped), accept_licence=False, ask=lambda question: " Yes\n")
    record = json.loads((tmp_path / "raw/btad.fetch.json").read_text())
    assert record["licence"]["accepted"]["how"] == "typed yes"


@pytest.mark.parametrize("tree", [{"train/good/0.png": b"x"}, {"bottle/train/good/0.png": b"x"}])
def test_an_archive_of_another_dataset_is_refused(run, tmp_path, tree):
    archive = make_zip(tmp_path / "other.zip", tree)
    with pytest.raises(UserError, match=r"not BTAD: it holds .*, none of 01, 02, 03"):
        run(SOURCE, str(archive))
    assert left(tmp_path) == []


@pytest.mark.parametrize("known", [True, False])
def test_a_malicious_archive_leaves_no_dataset(run, server, tmp_path, known):
    body = make_zip(tmp_path / "bad", {**TREE, "../evil": b"evil"}).read_bytes()
    server.put("/bad.zip", body=body)
    how = {"sha256": digest(body)} if known else {}
    with pytest.raises(UserError, match="may lead outside"):
        run(SOURCE, server.url("/bad.zip"), **how)
    # An archive with the expected hash is kept for the next attempt.
    kept = [".archives", ".archives/btad", ".archives/btad/bad.zip"]
    assert left(tmp_path) == (kept if known else [])
    assert not (tmp_path / "evil").exists()


def test_leftovers_of_a_killed_run_are_removed(run, zipped, tmp_path):
    rest = tmp_path / "raw" / ".btad-unpacking.tmp" / "01"
    rest.mkdir(parents=True)
    (rest / "old.png").write_bytes(b"old")
    assert read_tree(run(SOURCE, str(zipped))) == TREE
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["btad", "btad.fetch.json"]


def test_concurrent_fetches_are_refused(run, zipped, tmp_path):
    store = tmp_path / "raw/.archives/btad"
    store.mkdir(parents=True)
    with FileLock(store / "lock"), pytest.raises(UserError, match="another `realnet data fetch`"):
        run(SOURCE, str(zipped))
    assert read_tree(run(SOURCE, str(zipped))) == TREE


def test_an_unknown_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no such published dataset; there are mvtec_ad, .*dtd\."):
        fetch("mvtec", tmp_path, Request())


# --- the table and the command -------------------------------------------------------------------


def test_table_of_archives_is_complete():
    table = sources()
    assert list(table) == ["mvtec_ad", "mpdd", "btad", "visa", "magnetic_tile", "dtd"]
    for name, source in table.items():
        assert all(url.startswith("https://") for url in (*source.urls, source.page))
        assert source.licence.url.startswith("https://")
        assert source.licence.use
        assert source.citation
        if name != "magnetic_tile":  # its categories are splits, not folders
            assert source.holds == KNOWN_CATEGORIES.get(name, ("images",))
        # A published archive has a hash; without a download there is a page. GitHub makes the
        # archive of magnetic_tile on request.
        assert bool(source.urls) != bool(source.get)
        assert bool(source.sha256) == (bool(source.urls) and name != "magnetic_tile")
        assert source.sha256 is None or re.fullmatch("[0-9a-f]{64}", source.sha256)


def command(tmp_path: Path, *words: str, stdin=subprocess.DEVNULL):
    return subprocess.run(
        [sys.executable, "-m", "realnet", "data", "fetch", *words, "--root", str(tmp_path / "raw")],
        capture_output=True,
        text=True,
        stdin=stdin,
        check=False,
    )


def test_command_without_a_terminal(tmp_path, zipped):
    shown = command(tmp_path, "mpdd")
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 1
    assert "https://github.com/stepanje/MPDD" in shown.stderr
    shown = command(tmp_path, "mpdd", "--from", str(zipped))
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 1
    assert "--accept-licence" in shown.stderr
    assert "licence:" in shown.stdout
    archive = make_zip(tmp_path / "mpdd.zip", {"MPDD/tubes/train/good/0.png": b"x"})
    shown = command(tmp_path, "mpdd", "--from", str(archive), "--accept-licence")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert (tmp_path / "raw/mpdd/tubes/train/good/0.png").is_file()


def test_command_asks_in_a_terminal(tmp_path):
    archive = make_zip(tmp_path / "mpdd.zip", {"MPDD/tubes/train/good/0.png": b"x"})
    words = [*("mpdd", "--from", str(archive), "--root", str(tmp_path / "raw"))]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "realnet", "data", "fetch", *words])
    seen = b""
    while b"Type yes: " not in seen and select.select([terminal], [], [], 60)[0]:
        seen += os.read(terminal, 65536)
    os.write(terminal, b"yes\n")
    with contextlib.suppress(OSError):  # the terminal closes with the process
        while data := os.read(terminal, 65536):
            seen += data
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, seen.decode()
    assert b"realnet data verify mpdd --root " in seen
    assert (tmp_path / "raw/mpdd/tubes/train/good/0.png").is_file()
