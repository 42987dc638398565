"""Image + mask pairs: the local anomalies of the training, written to files for other detectors.

The pairs are those that the training of RealNet sees with the same seed, in its order, without the
items that stay as they are. With a seed that no training used they are fresh ones of the same kind.
"""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch

from realnet.config.sections import OWN_MASKS
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256, write_csv, write_json, write_png
from realnet.core.progress import progress
from realnet.datasets.images import load_images, read_image
from realnet.datasets.items import Item, read_manifest
from realnet.datasets.licence import terms
from realnet.plots.pairs_sheet import pairs_sheet
from realnet.provenance.record import Record
from realnet.synthesis.pools import build_pools, training_foregrounds
from realnet.synthesis.sources import SUFFIXES
from realnet.synthesis.synthesiser import AnomalySynthesiser, blend
from realnet.training.batches import shuffled_epochs

FIELDS = (
    *("index", "path", "mask", "source", "opacity", "normal", "source_path", "source_index"),
    *("seed", "item", "sha256", "mask_sha256"),
)
NORMAL_FIELDS = ("path", "normal", "sha256")
PATIENCE = 4000  # items without an anomaly, one after the other, before it is called off
SHOWN = 24  # pairs on the contact sheet


@dataclass(frozen=True)
class Pair:
    """One anomalous item of the training."""

    item: int  # its number in the training
    normal: int  # of the normal training images, in the manifest's order
    source: str  # "sdas", "texture", "dtd", "cutpaste" or "nsa"
    chosen: int  # of the source's images; of the normal ones for cutpaste and nsa
    opacity: float  # delta; 1 for cutpaste and nsa
    image: torch.Tensor  # A, uint8 [3, S, S]
    mask: torch.Tensor  # M, bool [S, S], not empty
    patch: torch.Tensor  # P, uint8 [3, S, S]; A for cutpaste and nsa


def export_pairs(
    stage: Any,
    manifest: Path,
    images: Path | None,
    dataset: str,
    category: str,
    count: int,
    seed: int,
    out: Path,
    size: Literal["model", "original"] = "model",
    with_normals: bool = False,
) -> None:
    """Write ``test/<source>/NNN.png``, ``ground_truth/<source>/NNN_mask.png`` and their manifest.

    images: folder of the stage `sdas` or `sia`, for the source `sdas`. size: ``model`` is what the
    training sees; ``original`` blends at the size of each photograph. with_normals: also
    ``train/good`` and ``test/good``, so that the folder is a complete category.
    ``out`` appears when everything is written. The same seed gives the same files, and a smaller
    count the first of them.

    UserError: nothing to draw from, or too much of it; ``out`` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there is something already; remove it or choose another --out")
    _check_source(stage, images, dataset, category)
    items = read_manifest(manifest)
    torch.set_num_threads(stage.compute.threads)
    inputs = {"manifest": manifest}
    if images is not None:
        inputs["sdas"] = images / "manifest.csv"
    record = Record(
        "pairs", stage.model_dump(), inputs, dataset=dataset, category=category, seed=seed
    )
    normals = [item for item in items if item.split == "train"]
    if not normals:
        raise UserError(f"{manifest}: lists no training images; prepare the category again")
    origin = _origins(stage, images, normals)
    pixels = load_images(normals, stage.data.image_size)
    pools = build_pools(
        *(stage.synthesis, images, seed, dataset, category, stage.data.image_size),
        normal=pixels,
        covers=training_foregrounds(pixels, stage.synthesis, dataset, category),
    )
    pairs = draw_pairs(stage, pixels, pools, seed, dataset, category)

    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        work.chmod(0o755)
        rows, shown = [], []
        for index, _ in progress(0, count, f"pairs {dataset}/{category}"):
            pair, before, image, mask = _sized(
                pairs, normals, pixels, size, stage.synthesis.rounding
            )
            name = f"{index:03d}"
            paths = {
                "path": f"test/{pair.source}/{name}.png",
                "mask": f"ground_truth/{pair.source}/{name}_mask.png",
            }
            write_png(work / paths["path"], image)
            write_png(work / paths["mask"], mask.astype(np.uint8) * 255)
            rows.append(
                {
                    "index": index,
                    **paths,
                    "source": pair.source,
                    "opacity": pair.opacity,
                    "normal": normals[pair.normal].path.as_posix(),
                    "source_path": origin(pair),
                    "source_index": pair.chosen,
                    "seed": seed,
                    "item": pair.item,
                    "sha256": sha256(work / paths["path"]),
                    "mask_sha256": sha256(work / paths["mask"]),
                }
            )
            if index < SHOWN:
                words = f"{pair.source}, {pair.opacity:.2f}, {100 * mask.mean():.1f} %"
                shown.append((before, image, mask, words))
        write_csv(work / "manifest.csv", rows, FIELDS)
        pairs_sheet(work / "pairs.png", shown, f"{dataset}/{category}, seed {seed}", count)
        if with_normals:
            _write_normals(work, items, stage.data.image_size, size)
        write_json(work / "pairs.json", _summary(rows, dataset, category, seed, size, images))
        record.write(work, "cpu", images=count)
        if out.is_dir():
            out.rmdir()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def draw_pairs(
    stage: Any,
    normal: torch.Tensor,
    pools: dict[str, torch.Tensor],
    seed: int,
    dataset: str,
    category: str,
) -> Iterator[Pair]:
    """The anomalous items of the stage `realnet`, batch after batch, without end.

    normal: the training images, uint8 ``[N, 3, S, S]``; pools: as of ``build_pools``. Everything
    is computed on the CPU (a GPU may differ in single pixels at the rim of a mask).

    UserError where the items go on without an anomaly.
    """
    names = ("realnet", dataset, category)
    synthesise = AnomalySynthesiser(stage.synthesis, pools, seed, *names)
    covers = training_foregrounds(normal, stage.synthesis, dataset, category)
    size = stage.training.batch_size
    short_last = stage.training.epochs is not None
    batch_of = shuffled_epochs(len(normal), size, seed, *names, short_last=short_last)
    waited = 0
    for step in itertools.count():
        chosen = batch_of(step)
        drawn = synthesise(normal[chosen], covers[chosen], step * size)
        items = range(step * size, step * size + len(chosen))
        # The draws behind the batch, which it does not tell itself.
        uniforms = synthesise._uniforms(items, attempt=0)
        kinds = torch.searchsorted(synthesise.cumulative, uniforms[:, 0].contiguous(), right=True)
        for row, item in enumerate(items):
            source = synthesise.kinds[min(int(kinds[row]), len(synthesise.kinds) - 1)]
            # An opacity may be too low for the smallest of masks to change a grey level.
            changed = not torch.equal(drawn.images[row], normal[chosen[row]])
            if source == "normal" or not (changed and drawn.masks[row].any()):
                waited += 1
                continue
            waited = 0
            made = {
                "item": item,
                "normal": int(chosen[row]),
                "source": source,
                "image": drawn.images[row],
                "mask": drawn.masks[row],
            }
            if source in OWN_MASKS:
                number = int(chosen[row])
                if source == "nsa":
                    number = synthesise.other(normal[number], uniforms[row])
                yield Pair(**made, chosen=number, opacity=1.0, patch=drawn.images[row])
                continue
            low, high = stage.synthesis.opacity[source]
            pool, places = synthesise._patches(source, torch.tensor([row]), uniforms, items)
            number = min(int(uniforms[row, 1] * len(pools[source])), len(pools[source]) - 1)
            yield Pair(
                **made,
                chosen=number,
                opacity=float(low + (high - low) * uniforms[row, 2]),
                patch=pool[places[row]].cpu(),
            )
        if waited > PATIENCE:
            raise UserError(
                f"{dataset}/{category}: no anomaly among the last {waited} items; give a source"
                " other than normal more weight (synthesis.sources), or look at the foregrounds"
                " (`realnet data foregrounds`)"
            )


def _sized(
    pairs: Iterator[Pair],
    normals: Sequence[Item],
    pixels: torch.Tensor,
    size: str,
    rounding: str,
) -> tuple[Pair, np.ndarray, np.ndarray, np.ndarray]:
    """The next pair with I, A (uint8 ``[H, W, 3]``) and M (bool ``[H, W]``) at the wanted size."""
    for pair in pairs:
        if size == "model":
            before = pixels[pair.normal].permute(1, 2, 0).contiguous().numpy()
            return pair, before, pair.image.permute(1, 2, 0).contiguous().numpy(), pair.mask.numpy()
        before = read_image(normals[pair.normal].path)
        place = (before.shape[1], before.shape[0])
        # Half of the interpolated mask: where it is enlarged its outline is smooth, not of blocks.
        mask = cv2.resize(pair.mask.numpy().astype(np.float32), place) >= 0.5
        patch = cv2.resize(pair.patch.permute(1, 2, 0).contiguous().numpy(), place)
        image = before.copy()
        inside = [torch.from_numpy(picture[mask]) for picture in (before, patch)]
        image[mask] = blend(*inside, torch.tensor(pair.opacity), rounding).numpy()
        if (image != before).any():  # or the speck was lost on the way to a smaller image
            return pair, before, image, mask
    raise AssertionError("draw_pairs ended")


# --- where things come from ----------------------------------------------------------------------


def _check_source(stage: Any, images: Path | None, dataset: str, category: str) -> None:
    """UserError: images of another category, or images that no pair would be made of."""
    if images is None:
        return
    if stage.synthesis.sources.get("sdas", 0) <= 0:
        raise UserError(
            f"{images}: synthesis.sources gives sdas no weight, so these images are not used; leave"
            " --sdas and --sia away, or choose another --variant"
        )
    if (images / "stage.json").is_file():
        made = read_json(images / "stage.json")
        found = (made.get("dataset"), made.get("category"))
        if found != (dataset, category):
            raise UserError(
                f"{images}: images of {'/'.join(map(str, found))}, not of {dataset}/{category}"
            )


def _origins(stage: Any, images: Path | None, normals: Sequence[Item]) -> Callable[[Pair], str]:
    """The file that a pair's anomaly was taken from; "" for textures, which are drawn."""
    files: dict[str, list[str]] = {
        name: [item.path.as_posix() for item in normals] for name in OWN_MASKS
    }
    if images is not None:
        files["sdas"] = [
            (images / row["path"]).as_posix() for row in read_csv(images / "manifest.csv")
        ]
    if stage.synthesis.sources.get("dtd", 0) > 0:
        found = (Path(stage.synthesis.dtd_root) / "images").glob("*/*")
        files["dtd"] = sorted(p.as_posix() for p in found if p.suffix.lower() in SUFFIXES)
    return lambda pair: files[pair.source][pair.chosen] if pair.source in files else ""


def _summary(
    rows: list[dict], dataset: str, category: str, seed: int, size: str, images: Path | None
) -> dict[str, Any]:
    kinds = [row["source"] for row in rows]
    return {
        "dataset": dataset,
        "category": category,
        "seed": seed,
        "pairs": len(rows),
        "size": size,
        "sources": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "images": images.as_posix() if images is not None else None,
        "licences": {name: terms(name) for name in (dataset, *(["dtd"] if "dtd" in kinds else []))},
    }


def _write_normals(work: Path, items: Sequence[Item], side: int, size: str) -> None:
    """``train/good`` and ``test/good``: at the model's size as PNG, or the files as they are."""
    rows = []
    for split in ("train", "test"):
        good = [item for item in items if item.split == split and not item.label]
        for number, item in enumerate(good):
            suffix = ".png" if size == "model" else item.path.suffix
            path = f"{split}/good/{number:03d}{suffix}"
            if size == "model":
                write_png(work / path, load_images([item], side)[0].permute(1, 2, 0).numpy())
            else:
                (work / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(item.path, work / path)
            digest = sha256(work / path)
            rows.append({"path": path, "normal": item.path.as_posix(), "sha256": digest})
    write_csv(work / "normals.csv", rows, NORMAL_FIELDS)
