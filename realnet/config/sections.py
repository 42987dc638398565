"""The typed sections of `params.yaml`: allowed values and their combinations."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_]*$"  # of datasets, categories and variants
Name = Annotated[str, Field(pattern=NAME)]


class Section(BaseModel):
    """Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- what to run ---------------------------------------------------------------------------------


class Experiment(Section):
    """The matrix: dataset x category x seed x variant. The first variant is the reference."""

    name: str = Field(min_length=1)
    datasets: dict[Name, Literal["all"] | list[Name]] = Field(min_length=1)
    seeds: list[NonNegative] = Field(min_length=1)
    variants: list[Name] = Field(min_length=1)

    @field_validator("datasets", mode="before")
    @classmethod
    def _categories(cls, datasets: Any) -> Any:
        """YAML reads BTAD's 01 as a number; what pydantic says of that does not help."""
        for dataset, wanted in datasets.items() if isinstance(datasets, dict) else ():
            if wanted != "all" and not isinstance(wanted, list):
                raise ValueError(f"{dataset}: expected `all` or a list of categories")
            for name in wanted if isinstance(wanted, list) else ():
                if not isinstance(name, str):
                    raise ValueError(f"{dataset}: category {name} is a number; quote it, as '01'")
        return datasets


class Group(Section):
    """Variants that answer one question, beside each other: `snakemake ablation_<group>`."""

    title: str = Field(min_length=1)  # of the table
    variants: list[Name] = Field(min_length=1)  # the first is the reference
    claim: Name | None = None  # topic of the paper's claim (realnet/tables/paper.yaml)


class Compute(Section):
    """Where it runs. `auto` means: CUDA where there is one; bf16 on CUDA only; channels_last on."""

    device: Literal["auto", "cpu", "cuda"]
    # tf32: fp32 whose products have 10 bits of mantissa, on GPUs since Ampere. The official code's
    # torch 1.11 used them by default.
    precision: Literal["auto", "fp32", "tf32", "bf16"]
    channels_last: Literal["auto"] | bool
    compile: bool
    threads: Positive  # CPU threads of one process; fixed, since it decides rounding
    # That train one model (stages ddpm and realnet); `auto`: one per GPU that the job sees. Their
    # number changes nothing but rounding.
    processes: Literal["auto"] | Positive


# --- stages --------------------------------------------------------------------------------------


class DemoData(Section):
    """The embedded procedural dataset (`realnet data demo`)."""

    seed: NonNegative
    image_size: Annotated[int, Field(ge=128)]
    train: Positive
    test_good: Positive
    test_defective: Positive


class Data(Section):
    root: str  # folder of raw datasets, relative to the project
    image_size: Annotated[int, Field(ge=16)]  # both sides, pixels; aspect ratio is not kept
    demo: DemoData


class OwnLayout(Section):
    """Where a custom dataset keeps its images: a table, or globs below ``data/raw/<dataset>``.

    ``table`` is a CSV file below that folder with the columns path, split (train or test), defect
    (``good``: normal) and mask (may be empty), paths being relative to the dataset's folder. With
    ``{category}`` in its name each table is a category, so one dataset may have several splits.

    The other keys are globs. ``{category}`` and ``{defect}`` match one folder name (or part of a
    file name) each, and ``{stem}`` the image's file name without suffix. Without ``{category}`` the
    dataset has a single category with the name of the dataset.
    """

    table: str | None = None
    train: str | None = None  # normal images to train on
    test_good: str | None = None
    # `{defect}` names the defect type; without it all are of type "defective"
    test_defective: str | None = None
    mask: str | None = None  # of a defective image; None: no masks, so image metrics only

    @model_validator(mode="after")
    def _fields(self) -> "OwnLayout":
        roles = ("train", "test_good", "test_defective")
        images = {name: glob for name in roles if (glob := getattr(self, name)) is not None}
        if self.table is None and len(images) < len(roles):
            missing = next(name for name in roles if name not in images)
            raise ValueError(f"{missing}: missing; give train, test_good, test_defective or table")
        if self.table is not None and (images or self.mask is not None):
            raise ValueError("table: already says what train, test_good, test_defective, mask say")
        for name, allowed in {
            "table": {"category"},
            "train": {"category"},
            "test_good": {"category"},
            "test_defective": {"category", "defect"},
            "mask": {"category", "defect", "stem"},
        }.items():
            pattern = getattr(self, name)
            if pattern is None:
                continue
            fields = re.findall(r"{(.*?)}", pattern)
            unknown = sorted(set(fields) - allowed)
            if unknown:
                raise ValueError(
                    f"{name}: unknown field {{{unknown[0]}}}; known:"
                    f" {', '.join(f'{{{field}}}' for field in sorted(allowed))}"
                )
            if name != "mask" and len(set(fields)) < len(fields):
                raise ValueError(f"{name}: each field may occur once, got {pattern!r}")
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise ValueError(f"{name}: must stay below the dataset's folder, got {pattern!r}")
        if "{stem}" not in (self.mask or "{stem}"):
            raise ValueError(f"mask: needs the field {{stem}}, got {self.mask!r}")
        if len({"{category}" in pattern for pattern in images.values()}) > 1:
            raise ValueError("{category}: in all of train, test_good, test_defective, or in none")
        return self


EmptyMask = Literal["error", "exclude", "image_only"]


class MaskRule(Section):
    """What the masks of a dataset mean."""

    # Pixels above this value are anomalous; null: 0, and 127 in JPEG files.
    threshold: NonNegative | None = None
    # A mask of a defective image that marks nothing: stop; leave the image out; or measure it in
    # image metrics only, since it has no pixel ground truth.
    empty: EmptyMask = "error"


class Prepare(Section):
    """How raw datasets become manifests (`realnet data prepare`)."""

    allow_partial: bool  # accept image counts that differ from the published ones
    layouts: dict[Name, OwnLayout]  # custom datasets that are not in MVTec-AD layout
    masks: dict[Name, MaskRule] = Field(default_factory=dict)  # by dataset
    # By dataset: image, as a path below the dataset's folder, -> reason for leaving it out.
    exclude: dict[Name, dict[str, str]] = Field(default_factory=dict)

    def only(self, dataset: str) -> "Prepare":
        """What concerns one dataset."""
        parts = {
            name: {key: value for key, value in getattr(self, name).items() if key == dataset}
            for name in ("layouts", "masks", "exclude")
        }
        return self.model_copy(update=parts)


class Pretext(Section):
    """Substitute for public weights in the demo: classify procedural textures and shapes."""

    seed: NonNegative
    image_size: Positive
    images_per_class: Positive
    steps: Positive
    batch_size: Positive
    lr: Rate
    weight_decay: Weight


class Backbone(Section):
    """The frozen feature extractor: any timm CNN with `features_only`."""

    source: Literal["package", "timm", "file", "pretext"]
    arch: str  # timm model name; for source `timm` with the weight tag pinned
    arch_args: dict[str, Any]  # passed on to timm.create_model
    # False removes the stem's max-pool: strides halve, for small images. null: as timm has it
    stem_pool: bool | None
    out_indices: list[NonNegative] = Field(min_length=1)
    package: str | None  # source `package`: a Python package that contains weights
    file: str | None  # source `file`: a state dict (.safetensors or .pth)
    sha256: str | None  # of that file; checked before it is read
    # Input normalisation; null: of the package, or as timm's configuration of arch has it
    mean: list[float] | None = Field(min_length=3, max_length=3)
    std: list[Rate] | None = Field(min_length=3, max_length=3)
    pretext: Pretext


class UNet(Section):
    """`diffusers.UNet2DModel`."""

    block_out_channels: list[Positive] = Field(min_length=1)
    layers_per_block: Positive
    attention: list[bool]  # per level, finest first
    attention_head_dim: Positive
    norm_num_groups: Positive
    time_scale_shift: Literal["default", "scale_shift"]
    resample: Literal["conv", "resnet"]

    @model_validator(mode="after")
    def _levels(self) -> "UNet":
        if len(self.attention) != len(self.block_out_channels):
            raise ValueError("attention needs one entry per block_out_channels entry")
        for channels, attends in zip(self.block_out_channels, self.attention, strict=True):
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels has {channels}, not a multiple of norm_num_groups"
                    f" {self.norm_num_groups}"
                )
            # diffusers would build attention with fewer channels, or with none, and say nothing.
            middle = channels == self.block_out_channels[-1]
            if (attends or middle) and channels % self.attention_head_dim:
                raise ValueError(
                    f"block_out_channels has {channels}, not a multiple of attention_head_dim"
                    f" {self.attention_head_dim}"
                )
        return self


class Schedule(Section):
    """The forward process of the DDPM (`diffusers.DDPMScheduler`)."""

    num_train_timesteps: Positive
    beta_schedule: Literal["linear", "squaredcos_cap_v2"]
    beta_start: Rate
    beta_end: Rate


class Ema(Section):
    """Average of the weights (`diffusers.EMAModel`), updated at every optimiser step.

    With warm-up the average starts at the weights after the first step, and at step n the decay is
    1 - (1 + n)^-power, at most `decay`. Without (the official way) it starts at the initial
    weights and the decay is constant: they keep a share of decay^steps, so they had better be good.
    """

    decay: Fraction
    warmup: bool
    power: Rate


def _one_length(section: "Ddpm | Training") -> None:
    if (section.steps is None) == (section.epochs is None):
        found = "both" if section.steps is not None else "neither"
        raise ValueError(f"give one of steps and epochs and set the other to null; found {found}")


class Ddpm(Section):
    init: str | None  # folder of the stage ddpm or of `realnet import-ddpm`: weights to start from
    scope: Literal["category", "dataset"]  # one model per category, or class-conditional for all
    # Zeros in the last layer of each residual and attention block and in the output layer, as the
    # official network starts; no effect with init. Models of earlier versions do not state it.
    zero_init: bool = False
    patch: Positive  # pixel-unshuffle factor before the UNet; 1 = the official network
    positions: bool = False  # a trained offset at each position of the UNet's input; ours
    unet: UNet
    schedule: Schedule
    prediction_type: Literal["epsilon", "v_prediction", "sample"]
    variance: Literal["learned_range", "fixed_small"]
    texture_std: Rate | None  # prediction_type sample: grain (std in [-1, 1]) kept from x_t; ours
    min_snr_gamma: Rate | None  # None: uniform weight of the prediction loss over timesteps
    min_snr_floor: Weight
    steps: Positive | None  # updates of the weights
    epochs: Positive | None  # instead of steps: passes over the images, rounded up to updates
    batch_size: Positive  # images of a micro-step, over all processes
    accumulation: Positive  # micro-steps per update
    # mean: the gradient is that of the mean over the update's images, clipped once. official: the
    # micro-steps' gradients are summed, and the sum is clipped after each of them.
    accumulation_rule: Literal["mean", "official"]
    micro_batch: Positive | None  # images a device holds at once; None: all of its share
    gradient_checkpointing: bool  # compute activations twice instead of keeping them
    lr: Rate
    lr_schedule: Literal["constant", "cosine"]
    warmup_steps: NonNegative
    grad_clip: Rate | None
    ema: Ema
    checkpoint_every: Positive
    sample_grid: Positive  # images in the grid at the end

    @model_validator(mode="after")
    def _texture(self) -> "Ddpm":
        _one_length(self)
        if self.texture_std is not None and self.prediction_type != "sample":
            raise ValueError("texture_std needs prediction_type: sample")
        return self


class Classifier(Section):
    """The guided classifier: it names the category of a noised image, and its gradient guides the
    sampling (`sdas.guidance_scale`)."""

    init: str | None  # folder of `realnet import-classifier`, or of an earlier classifier
    zero_init: bool = False  # as in the section ddpm; there is no output layer to zero
    patch: Positive  # pixel-unshuffle factor before the encoder; 1 = the official network
    unet: UNet  # of which only the way down and the middle are built
    steps: Positive
    batch_size: Positive
    accumulation: Positive  # batches per update, of which the gradients are averaged
    lr: Rate
    lr_schedule: Literal["constant", "cosine"]
    warmup_steps: NonNegative
    grad_clip: Rate | None
    checkpoint_every: Positive


class Sdas(Section):
    """Strength-controllable Diffusion Anomaly Synthesis (paper sec. 3.1)."""

    images: Positive  # per category
    steps: Positive  # respaced denoising steps
    strength: Annotated[list[Weight], Field(min_length=2, max_length=2)]  # s ~ U(low, high)
    strength_per: Literal["image", "batch"]  # batch: one s for all images of a batch (official)
    start: Literal["noise", "image"]  # `image`: begin at a noised normal image (our option)
    start_fraction: Annotated[float, Field(gt=0, le=1)]  # of the steps, for start `image`
    guidance_scale: Weight  # of the classifier's gradient; 0: neither needed nor trained
    batch_size: Positive
    rounding: Literal["round", "truncate"]  # to grey levels; truncate: official
    # Losses of a JPEG of that quality, in files that are PNG all the same; official 75. None: none.
    jpeg_quality: Annotated[int, Field(ge=1, le=95)] | None
    grid_strengths: list[Weight] = Field(min_length=1)
    grid_images: Positive

    @model_validator(mode="after")
    def _range(self) -> "Sdas":
        if self.strength[0] > self.strength[1]:
            raise ValueError("strength must be [low, high]")
        return self


class SdasStart(Section):
    """All that the stage `sia` reads of the section `sdas`."""

    start: Literal["noise", "image"]
    start_fraction: Fraction
    guidance_scale: Weight
    rounding: Literal["round", "truncate"]


class SdasChain(SdasStart):
    """All that the stage `sdas_check` reads of the section `sdas`: how images are sampled."""

    steps: Positive


class SdasCheck(Section):
    """The check of the diffusion model: its s = 0 samples beside normal images (ours)."""

    images: NonNegative  # samples, and as many normal images; 0: no check


class Sia(Section):
    """The Synthetic Industrial Anomaly dataset (`snakemake sia`); no part of the benchmark.

    Guidance, rounding and the start of the chain are those of `sdas`.
    """

    images: Positive  # per category
    steps: Positive  # respaced denoising steps
    strength: Annotated[list[Weight], Field(min_length=2, max_length=2)]  # s ~ U(low, high)
    batch_size: Positive  # part of the result (rounding): batches are always full
    shard: Positive  # images drawn in one go, a multiple of batch_size

    @model_validator(mode="after")
    def _whole(self) -> "Sia":
        if self.strength[0] > self.strength[1]:
            raise ValueError("strength must be [low, high]")
        if self.shard % self.batch_size:
            raise ValueError(
                f"shard is {self.shard}, not a multiple of batch_size {self.batch_size}"
            )
        return self


class Perlin(Section):
    min_exponent: NonNegative  # lattice cells per side: 2^a, a uniform in min..max
    max_exponent: NonNegative
    threshold: float
    rotation: Weight  # degrees, uniform in +-rotation
    # mask: the thresholded mask is turned, nearest neighbour. field: the noise is turned, bilinear,
    # before it is thresholded (official); borders are smoother.
    turn: Literal["mask", "field"]

    @model_validator(mode="after")
    def _exponents(self) -> "Perlin":
        if self.min_exponent > self.max_exponent:
            raise ValueError("min_exponent must not exceed max_exponent")
        return self


Range = Annotated[list[Weight], Field(min_length=2, max_length=2)]  # [low, high]


class CutPaste(Section):
    """Source `cutpaste`: a piece of the same image, pasted elsewhere (Li et al. 2021)."""

    scars: Fraction  # share of the thin, turned patches; the others are rectangles
    area: Range  # of a rectangle, as a share of the image
    aspect: Range  # width / height; below and above 1 equally often
    scar_width: Range  # pixels of an image of 256 pixels
    scar_length: Range
    scar_rotation: Weight  # degrees, uniform in +-scar_rotation
    jitter: Annotated[float, Field(ge=0, le=0.5)]  # of brightness, contrast, saturation and hue

    @model_validator(mode="after")
    def _ranges(self) -> "CutPaste":
        _ordered(self, "area", "aspect", "scar_width", "scar_length")
        if self.aspect[0] <= 0 or not 0 < self.area[1] <= 1:
            raise ValueError("area must be within 0 and 1, aspect above 0")
        return self


class Nsa(Section):
    """Source `nsa`: pieces of another normal image, blended in seamlessly (Schlüter et al. 2022).

    A side of a patch is smallest + Gamma(gamma_shape, gamma_scale), at most largest, as a share of
    the image's side.
    """

    patches: Positive  # one to so many, uniform
    gamma_shape: Rate
    gamma_scale: Rate
    smallest: Fraction
    largest: Annotated[float, Field(gt=0, le=1)]
    resize: Range  # factor ~ N(1, 0.5), clipped to this
    object_share: Fraction  # least share of foreground, where cut and where pasted
    gradients: Literal["source", "mixed"]  # of the patch; or the stronger of patch and image
    threshold: Weight  # grey levels: a smaller change is no anomaly

    @model_validator(mode="after")
    def _ranges(self) -> "Nsa":
        _ordered(self, "resize")
        if self.resize[0] <= 0 or self.smallest > self.largest:
            raise ValueError("resize must be above 0, and smallest must not exceed largest")
        return self


def _ordered(section: Section, *names: str) -> None:
    for name in names:
        low, high = getattr(section, name)
        if low > high:
            raise ValueError(f"{name} must be [low, high], got {[low, high]}")


OWN_MASKS = ("cutpaste", "nsa")  # sources that neither take Perlin's mask nor an opacity


class Synthesis(Section):
    """Local anomalies for AFS and RealNet training (paper sec. 3.1, official data loader)."""

    sources: dict[Literal["normal", "sdas", "dtd", "texture", "cutpaste", "nsa"], Weight]
    perlin: Perlin
    cutpaste: CutPaste
    nsa: Nsa
    foreground: Literal["rules", "auto", "none"]  # rules: realnet/synthesis/foreground.yaml
    opacity: dict[Literal["sdas", "dtd", "texture"], Annotated[list[Fraction], Field(min_length=2)]]
    empty_masks: Literal["redraw", "keep"]  # keep: the official behaviour
    rounding: Literal["round", "truncate"]  # of blended pixels to grey levels; truncate: official
    dtd_root: str | None  # folder of the DTD textures, for source `dtd`

    @model_validator(mode="after")
    def _sources(self) -> "Synthesis":
        anomalous = sum(p for name, p in self.sources.items() if name != "normal")
        if anomalous <= 0:
            raise ValueError("sources gives no weight to any anomalous source")
        if self.sources.get("dtd", 0) > 0 and not self.dtd_root:
            raise ValueError("source dtd needs dtd_root, the folder of the DTD images")
        blended = {n for n, p in self.sources.items() if p > 0} - {"normal", *OWN_MASKS}
        missing = blended - set(self.opacity)
        if missing:
            raise ValueError(f"opacity has no entry for {sorted(missing)}")
        for name, bounds in self.opacity.items():
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise ValueError(f"opacity.{name} must be [low, high], got {bounds}")
        return self


class Afs(Section):
    """Anomaly-aware Features Selection (paper sec. 3.2)."""

    # afs: the paper's. For ablations: random and first channels; pca: the first m_k principal
    # components of the normal images' features; all: every channel; `channels` is ignored.
    selection: Literal["afs", "random", "first", "pca", "all"]
    channels: list[Positive] = Field(min_length=1)  # m_k per backbone layer
    # per_block: each block has anomalies of its own, and the last batch of a round through the
    # images is short (official).
    passes: Literal["shared", "per_block"]
    batches: Positive
    batch_size: Positive


class Block(Section):
    """A reconstruction network: backbone layers (0-based), brought to one stride, concatenated."""

    layers: list[NonNegative] = Field(min_length=1)
    stride: Positive


class Reconstruction(Section):
    """The UNet per block (official: width m/2, multipliers 1-2-4, attention at /2 and /4)."""

    width_ratio: Rate
    multipliers: list[Positive] = Field(min_length=1)
    res_blocks: Positive
    attention_rates: list[Positive]
    head_channels: Positive
    norm_groups: Positive


class Rrs(Section):
    """Reconstruction Residuals Selection (paper sec. 3.3) and the discriminator behind it."""

    mode: Literal["max_mean", "max", "mean", "all"]
    channels: Positive  # r, halved between the two lists in mode max_mean
    ranking_norm: bool  # rank BatchNorm-standardised residuals, as the official code does
    scaled: bool = False  # divide residuals by their channel's standard deviation there; ours
    hidden: list[Positive] = Field(min_length=4, max_length=4)  # widths after the residual units
    padding: Literal["zeros", "replicate"] = "zeros"  # of the discriminator; replicate: ours

    @model_validator(mode="after")
    def _scale_is_of_the_norm(self) -> "Rrs":
        if self.scaled and not self.ranking_norm:
            raise ValueError("scaled: true needs ranking_norm: true, whose statistics it uses")
        return self


class Model(Section):
    blocks: list[Block] = Field(min_length=1)
    feature_scale: bool  # divide each selected channel by its spread over normal images (ours)
    reconstruction: Reconstruction
    rrs: Rrs


class Training(Section):
    steps: Positive | None
    # Instead of steps: passes over the normal images, the last batch of each being short (the
    # official way). With steps, batches run on across passes and all have the same size.
    epochs: Positive | None
    batch_size: Positive  # over all processes
    # Batches over which the BatchNorm statistics are recomputed at the end; 0: those of the last
    # batches, as in the official code.
    precise_bn: NonNegative
    gradient_checkpointing: bool  # of the reconstruction networks
    lr: Rate
    lr_schedule: Literal["constant", "cosine"]
    warmup_steps: NonNegative
    weight_decay: Weight
    grad_clip: Rate | None
    segmentation_weight: Weight
    segmentation_loss: Literal["cross_entropy", "focal"]
    focal_gamma: Weight  # of the focal loss; 0 is the cross-entropy
    reconstruction_weight: Weight
    reconstruction_loss: Literal["mse", "cosine"]  # cosine: 1 - similarity at each position
    checkpoint_every: Positive
    # The official protocol: interval in steps (or in epochs, if `epochs` is given) of evaluations
    # on the test set, also at the end; the best weights are kept beside the last ones. None: the
    # test set is not used. The last weights are identical in both cases.
    select_every: Positive | None

    @model_validator(mode="after")
    def _length(self) -> "Training":
        _one_length(self)
        return self


class Method(Section):
    """Which detector a variant evaluates."""

    name: Literal["realnet", "patchcore"]


class PatchCore(Section):
    """The baseline on the same backbone (Roth et al. 2022); of `realnet` it uses nothing."""

    layers: list[NonNegative] = Field(min_length=1)  # of backbone.out_indices, by their place
    neighbourhood: Positive  # side of the window whose patches are averaged; odd
    coreset_fraction: Annotated[float, Field(gt=0, le=1)]  # of the normal patches is kept
    projection: Positive | None  # dimensions in which the coreset is chosen; None: all
    neighbours: Positive  # in the memory, that weigh an image's score; 1: not weighted
    smoothing: Weight  # Gaussian, pixels of a map of 256
    batch_size: Positive

    @field_validator("neighbourhood")
    @classmethod
    def _odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError("must be odd, to have a middle")
        return side


class Evaluate(Section):
    batch_size: Positive
    image_score_pool: Positive  # side of the average-pool window before the maximum; official 16
    pro_limit: Annotated[float, Field(gt=0, le=1)]
    figure_images: Positive  # best, median and worst test images shown, of each


class ImageScore(Section):
    """All that the stage `realnet` reads of the section `evaluate`."""

    # None where no checkpoint is selected: then a change is no reason to train again.
    image_score_pool: Positive | None


class Report(Section):
    digits: NonNegative  # decimals of the percentages in the tables
    bootstrap: NonNegative  # resampled test sets behind each interval; 0: no intervals
    level: Annotated[float, Field(gt=0, lt=1)]  # of the intervals, and 1 - that of p-values
