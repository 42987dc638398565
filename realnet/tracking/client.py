"""MLflow's client: where the store is, and its errors in one line."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from realnet.core.errors import UserError

DEFAULT_URI = "sqlite:///mlflow.db"
LOCAL = "sqlite:///"


def store_uri() -> str:
    """MLFLOW_TRACKING_URI, else ``mlflow.db`` in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def without_password(uri: str) -> str:
    """The store for messages and files: without the name and password that an address may have."""
    scheme, mark, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"


def connect(uri: str) -> Any:
    """A client of the store, its registry in the same place. Importing MLflow takes a second."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("alembic", "mlflow.store.db.utils"):  # lines on the making of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if database(uri) and not event.contains(Engine, "connect", _no_waiting):
        event.listen(Engine, "connect", _no_waiting)
    return MlflowClient(uri, registry_uri=uri)


def _no_waiting(connection: Any, _: Any) -> None:
    """Do not wait for the disk at every one of some thousand small writes.

    With the write-ahead log a power cut may lose the last runs, which are written again, but not
    the database.
    """
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA synchronous=NORMAL")


class StoreError(UserError):
    """The store does not answer, or cannot be read or written now; the results need none."""


@contextlib.contextmanager
def plainly(uri: str) -> Iterator[None]:
    """What goes wrong in here as one line: a StoreError; a UserError for an address that is none.

    Nothing of what is written so far is lost: the next :func:`realnet.tracking.track` goes on.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    place = f"MLflow at {without_password(uri)} (MLFLOW_TRACKING_URI)"
    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = " ".join(str(error).split()).replace(uri, without_password(uri))
        if isinstance(error, UnsupportedModelRegistryStoreURIException):
            raise UserError(f"{place}: {reason[:300]}") from None
        if "Max retries exceeded" in reason or "Connection" in reason:
            reason = (
                "no answer; the results need no MLflow,"
                " `realnet track` brings it up to date when it is there"
            )
        raise StoreError(f"{place}: {reason[:300]}") from None


def usable(uri: str, seconds: float = 30) -> None:
    """sqlite3.Error at once where the file cannot be written; MLflow would try for two minutes.

    ``seconds``: how long to wait for another writer.
    """
    if file := database(uri):
        with contextlib.closing(sqlite3.connect(file, timeout=seconds)) as opened:
            opened.execute("PRAGMA schema_version").fetchone()  # reads, so that damage is seen
            opened.execute("BEGIN IMMEDIATE")
            opened.rollback()


def database(uri: str) -> Path | None:
    """The file of an SQLite store."""
    return Path(uri.removeprefix(LOCAL)) if uri.startswith(LOCAL) else None


def all_pages(search: Any, **query: Any) -> Iterator[Any]:
    """Every item of one of the client's paged searches."""
    token = None
    while True:
        page = search(**query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
