"""`realnet export-pairs`: the training's local anomalies as image + mask pairs.

The pairs are those that the training of RealNet sees with the same seed, in its order, without the
normal items. With a seed that no training used they are new ones from the same distribution.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from realnet.config.sections import OWN_MASKS
from realnet.config.stage_params import RealNetParams
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256, write_csv, write_json, write_png
from realnet.core.progress import progress
from realnet.datasets.images import load_images, read_image
from realnet.datasets.items import Item, read_manifest
from realnet.datasets.licence import terms
from realnet.provenance.record import Record
from realnet.stages.job import Job
from realnet.synthesis.pairs import Pair, draw_pairs
from realnet.synthesis.pools import NormalImages, build_pools
from realnet.synthesis.sources import SUFFIXES
from realnet.synthesis.synthesiser import AnomalySynthesiser, blend
from realnet.training.batches import shuffled_epochs

FIELDS = (
    *("index", "path", "mask", "source", "opacity", "normal", "source_path", "source_index"),
    *("seed", "item", "sha256", "mask_sha256"),
)
NORMAL_FIELDS = ("path", "normal", "sha256")
SHOWN = 24  # pairs on the contact sheet
Size = Literal["model", "original"]


@dataclass(frozen=True)
class SizedPair:
    """A pair at the size that is written."""

    pair: Pair
    normal: np.ndarray  # I, uint8 [H, W, 3]
    anomalous: np.ndarray  # A, uint8 [H, W, 3]
    mask: np.ndarray  # M, bool [H, W]


def export_pairs(
    job: Job[RealNetParams], count: int, size: Size = "model", with_normals: bool = False
) -> None:
    """Write ``test/<source>/NNN.png``, ``ground_truth/<source>/NNN_mask.png`` and their manifest.

    Inputs: ``manifest`` and, for the source `sdas`, ``images``: a folder of the stage `sdas` or
    `sia`. size: ``model`` is what the training sees; ``original`` blends at the size of each
    photograph. with_normals: also ``train/good`` and ``test/good``, so that the folder is a
    complete category. ``job.out`` appears when everything is written. The same seed gives the same
    files, and a smaller count the first of them.

    UserError: nothing to draw from, or a source without weight; ``job.out`` is not empty.
    """
    out, images = job.out, job.inputs.get("images")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: not empty; remove it or choose another --out")
    _check_source(job)
    items = read_manifest(job.inputs["manifest"])
    torch.set_num_threads(job.params.compute.threads)
    inputs = {"manifest": job.inputs["manifest"]}
    if images is not None:
        inputs["sdas"] = images / "manifest.csv"
    record = Record("pairs", job.params.model_dump(), inputs, **job.identity)
    normals = [item for item in items if item.split == "train"]
    if not normals:
        raise UserError(
            f"{job.inputs['manifest']}: lists no training images; prepare the category again"
        )
    origin = _origins(job, normals)
    pairs = _sized_pairs(job, normals, size)

    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        work.chmod(0o755)
        rows, shown = [], []
        for index, _ in progress(0, count, f"pairs {job.name}"):
            sized = next(pairs)
            rows.append(_write_pair(work, index, sized))
            rows[-1] |= {
                "normal": normals[sized.pair.normal].path.as_posix(),
                "source_path": origin(sized.pair),
                "seed": job.seed,
            }
            if index < SHOWN:
                shown.append(sized)
        write_csv(work / "manifest.csv", rows, FIELDS)
        _write_sheet(work / "pairs.png", shown, f"{job.name}, seed {job.seed}", count)
        if with_normals:
            _write_normals(work, items, job.params.data.image_size, size)
        sources = [row["source"] for row in rows]
        licences = (job.dataset, *(["dtd"] if "dtd" in sources else []))
        write_json(
            work / "pairs.json",
            {
                **job.identity,
                "pairs": len(rows),
                "size": size,
                "sources": {name: sources.count(name) for name in sorted(set(sources))},
                "images": images.as_posix() if images is not None else None,
                "licences": {name: terms(name) for name in licences},
            },
        )
        record.write(work, "cpu", images=count)
        if out.is_dir():
            out.rmdir()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sized_pairs(
    job: Job[RealNetParams], normals: Sequence[Item], size: Size
) -> Iterator[SizedPair]:
    """The pairs of the training of stage `realnet`, at the wanted size, without end."""
    params, side = job.params, job.params.data.image_size
    normal = NormalImages.load(normals, side, params.synthesis, job.dataset, job.category)
    pools = build_pools(
        *(params.synthesis, job.inputs.get("images"), job.seed, job.dataset, job.category, side),
        normal=normal,
    )
    names = ("realnet", job.dataset, job.category)
    batch_of = shuffled_epochs(
        *(len(normal), params.training.batch_size, job.seed, *names),
        short_last=params.training.epochs is not None,
    )
    synthesise = AnomalySynthesiser(params.synthesis, pools, job.seed, *names)
    pairs = draw_pairs(synthesise, normal, batch_of, params.training.batch_size)
    if size == "model":
        for pair in pairs:
            before, after = (
                image.permute(1, 2, 0).contiguous().numpy()
                for image in (normal.images[pair.normal], pair.image)
            )
            yield SizedPair(pair, before, after, pair.mask.numpy())
        return
    for pair in pairs:
        before = read_image(normals[pair.normal].path)
        after, mask = blend_at_size(pair, before, params.synthesis.rounding)
        if (after != before).any():  # a small mask may vanish in a smaller image
            yield SizedPair(pair, before, after, mask)


def blend_at_size(pair: Pair, normal: np.ndarray, rounding: str) -> tuple[np.ndarray, np.ndarray]:
    """A uint8 ``[H, W, 3]`` and M bool ``[H, W]`` of a pair, on its photograph ``[H, W, 3]``."""
    place = (normal.shape[1], normal.shape[0])
    # Half of the interpolated mask: where it is enlarged its outline is smooth, not of blocks.
    mask = cv2.resize(pair.mask.numpy().astype(np.float32), place) >= 0.5
    patch = cv2.resize(pair.patch.permute(1, 2, 0).contiguous().numpy(), place)
    image = normal.copy()
    below, above = torch.from_numpy(normal[mask]), torch.from_numpy(patch[mask])
    image[mask] = blend(below, above, torch.tensor(pair.opacity), rounding).numpy()
    return image, mask


def _write_pair(work: Path, index: int, sized: SizedPair) -> dict[str, str | int | float]:
    """Write image and mask; return their manifest fields."""
    pair, name = sized.pair, f"{index:03d}"
    path = f"test/{pair.source}/{name}.png"
    mask = f"ground_truth/{pair.source}/{name}_mask.png"
    write_png(work / path, sized.anomalous)
    write_png(work / mask, sized.mask.astype(np.uint8) * 255)
    return {
        "index": index,
        "path": path,
        "mask": mask,
        "source": pair.source,
        "opacity": pair.opacity,
        "source_index": pair.source_index,
        "item": pair.item,
        "sha256": sha256(work / path),
        "mask_sha256": sha256(work / mask),
    }


def _write_sheet(path: Path, shown: Sequence[SizedPair], title: str, total: int) -> None:
    from realnet.plots.pairs_sheet import pairs_sheet

    triples = [
        (
            *(sized.normal, sized.anomalous, sized.mask),
            f"{sized.pair.source}, {sized.pair.opacity:.2f}, {100 * sized.mask.mean():.1f} %",
        )
        for sized in shown
    ]
    pairs_sheet(path, triples, title, total)


# --- inputs --------------------------------------------------------------------------------------


def _check_source(job: Job[RealNetParams]) -> None:
    """UserError: images of another category, or images that no source uses."""
    images = job.inputs.get("images")
    if images is None:
        return
    if job.params.synthesis.sources.get("sdas", 0) <= 0:
        raise UserError(
            f"{images}: synthesis.sources has no weight for sdas, so these images are not used;"
            " omit --sdas and --sia, or choose another --variant"
        )
    if (images / "stage.json").is_file():
        stored = read_json(images / "stage.json")
        found = (stored.get("dataset"), stored.get("category"))
        if found != (job.dataset, job.category):
            raise UserError(f"{images}: images of {'/'.join(map(str, found))}, not of {job.name}")


def _origins(job: Job[RealNetParams], normals: Sequence[Item]) -> Callable[[Pair], str]:
    """The file that a pair's anomaly was taken from; "" for textures, which are procedural."""
    images = job.inputs.get("images")
    files: dict[str, list[str]] = {
        name: [item.path.as_posix() for item in normals] for name in OWN_MASKS
    }
    if images is not None:
        files["sdas"] = [
            (images / row["path"]).as_posix() for row in read_csv(images / "manifest.csv")
        ]
    dtd_root = job.params.synthesis.dtd_root
    if dtd_root is not None and job.params.synthesis.sources.get("dtd", 0) > 0:
        found = (Path(dtd_root) / "images").glob("*/*")
        files["dtd"] = sorted(p.as_posix() for p in found if p.suffix.lower() in SUFFIXES)
    return lambda pair: files[pair.source][pair.source_index] if pair.source in files else ""


def _write_normals(work: Path, items: Sequence[Item], side: int, size: Size) -> None:
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
