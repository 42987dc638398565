"""The code of a registered model, which MLflow runs when the model is loaded.

Nothing is pickled: the model's folder has this file, the package, and the detector's files.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

EXPECTED = (
    "expected uint8 images [H, W, 3] or [N, H, W, 3] in RGB, a list of images or of paths, or a"
    " DataFrame with a column `path`"
)


class Served(PythonModel):
    """An anomaly detector: input images, output scores and anomaly maps."""

    def load_context(self, context: Any) -> None:
        """Load the detector, from the model's folder or from ``folder`` of its settings.

        Settings are given to :func:`mlflow.pyfunc.load_model` as ``model_config``.
        """
        from realnet.compute.runtime import start
        from realnet.config.sections import Compute
        from realnet.detectors.loading import load

        self.settings = context.model_config
        compute = {name: self.settings[name] for name in ("device", "precision", "threads")}
        self.runtime = start(
            Compute(**compute, channels_last="auto", compile=False, processes=1),
        )
        folder = self.settings.get("folder") or context.artifacts["detector"]
        self.detector = load(folder, self.runtime)

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Per image ``score`` float64 ``[N]``, ``map`` and ``margin`` float32 ``[N, S, S]``.

        ``model_input``: an RGB image uint8 ``[H, W, 3]`` of any size, a batch ``[N, H, W, 3]``, a
        list of images or of paths, or a DataFrame of paths in its column ``path`` (or its only
        column). ``map`` is the paper's anomaly map in [0, 1] at the model's input size S,
        ``margin`` its logit, which never saturates, and ``score`` the maximum of the map after
        averaging windows of ``params["image_score_pool"]`` pixels (default: as evaluated). For
        PatchCore both maps are its distances, and the score is PatchCore's. Bit-identical to
        `realnet predict`.

        Raises:
            UserError: another type or shape of input, or an image that cannot be read.
        """
        import torch

        pool = (params or {}).get("image_score_pool") or self.settings["image_score_pool"]
        size, batch = self.detector.image_size, self.settings["batch_size"]
        pictures = [_squashed(image, size) for image in _images(model_input)]
        nothing = np.empty((0, size, size), np.float32)
        margins: list[np.ndarray] = [nothing]
        levels: list[np.ndarray] = [nothing]
        scores: list[np.ndarray] = [np.empty(0)]
        for i in range(0, len(pictures), batch):
            pixels = torch.from_numpy(np.stack(pictures[i : i + batch]))
            found, score = self.detector.predict(pixels, self.runtime, batch, pool)
            margins.append(found.numpy())
            levels.append(self.detector.maps(found).numpy())
            scores.append(score)
        names = {"score": scores, "map": levels, "margin": margins}
        return {name: np.concatenate(parts) for name, parts in names.items()}


def _squashed(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 ``[3, S, S]``, as the stages resize their images."""
    from PIL import Image

    small = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.array(small).transpose(2, 0, 1))


def _images(given: Any) -> Iterator[np.ndarray]:
    """uint8 ``[H, W, 3]`` of each image in any of the forms that ``predict`` takes."""
    from realnet.core.errors import UserError
    from realnet.datasets.images import read_image

    if hasattr(given, "columns"):  # a DataFrame
        if "path" not in given.columns and len(given.columns) != 1:
            raise UserError(f"columns {', '.join(map(str, given.columns))}: {EXPECTED}")
        given = given["path" if "path" in given.columns else given.columns[0]].tolist()
    if isinstance(given, str | Path):
        yield read_image(given)
        return
    if isinstance(given, np.ndarray) and given.dtype.kind in "OUS":
        given = given.tolist()
    if isinstance(given, list | tuple) and given and isinstance(given[0], str | Path):
        for path in given:
            yield read_image(path)
        return
    if isinstance(given, list | tuple) and given and np.ndim(given[0]) == 3:
        for image in given:  # each of its own size
            yield from _images(np.asarray(image))
        return
    pixels = np.asarray(given)
    if pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        raise UserError(f"an array of shape {list(pixels.shape)}: {EXPECTED}")
    whole = pixels.dtype.kind in "iu"
    if not whole or (pixels.size and (pixels.min() < 0 or pixels.max() > 255)):
        raise UserError(f"an array of {pixels.dtype}, not of integers 0..255: {EXPECTED}")
    yield from pixels.astype(np.uint8).reshape(-1, *pixels.shape[-3:])


set_model(Served())
