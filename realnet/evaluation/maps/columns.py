"""Labels and scores of whole images, from .npy or .csv files."""

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from realnet.core.errors import UserError
from realnet.core.io import read_csv
from realnet.evaluation.maps.files import STACKS, check_real, read_array
from realnet.evaluation.maps.folders import GOOD


class Labels(NamedTuple):
    """Labels of N images; None: the file has no such column."""

    anomalous: np.ndarray  # bool [N]
    defects: list[str] | None = None
    pixel_labelled: np.ndarray | None = None  # bool [N]


def read_labels(path: Path, count: int, names: Sequence[str] | None) -> Labels:
    """Labels of the images, and what else the file says of them.

    .npy: [N], > 0 is anomalous. .csv: a column ``label`` of numbers, or of defect types, where
    ``good`` is normal; optionally a column ``defect`` of defect types, and a column
    ``pixel_labelled``, 0 for images without pixel ground truth. ``names`` of the images, by
    which rows are found in a column ``path``; None: rows are in the order of the images.
    UserError: another number of labels, no label for an image, no number.
    """
    if path.suffix != ".csv":
        return Labels(_numbers(path, count, "labels") > 0)
    rows = _rows(path, "label", count, names)
    texts = [row["label"].strip() for row in rows]
    defects = [row["defect"] for row in rows] if "defect" in rows[0] else None
    labelled = None
    if "pixel_labelled" in rows[0]:
        given = [row["pixel_labelled"] for row in rows]
        for wrong in (text for text in given if text not in ("0", "1")):
            raise UserError(f"{path}: pixel_labelled {wrong!r} is not 0 or 1")
        labelled = np.array([text == "1" for text in given])
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        if "" in texts:
            raise UserError(f"{path}: line {texts.index('') + 2} has no label") from None
        return Labels(np.array([text != GOOD for text in texts]), texts, labelled)
    if np.isnan(values).any():
        raise UserError(f"{path}: a label is NaN")
    return Labels(values > 0, defects, labelled)


def read_scores(path: Path, count: int, names: Sequence[str] | None) -> np.ndarray:
    """float64 [N], of a .npy or of the column ``score``. UserError: as above; NaN."""
    if path.suffix != ".csv":
        return _numbers(path, count, "image scores").astype(np.float64)
    result = []
    for row in _rows(path, "score", count, names):
        try:
            result.append(float(row["score"]))
        except ValueError:
            raise UserError(f"{path}: score {row['score']!r} is not a number") from None
        if math.isnan(result[-1]):
            raise UserError(f"{path}: a score is NaN")
    return np.array(result)


def _numbers(path: Path, count: int, what: str) -> np.ndarray:
    if path.suffix not in STACKS and ".npz:" not in str(path):
        raise UserError(f"{path}: unknown type of file for {what}; expected .npy or .csv")
    values = read_array(path)
    check_real(path, values)
    if values.shape != (count,):
        raise UserError(
            f"{path}: {what} of shape {values.shape}; expected ({count},), one per image"
        )
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UserError(f"{path}: {what} contain NaN, the first at {np.isnan(values).argmax()}")
    return np.asarray(values)


def _rows(path: Path, column: str, count: int, names: Sequence[str] | None) -> list[dict[str, str]]:
    """One row per image, in the order of the images."""
    rows = read_csv(path)
    wanted = [column] if names is None else ["path", column]
    has = list(rows[0]) if rows else []
    absent = [name for name in wanted if name not in has]
    if absent:
        raise UserError(
            f"{path}: no column {absent[0]}; expected a header with {' and '.join(wanted)},"
            f" found {', '.join(map(str, has)) or 'no rows'}"
        )
    for line, row in enumerate(rows, start=2):
        if any(row[name] is None for name in wanted):
            raise UserError(f"{path}: line {line} has fewer columns than the header")
    if names is None:
        if len(rows) != count:
            raise UserError(f"{path}: {len(rows)} rows for {count} images; expected one per image")
        return rows
    return [rows[index] for index in _places(path, rows, names)]


def _places(path: Path, rows: list[dict[str, str]], names: Sequence[str]) -> list[int]:
    """Index of the row of each name: the one whose path, without extension, ends with it."""
    by_stem: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    for index, row in enumerate(rows):
        place = PurePosixPath(row["path"].replace("\\", "/"))
        parts = place.with_suffix("").parts if place.name else ()
        if parts:
            by_stem.setdefault(parts[-1], []).append((index, parts))
    result = []
    for name in names:
        parts = PurePosixPath(name).parts
        same = by_stem.get(parts[-1], [])
        found = [index for index, given in same if given[-len(parts) :] == parts]
        if len(found) != 1:
            raise UserError(
                f"{path}: {len(found) or 'no'} row{'s' * (len(found) > 1)} with a path"
                f" for {name}; expected one"
            )
        result.append(found[0])
    return result
