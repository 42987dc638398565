"""Stage `realnet`: train reconstruction networks and discriminator of one category."""

import os
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from realnet.compute import determinism
from realnet.compute.distributed import (
    check_batch,
    launch,
    parallel,
    share,
    total,
)
from realnet.compute.runtime import Runtime, start
from realnet.compute.shared_norm import share_statistics
from realnet.config.sections import Training
from realnet.config.stage_params import RealNetParams
from realnet.core.io import read_json, save_weights, write_csv, write_json
from realnet.core.seeds import derive
from realnet.datasets.items import read_manifest
from realnet.detectors.realnet_detector import FILES, Detector
from realnet.models.afs import load_selection
from realnet.models.features import FeatureExtractor, load_backbone
from realnet.models.realnet import FeatureSelector, RealNet, realnet_loss
from realnet.models.reconstruction import ReconstructionUNet
from realnet.provenance.record import Record
from realnet.stages.job import Job
from realnet.synthesis.examples import save_examples
from realnet.synthesis.pools import NormalImages, build_pools
from realnet.synthesis.synthesiser import AnomalySynthesiser
from realnet.training.batches import shuffled_epochs
from realnet.training.checkpoint import (
    Checkpoints,
    learning_rate,
    training_identity,
)
from realnet.training.checkpoint_selection import SELECTION, BestOnTest, best_on_test
from realnet.training.fit import Fit
from realnet.training.precise_bn import recompute_statistics, statistics_restored

HISTORY = ["step", "loss", "loss_segmentation", "loss_reconstruction", "lr"]
LOSS_NAMES = {
    "cross_entropy": "cross-entropy",
    "focal": "focal loss",
    "mse": "sum of MSE",
    "cosine": "sum of 1 - cosine",
}


def run(job: Job[RealNetParams]) -> None:
    """Write ``model.safetensors`` (the trainable part), ``model.json``, history and curves, and
    ``anomalies.npz``, some of the synthesised anomalies for the figures.

    Inputs: ``manifest``, ``backbone``, ``afs`` and, where the synthesis uses it, ``sdas``. These
    are the last weights. With `training.select_every` also ``best.safetensors``, the weights that
    were best on the test set, and ``selection.csv``: each evaluation there, with steps counted from
    1, as updates of the weights. `compute.processes` share the work.
    """
    check_batch("training.batch_size", job.params.training.batch_size, job.params.compute)
    launch(_train, job.params.compute, job)


def open_record(job: Job[RealNetParams]) -> Record:
    """Start the record of the job."""
    files = {"backbone": "backbone.json", "afs": "afs.json", "sdas": "manifest.csv"}
    inputs = {"manifest": job.inputs["manifest"]}
    inputs |= {name: job.inputs[name] / file for name, file in files.items() if name in job.inputs}
    return Record("realnet", job.params.model_dump(), inputs, **job.identity)


def _train(job: Job[RealNetParams]) -> None:
    """What each process does."""
    params, out, seed = job.params, job.out, job.seed
    runtime = start(params.compute)
    record = open_record(job)
    size, names = params.data.image_size, ("realnet", job.dataset, job.category)
    extractor = runtime.place(load_backbone(job.inputs["backbone"]))
    selection = load_selection(job.inputs["afs"])
    selector = FeatureSelector(params.model.blocks, selection, size, params.model.feature_scale)
    selector.to(runtime.device)
    items = read_manifest(job.inputs["manifest"])
    trained = [item for item in items if item.split == "train"]
    normal = NormalImages.load(trained, size, params.synthesis, job.dataset, job.category)
    pools = build_pools(
        *(params.synthesis, job.inputs.get("sdas"), seed, job.dataset, job.category, size),
        normal=normal,
    )
    synthesise = AnomalySynthesiser(params.synthesis, pools, seed, *names)

    torch.manual_seed(derive(seed, *names, "init"))
    model = runtime.place(RealNet(selector.channels, params.model, size))
    if params.training.gradient_checkpointing:
        recompute_activations(model)
    identity = training_identity(record.content)
    checkpoints = Checkpoints(out, identity, runtime.processes, runtime.rank)
    data = _Data(normal.to(runtime.device), synthesise, extractor, selector)
    steps, choice = steps_of(params.training, len(normal)), None
    if runtime.is_main:
        choice = best_on_test(
            items,
            Detector(extractor, selector, model, size),
            params.training,
            params.evaluate.image_score_pool,
            steps,
            per_epoch=-(-len(normal) // params.training.batch_size),
        )
    history = _optimise(model, job, data, runtime, checkpoints, choice)
    if not runtime.is_main:
        return

    write_csv(out / "history.csv", history, HISTORY)
    save_examples(
        *(out / "anomalies.npz", params.synthesis, pools, normal),
        *(seed, job.dataset, job.category),
    )
    digest = save_weights(out / FILES["last"], model)
    for name in (FILES["best"], SELECTION):  # of an earlier training
        (out / name).unlink(missing_ok=True)
    best = choice.write(out) if choice is not None else None
    write_json(
        out / "model.json",
        {
            "dataset": job.dataset,
            "category": job.category,
            "seed": seed,
            "image_size": size,
            "precise_bn": params.training.precise_bn,
            "model": params.model.model_dump(),
            "selection": selection.to_json(),
            # Relative, so that a results folder can be moved or pulled elsewhere as a whole.
            "backbone": {
                "path": os.path.relpath(job.inputs["backbone"], out),
                "sha256": read_json(job.inputs["backbone"] / "backbone.json")["sha256"],
            },
            "parameters": sum(p.numel() for p in model.parameters()),
            "sha256": digest,
            "steps": steps,
            "best": best,
        },
    )
    from realnet.plots.losses import write_training_curves

    panels = {
        f"loss_{part}": f"{part}: {LOSS_NAMES[name]}"
        for part, name in (
            ("segmentation", params.training.segmentation_loss),
            ("reconstruction", params.training.reconstruction_loss),
        )
    }
    write_training_curves(out / "curves.png", f"{job.name}, seed {seed}", history, panels)
    record.write(
        out,
        runtime.name,
        parameters=sum(p.numel() for p in model.parameters()),
        processes=runtime.processes,
    )
    checkpoints.finish()


class _Data:
    """Training batches: block features of anomalies and originals, and the masks."""

    def __init__(
        self,
        normal: NormalImages,
        synthesise: AnomalySynthesiser,
        extractor: FeatureExtractor,
        selector: FeatureSelector,
    ):
        self.normal, self.synthesise = normal, synthesise
        self.extractor, self.selector = extractor, selector
        # phi(I) is constant (no augmentation): computed once for every training image.
        parts = [self.features(part) for part in normal.images.split(16)]
        self.cached = [torch.cat(block) for block in zip(*parts, strict=True)]

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.selector(self.extractor(images.float() / 255))

    def batch(
        self, chosen: torch.Tensor, first_item: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """(phi(A), phi(I), M) of the chosen training images."""
        chosen = chosen.to(self.normal.images.device)
        normal = self.normal.images[chosen], self.normal.foregrounds[chosen]
        drawn = self.synthesise(*normal, first_item)
        original = [block[chosen] for block in self.cached]
        anomalous = [block.clone() for block in original]
        changed = torch.nonzero(drawn.masks.flatten(1).any(1)).flatten()
        if len(changed):  # a normal item's features are its original's: no second forward pass
            for block, new in zip(anomalous, self.features(drawn.images[changed]), strict=True):
                block[changed] = new.to(block.dtype)
        return anomalous, original, drawn.masks


def recompute_activations(model: RealNet) -> None:
    """Recompute the activations of each block of the reconstruction networks in the backward pass.

    Uses less memory; the results are the same.
    """
    for network in model.reconstruct:
        assert isinstance(network, ReconstructionUNet)
        for block in (*network.down, network.middle, *network.up, network.out):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def steps_of(params: Training, images: int) -> int:
    """`steps`, or those of `epochs` passes over ``images`` with a short last batch each."""
    if params.steps is not None:
        return params.steps
    assert params.epochs is not None  # the section has one of them
    return params.epochs * -(-images // params.batch_size)


def _optimise(
    model: RealNet,
    job: Job[RealNetParams],
    data: _Data,
    runtime: Runtime,
    checkpoints: Checkpoints,
    selection: BestOnTest | None,
) -> list[dict[str, float]]:
    """The loop of paper sec. 3.3 / official `train_realnet`; returns the loss history."""
    params, names = job.params.training, ("realnet", job.dataset, job.category)
    norms = share_statistics(model, runtime)
    optimiser = runtime.adamw(model.parameters(), params.lr, params.weight_decay)
    steps = steps_of(params, len(data.normal))
    factor = learning_rate(params.lr_schedule, params.warmup_steps, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    fit = Fit(
        *("/".join(names), steps, params.checkpoint_every, checkpoints, runtime),
        *(model, optimiser, schedule),
        {} if selection is None else {"judge": selection},  # the name that checkpoints have for it
    )
    batch_of = shuffled_epochs(
        len(data.normal), params.batch_size, job.seed, *names, short_last=params.epochs is not None
    )

    def precise() -> None:
        """Recompute the statistics over the batches that would follow the last step, if any."""

        def batch(k: int) -> None:
            step = steps + k
            anomalous, _, _ = data.batch(batch_of(step), step * params.batch_size)
            with runtime.autocast():
                model(anomalous)

        own = [model.select.norm] if model.select.scaled and model.select.norm is not None else []
        recompute_statistics(model, batch, params.precise_bn, first=own)

    model.train()
    forward = runtime.compiled(parallel(model, runtime))
    for step in fit.steps():
        mine = share(batch_of(step), runtime)
        for norm in norms:
            norm.counts = 1.0 if mine.weight else 0.0
        anomalous, original, masks = data.batch(mine.items, step * params.batch_size + mine.first)
        with runtime.autocast():
            logits, rebuilt = forward(anomalous)
        segmentation, reconstruction = realnet_loss(
            *(logits, masks, rebuilt, original),
            focal_gamma=params.focal_gamma if params.segmentation_loss == "focal" else None,
            cosine=params.reconstruction_loss == "cosine",
        )
        loss = (
            params.segmentation_weight * segmentation
            + params.reconstruction_weight * reconstruction
        )
        # DistributedDataParallel divides the sum by the number of processes.
        determinism.backward(loss * (mine.weight * runtime.processes))
        if params.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), params.grad_clip)
        rate = fit.apply_gradients()
        found = [value.item() * mine.weight for value in (loss, segmentation, reconstruction)]
        row = (step, *total(found, runtime), rate)
        fit.log(dict(zip(HISTORY, row, strict=True)))
        # The other processes wait at their next step.
        if selection is not None and selection.due(step + 1):
            with statistics_restored(model):
                precise()
                selection.look(step + 1, runtime)
    if runtime.is_main:
        precise()
    model.eval()
    return fit.history
