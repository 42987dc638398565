"""Input of `realnet metrics`: N images with maps, masks and labels, read one at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from realnet.core.errors import UserError
from realnet.evaluation.maps.columns import read_labels, read_scores
from realnet.evaluation.maps.files import (
    named_array,
    read_array,
    read_arrays,
    read_map,
    read_truth,
    resize_map,
    resize_mask,
    stack,
)
from realnet.evaluation.maps.folders import GOOD, pairs
from realnet.evaluation.maps.request import Request
from realnet.evaluation.stored import pixel_labelled
from realnet.metrics import label_regions

BATCH_PIXELS = 2**24  # 64 MB of float32 maps at a time


@dataclass(frozen=True)
class Images:
    """N images; ``labels``, ``defects``, ``scores`` are None where they follow from the maps and
    masks, ``pixel_labelled`` where all images have a pixel ground truth."""

    names: Sequence[str]  # for messages: a file, or FILE[index]
    map_of: Callable[[int], np.ndarray]  # index -> [h, w], any real dtype
    mask_of: Callable[[int], np.ndarray | None] | None  # index -> bool [H, W]; None: no masks
    labels: np.ndarray | None = None  # bool [N]
    defects: list[str] | None = None  # the defect types, GOOD for normal images
    scores: np.ndarray | None = None  # float64 [N], of whole images
    without_mask: frozenset[int] = frozenset()  # indices of images without a mask
    pixel_labelled: np.ndarray | None = None  # bool [N]
    logits: bool = False  # the maps are logit margins: the sigmoid is the probability


def open_images(request: Request) -> Images:
    """The images of a request. UserError: inputs that do not match."""
    scores, masks, labels = request.scores, request.masks, request.labels
    if scores.is_dir():
        names, images = _from_folder(request)
    elif request.suffix or request.subset:
        raise UserError(f"{scores}: --suffix and --subset are for folders of maps")
    elif masks is None and labels is None and scores.suffix != ".npz":
        raise UserError(
            f"{scores}: give the file of the masks too, or a scores.npz;"
            " or --labels, for metrics of images alone"
        )
    elif masks is None and _of_evaluation(scores, labels):
        stored_scores = request.pool is None and request.image_scores is None
        names, images = None, _from_evaluation(scores, stored_scores)
    else:
        names, images = None, _from_stacks(scores, masks)
    count = len(images.names)
    if labels is not None:
        given = read_labels(labels, count, names)
        truth, labelled = given.anomalous, given.pixel_labelled
        defects = given.defects or _agreeing(images.defects, truth)
        labelled = images.pixel_labelled if labelled is None else labelled
        images = replace(images, labels=truth, defects=defects, pixel_labelled=labelled)
        expected = truth if labelled is None else truth & labelled
        bare = [k for k in np.flatnonzero(expected).tolist() if k in images.without_mask]
        if bare:
            raise UserError(f"{images.names[bare[0]]}: anomalous in {labels}, but without a mask")
    if request.image_scores is not None:
        images = replace(images, scores=read_scores(request.image_scores, count, names))
    return images


def _of_evaluation(scores: Path, labels: Path | None) -> bool:
    return scores.suffix == ".npz" and (labels is None or "margins" in read_arrays(scores))


def _agreeing(defects: list[str] | None, labels: np.ndarray) -> list[str] | None:
    """The defect types, or None where they contradict the labels."""
    fits = defects is not None and [defect != GOOD for defect in defects] == labels.tolist()
    return defects if fits else None


def _from_folder(request: Request) -> tuple[list[str], Images]:
    folder, masks, labelled = request.scores, request.masks, request.labels is not None
    if masks is not None and masks.is_file():
        raise UserError(f"{masks}: a file, beside a folder of maps; expected a folder of masks")
    found = pairs(folder, masks, labelled, request.suffix, request.subset)
    defects = [pair.defect for pair in found]
    if masks is None and not labelled and "" in defects:
        raise UserError(
            f"{folder}: which images are anomalous? Give masks, --labels, or one folder for each"
            f" defect type, with the normal ones in {GOOD}"
        )

    def mask_of(index: int) -> np.ndarray | None:
        mask = found[index].mask
        return None if mask is None else read_truth(mask)

    known = "" not in defects
    images = Images(
        names=[str(pair.map) for pair in found],
        map_of=lambda index: read_map(found[index].map),
        mask_of=mask_of if masks is not None else None,
        without_mask=frozenset(
            k for k, pair in enumerate(found) if masks is not None and pair.mask is None
        ),
        labels=np.array([defect != GOOD for defect in defects]) if known else None,
        defects=defects if known else None,
    )
    return [pair.name for pair in found], images


def _from_evaluation(path: Path, stored_scores: bool) -> Images:
    """The images of a scores.npz that the stage `evaluate` wrote."""
    stored = read_arrays(path)
    absent = {"margins", "masks", "labels", "image_scores"} - set(stored)
    if absent:
        raise UserError(
            f"{path}: has no array {min(absent)}; not a scores.npz. Of other files, name the array:"
            f" {path}:NAME, and the masks"
        )
    maps, masks = stack(path, stored["margins"]), stack(path, stored["masks"])
    dtypes = {"labels": "fiub", "image_scores": "fiub", "defects": "U", "has_masks": "b"}
    dtypes["pixel_labelled"] = "b"
    for name in sorted(set(dtypes) & set(stored)):
        _check_column(path, name, stored[name], dtypes[name], maps, masks)
    images = _stacked(path, maps, path, masks)
    return replace(
        images,
        labels=stored["labels"] > 0,
        defects=stored["defects"].tolist() if "defects" in stored else None,
        scores=stored["image_scores"] if stored_scores else None,
        pixel_labelled=pixel_labelled(stored),
        mask_of=images.mask_of if stored.get("has_masks", True) else None,
        logits=True,
    )


def _check_column(
    path: Path, name: str, values: np.ndarray, dtypes: str, maps: np.ndarray, masks: np.ndarray
) -> None:
    """UserError: another shape or dtype than the evaluation writes; NaN."""
    shape = () if name == "has_masks" else (len(maps),)
    if values.shape != shape or values.dtype.kind not in dtypes or len(masks) != len(maps):
        raise UserError(
            f"{path}: {len(maps)} maps and {len(masks)} masks, array {name} of shape"
            f" {values.shape} and dtype {values.dtype}; not a scores.npz"
        )
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UserError(f"{path}: array {name} contains NaN")


def _from_stacks(scores: Path, masks: Path | None) -> Images:
    maps = stack(scores, read_array(scores))
    if masks is None:
        return _stacked(scores, maps, None, None)
    if masks.is_dir():
        raise UserError(f"{masks}: a folder, beside a stack of maps; expected .npy or .npz")
    truth = stack(masks, read_array(masks))
    if len(truth) != len(maps):
        raise UserError(
            f"{scores}: {len(maps)} maps, but {masks} has {len(truth)} masks; expected as many"
        )
    return _stacked(scores, maps, masks, truth)


def _stacked(
    path: Path, maps: np.ndarray, mask_path: Path | None, masks: np.ndarray | None
) -> Images:
    name = named_array(path)[0]
    return Images(
        names=[f"{name}[{index}]" for index in range(len(maps))],
        map_of=lambda index: np.asarray(maps[index]),
        mask_of=None if masks is None else partial(_mask_of, mask_path, masks),
    )


def _mask_of(path: Path | None, masks: np.ndarray, index: int) -> np.ndarray:
    values = np.asarray(masks[index])
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UserError(f"{path}[{index}]: the mask contains NaN")
    return values > 0


class Reader:
    """Reads the maps and masks of an :class:`Images` in checked batches of one size.

    ``resize``: "masks" to the size of the maps (nearest), "maps" to that of the masks (bilinear),
    or None, where different sizes are an error.
    """

    def __init__(self, images: Images, resize: str | None = None):
        self.images, self.resize = images, resize
        labelled = images.pixel_labelled
        self.pixel_labelled = np.ones(len(images.names), bool) if labelled is None else labelled
        self.size = self._mask_size() if resize == "maps" else None
        self.dtype: np.dtype | None = None  # of the maps, as they were read
        self.full_size: dict[int, int] = {}  # image -> regions of its mask before it was resized
        self.lost: set[int] = set()  # images whose defect vanished by resizing
        self._kept: tuple[int, np.ndarray, np.ndarray] | None = None

    def batches(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(index of the first image, maps [B, H, W], masks bool [B, H, W]). Each call reads the
        files again, unless all fit into one batch. UserError: NaN, sizes, dtypes."""
        if self._kept:
            yield self._kept
            return
        count, start = len(self.images.names), 0
        read: list[tuple[np.ndarray, np.ndarray]] = []
        for index in range(count):
            read.append(self._pair(index))
            if index == count - 1 or len(read) * read[0][0].size >= BATCH_PIXELS:
                maps, masks = (np.stack(part) for part in zip(*read, strict=True))
                if len(read) == count:
                    self._kept = (0, maps, masks)
                yield start, maps, masks
                start, read = index + 1, []

    def _pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        name = self.images.names[index]
        values = self.images.map_of(index)
        self._check(name, values)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        mask = self._mask(index)
        if mask is not None and mask.shape != values.shape and self.resize == "masks":
            mask = self._shrunk(index, mask, values.shape)
        if self.resize == "maps" and self.size and values.shape != self.size:
            values = resize_map(values, *self.size)
        if mask is not None and mask.shape != values.shape:
            advice = "resize one with --resize-maps (bilinear) or --resize-masks (nearest)"
            if self.resize == "maps":
                advice = "expected masks of one size"
            raise UserError(
                f"{name}: {_text(values.shape)} pixels, its mask {_text(mask.shape)}; {advice}"
            )
        if self.size not in (None, values.shape):
            raise UserError(
                f"{name}: {_text(values.shape)} pixels, those before {_text(self.size)};"
                " expected maps of one size"
            )
        self.size = values.shape
        return values, np.zeros(values.shape, bool) if mask is None else mask

    def _check(self, name: str, values: np.ndarray) -> None:
        if values.dtype.kind == "f" and np.isnan(values).any():
            count = int(np.isnan(values).sum())
            raise UserError(
                f"{name}: the map contains NaN ({count} pixels): did the model diverge?"
            )
        before = self.dtype or values.dtype
        # Maps of 8 and 16 bits, or of integers and floats, have no common scale.
        if values.dtype.kind != before.kind or (before.kind != "f" and values.dtype != before):
            raise UserError(
                f"{name}: dtype {values.dtype}, those before {before}; expected one dtype"
            )
        self.dtype = before

    def _shrunk(self, index: int, mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        small = resize_mask(mask, *shape)
        if index not in self.full_size:
            self.full_size[index] = label_regions(mask[None]).count
            if mask.any() and not small.any():
                self.lost.add(index)
        return small

    def _mask_size(self) -> tuple[int, int] | None:
        """Size of the first mask; normal images may have none."""
        for index in range(len(self.images.names)):
            mask = self._mask(index)
            if mask is not None:
                return mask.shape
        return None

    def _mask(self, index: int) -> np.ndarray | None:
        """The mask of an image; None without one, or without pixel ground truth."""
        mask_of = self.images.mask_of
        return mask_of(index) if mask_of is not None and self.pixel_labelled[index] else None


def _text(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
