"""`realnet cost`: parameters, MACs, speed and memory of each network.

Counted on the meta device, without allocation: parameters, and multiply-accumulates of one forward
pass per image (convolutions, matrix products and attention; `torch.utils.flop_counter`).
Measured on this machine, each task in its own process, so that memory peaks are separate and a task
that runs out of memory does not end the others: images/s of inference, seconds per training step,
peak memory.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from realnet.compute.runtime import Runtime, start
from realnet.config.params import Params, load
from realnet.core.errors import UserError
from realnet.core.io import write_json, write_text
from realnet.diffusion.denoiser import Denoiser, classes_of, parameter_count
from realnet.models.afs import Selection
from realnet.models.features import FeatureExtractor, build_network, extractor_of
from realnet.models.folding import fold_batch_norms
from realnet.models.realnet import FeatureSelector, RealNet, realnet_loss
from realnet.provenance.record import peak_memory_mb

Row = dict[str, Any]
MEASUREMENTS = ("realnet_inference", "realnet_training", "ddpm_denoising", "ddpm_training")
TITLES = {
    "realnet_inference": "RealNet: inference, backbone included",
    "realnet_training": "RealNet: training step (φ(A) included, φ(I) cached)",
    "ddpm_denoising": "DDPM: one denoising step",
    "ddpm_training": "DDPM: training step with Adam and EMA",
}


def cost(
    presets: list[str],
    params: Path,
    out: Path | None,
    batch_sizes: list[int],
    repeats: int,
    device: str,
    measure: bool = True,
) -> dict[str, Any]:
    """Count every part of each preset, measure each task at each batch size, print the tables.

    ``batch_sizes``: empty for those of the preset. Returns the content of ``cost.json``, written to
    ``out`` with ``cost.md``. A task that runs out of memory has the key ``failed``.
    """
    report: dict[str, Any] = {"presets": {}}
    for preset in presets:
        resolved = load(params, {"preset": preset, "compute": {"device": device}})
        parts = count_parts(resolved)
        rows = []
        for task in MEASUREMENTS if measure else ():
            own = {
                "realnet_inference": resolved.evaluate.batch_size,
                "realnet_training": resolved.training.batch_size,
                "ddpm_denoising": resolved.sdas.batch_size,
                # The batch of one device.
                "ddpm_training": resolved.ddpm.micro_batch or resolved.ddpm.batch_size,
            }[task]
            for batch in batch_sizes or [own]:
                rows.append(_in_a_process(params, preset, device, task, batch, repeats))
        report["presets"][preset] = {"parts": parts, "measured": rows}
    report["torch"] = torch.__version__
    text = "\n".join(_markdown(name, entry) for name, entry in report["presets"].items())
    print(text, end="")
    if out is not None:
        write_json(out / "cost.json", report)
        write_text(out / "cost.md", text)
    return report


# --- counted -------------------------------------------------------------------------------------


def count_parts(params: Params) -> list[Row]:
    """One row per part, without allocating it: name, parameters, MACs per image (forward)."""
    size = params.data.image_size
    with torch.device("meta"):
        extractor, selector, model = _detector(params, size)
        denoiser = Denoiser(params.ddpm, size, _classes(params))
        image = torch.zeros(1, 3, size, size)
        maps = extractor(image)
        features = selector(maps)
        rebuilt = [net(f) for net, f in zip(model.reconstruct, features, strict=True)]
        squared = model.squared(features, rebuilt)
        timestep = torch.zeros(1, dtype=torch.long)
        label = timestep if _classes(params) > 1 else None
        rows = [_part(f"Backbone ({params.backbone.arch})", extractor, lambda: extractor(image))]
        pairs = zip(params.model.blocks, model.reconstruct, features, strict=True)
        for block, net, feature in pairs:
            layers = "+".join(str(layer + 1) for layer in block.layers)
            name = f"Reconstruction, stage {layers} (stride {block.stride}, m {feature.shape[1]})"
            rows.append(_part(name, net, partial(net, feature)))
        rows.append(
            _part(
                "RRS and discriminator",
                model.discriminate,
                lambda: model.discriminate(model.select(squared), size),
            )
        )
        total = {key: sum(row[key] for row in rows) for key in ("parameters", "macs")}
        rows.append({"part": "RealNet, whole", **total})
        rows.append(_part("DDPM", denoiser, lambda: denoiser(image, timestep, label)))
    return rows


def _part(name: str, module: torch.nn.Module, run: Callable[[], Any]) -> Row:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return {
        "part": name,
        "parameters": parameter_count(module),
        "macs": counter.get_total_flops() // 2,
    }


def _detector(params: Params, size: int) -> tuple[FeatureExtractor, FeatureSelector, RealNet]:
    """Untrained, with the first m_k channels of each layer: the cost does not depend on which."""
    network = build_network(params.backbone)
    extractor = extractor_of(network, params.backbone)
    counts = params.afs.channels
    if params.afs.selection == "all":
        counts = [channels for channels, _ in extractor.shapes(size)]
    selection = Selection(
        indices=[list(range(m)) for m in counts],
        scales=[[1.0] * m for m in counts],
    )
    selector = FeatureSelector(params.model.blocks, selection, size, params.model.feature_scale)
    return extractor, selector, RealNet(selector.channels, params.model, size)


def _classes(params: Params) -> int:
    """Classes of the largest dataset of the preset, if one model serves a whole dataset."""
    from realnet.datasets.categories import KNOWN_CATEGORIES

    sizes = [
        len(KNOWN_CATEGORIES.get(dataset, ("",)) if wanted == "all" else wanted)
        for dataset, wanted in params.experiment.datasets.items()
    ]
    return classes_of(params.ddpm.scope, [""] * max(sizes))


# --- measured ------------------------------------------------------------------------------------


def _in_a_process(
    params: Path, preset: str, device: str, task: str, batch: int, repeats: int
) -> Row:
    command = [
        sys.executable,
        "-m",
        "realnet.report.network_cost",
        str(params),
        preset,
        device,
        task,
    ]
    done = subprocess.run(
        [*command, str(batch), str(repeats)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    words = done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}"]
    if "realnet: " in words[-1]:  # a mistake of the user, the same for every task
        raise UserError(words[-1].removeprefix("realnet: "))
    memory = done.returncode == -9 or "memory" in words[-1].lower()
    return {"task": task, "batch": batch, "failed": "out of memory" if memory else words[-1]}


def measure_task(params: Params, task: str, batch: int, repeats: int) -> Row:
    """Median seconds of one step after a warm-up step, and the peak memory of this process."""
    runtime = start(params.compute)
    torch.manual_seed(0)
    step = {
        "realnet_inference": _realnet_inference,
        "realnet_training": _realnet_training,
        "ddpm_denoising": _ddpm_denoising,
        "ddpm_training": _ddpm_training,
    }[task](params, batch, runtime)
    on_gpu = runtime.device.type == "cuda"
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_memory_mb()
    median = statistics.median(seconds[1:])
    return {
        "task": task,
        "batch": batch,
        "seconds": median,
        "images_per_s": batch / median,
        "peak_memory_mb": round(peak),
        "device": runtime.name,
        "precision": str(runtime.precision).removeprefix("torch."),
        "threads": None if on_gpu else params.compute.threads,
    }


def _images(params: Params, batch: int, runtime: Runtime) -> torch.Tensor:
    size = params.data.image_size
    return torch.rand(batch, 3, size, size, device=runtime.device)


def _realnet_inference(params: Params, batch: int, runtime: Runtime) -> Callable[[], Any]:
    extractor, selector, model = _placed(params, runtime)
    model.eval()
    images = _images(params, batch, runtime)

    @torch.no_grad()
    def step() -> torch.Tensor:
        with runtime.autocast():
            return model(selector(extractor(images)))[0].float().cpu()

    return step


def _realnet_training(params: Params, batch: int, runtime: Runtime) -> Callable[[], Any]:
    extractor, selector, model = _placed(params, runtime)
    model.train()
    images = _images(params, batch, runtime)
    masks = images[:, 0] > 0.9
    optimiser = runtime.adamw(model.parameters(), params.training.lr, params.training.weight_decay)
    with torch.no_grad():
        normal = selector(extractor(images))

    def step() -> None:
        with torch.no_grad():
            anomalous = selector(extractor(images))
        with runtime.autocast():
            logits, rebuilt = model(anomalous)
        segmentation, reconstruction = realnet_loss(logits, masks, rebuilt, normal)
        (segmentation + reconstruction).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _placed(params: Params, runtime: Runtime) -> tuple[Any, Any, Any]:
    extractor, selector, model = _detector(params, params.data.image_size)
    fold_batch_norms(extractor.network)  # as load_backbone does
    return runtime.place(extractor), selector.to(runtime.device), runtime.place(model)


def _ddpm_denoising(params: Params, batch: int, runtime: Runtime) -> Callable[[], Any]:
    model, images, timestep, label = _denoiser(params, batch, runtime)
    model.eval()

    @torch.no_grad()
    def step() -> torch.Tensor:
        with runtime.autocast():
            return model(images, timestep, label)

    return step


def _ddpm_training(params: Params, batch: int, runtime: Runtime) -> Callable[[], Any]:
    from diffusers.training_utils import EMAModel

    model, images, timestep, label = _denoiser(params, batch, runtime)
    model.train()
    optimiser = runtime.adamw(model.parameters(), params.ddpm.lr, weight_decay=0.0)
    ema = EMAModel(model.parameters(), decay=params.ddpm.ema.decay)

    def step() -> None:
        with runtime.autocast():
            output = model(images, timestep, label)
        output.float().pow(2).mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ema.step(model.parameters())

    return step


def _denoiser(params: Params, batch: int, runtime: Runtime) -> tuple[Any, ...]:
    classes = _classes(params)
    model = runtime.place(Denoiser(params.ddpm, params.data.image_size, classes))
    timestep = torch.arange(batch, device=runtime.device) * 7 % 1000
    label = timestep % classes if classes > 1 else None
    return model, _images(params, batch, runtime) * 2 - 1, timestep, label


# --- output --------------------------------------------------------------------------------------


def _markdown(preset: str, entry: dict[str, Any]) -> str:
    lines = [
        f"### Cost of preset {preset}",
        "",
        "| part | parameters (M) | GMAC per image |",
        "| --- | ---: | ---: |",
    ]
    for row in entry["parts"]:
        macs = row["macs"] / 1e9
        lines.append(f"| {row['part']} | {row['parameters'] / 1e6:.2f} | {macs:.2f} |")
    if entry["measured"]:
        lines += [
            "",
            "| task | batch | s per step | images/s | peak memory (MiB) | device |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
        ]
    for row in entry["measured"]:
        head = f"| {TITLES[row['task']]} | {row['batch']} |"
        if "failed" in row:
            lines.append(f"{head} {row['failed']} | | | |")
            continue
        threads = f", {row['threads']} threads" if row["threads"] else ""
        lines.append(
            f"{head} {row['seconds']:.3f} | {row['images_per_s']:.2f} | {row['peak_memory_mb']}"
            f" | {row['device']}, {row['precision']}{threads} |"
        )
    return "\n".join(lines) + "\n"


def _main(arguments: list[str]) -> None:
    params, preset, device, task, batch, repeats = arguments
    resolved = load(params, {"preset": preset, "compute": {"device": device}})
    print(json.dumps(measure_task(resolved, task, int(batch), int(repeats))))


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except UserError as error:
        raise SystemExit(f"realnet: {error}") from None
