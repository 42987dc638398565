"""MLflow's client: the address of the store, and its errors in one line."""

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
    """The store's address for messages and files: without a user name and password."""
    scheme, mark, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"


def connect(uri: str) -> Any:
    """A client of the store, with its registry in the same place. Importing MLflow takes 1 s."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("alembic", "mlflow.store.db.utils"):  # log lines about the creation of a database
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if database(uri) and not event.contains(Engine, "connect", _no_waiting):
        event.listen(Engine, "connect", _no_waiting)
    return MlflowClient(uri, registry_uri=uri)


def _no_waiting(connection: Any, _: Any) -> None:
    """Do not wait for the disk at each of some thousand small writes.

    With the write-ahead log a power cut may lose the last runs, which are written again by the next
    `realnet track`, but does not corrupt the database.
    """
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA synchronous=NORMAL")


class StoreError(UserError):
    """The store does not answer, or cannot be read or written now; the results are unaffected."""


@contextlib.contextmanager
def plainly(uri: str) -> Iterator[None]:
    """Errors of MLflow and its database as one line.

    What was written before the error is kept: the next :func:`realnet.tracking.track` continues.

    Raises:
        StoreError: the store does not answer, or cannot be read or written.
        UserError: not the address of a store.
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
                "no answer; the results do not depend on it, `realnet track` updates it once it"
                " answers"
            )
        raise StoreError(f"{place}: {reason[:300]}") from None


def usable(uri: str, seconds: float = 30) -> None:
    """Check that an SQLite file can be written, since MLflow would retry for two minutes.

    ``seconds``: how long to wait for another writer.

    Raises:
        sqlite3.Error: it cannot be read or written.
    """
    if file := database(uri):
        with contextlib.closing(sqlite3.connect(file, timeout=seconds)) as opened:
            opened.execute("PRAGMA schema_version").fetchone()  # reads, to notice corruption
            opened.execute("BEGIN IMMEDIATE")
            opened.rollback()


def database(uri: str) -> Path | None:
    """The file of an SQLite store; None for other stores."""
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
