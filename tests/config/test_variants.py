"""Every variant of every preset can be built, and each kind of variant trains."""

import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from builders import make_backbone, params_for, select_features, train_realnet

from realnet.compute.runtime import start
from realnet.config.params import PROJECT, load, read_yaml
from realnet.core.errors import UserError
from realnet.core.io import read_json, sha256, write_csv, write_png
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.detectors.realnet_detector import load_detector
from realnet.models.afs import Selection, load_selection, principal_components, selection_from
from realnet.models.features import build_network, extractor_of, load_backbone
from realnet.models.projection import Moments, Projection
from realnet.models.realnet import FeatureSelector, RealNet, realnet_loss
from realnet.tables.published import paper

PRESETS = sorted(path.stem for path in (PROJECT / "workflow/presets").glob("*.yaml"))
SMOKE = load(overrides={"preset": "smoke"})
SIZE = SMOKE.data.image_size
FIELDS = ["path", "split", "label", "defect", "mask_path", "width", "height", "sha256"]
FIELDS += ["mask_sha256"]


def preset_file(preset):
    return PROJECT / f"workflow/presets/{preset}.yaml"


def uses_realnet(params):
    return getattr(getattr(params, "method", None), "name", "realnet") == "realnet"


# --- declared variants ---------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_each_variant_builds(preset):
    """The whole network of each, on the meta device: shapes without data."""
    params, seen, run = load(overrides={"preset": preset}), set(), set()
    # A preset with a base has the variants of its base, and they are checked there.
    names = params.variants if "base" not in read_yaml(preset_file(preset)) else ["base"]
    for name in names:
        p = params.variant(name)
        parts = p.backbone.model_dump_json(), p.afs.model_dump_json(), p.model.model_dump_json()
        if parts in seen or not uses_realnet(p):
            continue
        seen.add(parts)
        size = p.data.image_size
        with torch.device("meta"), torch.no_grad():
            extractor = extractor_of(build_network(p.backbone), p.backbone)
            shapes = extractor.shapes(size)
            wanted = p.afs.channels if p.afs.selection != "all" else [c for c, _ in shapes]
            assert all(m <= c for m, (c, _) in zip(wanted, shapes, strict=True)), name
            for block in p.model.blocks:  # no map is enlarged beyond the stride of its block
                assert all(block.stride <= shapes[k][1] for k in block.layers), name
            selection = Selection([[0] * m for m in wanted], [[1.0] * m for m in wanted])
            select = FeatureSelector(p.model.blocks, selection, size, True).to("meta")
            features = select(extractor(torch.zeros(1, 3, size, size)))
            net = RealNet(select.channels, p.model, size)
            shape = p.backbone.arch, str(p.model.blocks)
            if shape in run:  # other differences were checked when the network was built
                continue
            run.add(shape)
            logits, rebuilt = net(features)
        assert logits.shape == (1, 2, size, size), name
        assert [r.shape for r in rebuilt] == [f.shape for f in features], name
    assert seen


@pytest.mark.parametrize("preset", ["demo", "paper", "smoke"])
def test_each_variant_of_a_group_differs_from_the_others(preset):
    params = load(overrides={"preset": preset})
    assert params.groups
    for name, group in params.groups.items():
        assert len(group.variants) > 1, name
        resolved = [
            {k: v for k, v in params.variant(v).model_dump().items() if k not in ("variants",)}
            for v in group.variants
        ]
        assert all(a != b for i, a in enumerate(resolved) for b in resolved[:i]), (
            f"groups.{name}: two variants are the same"
        )
    topics = {claim["topic"] for claim in paper()["claims"]}
    assert {group.claim for group in params.groups.values()} - {None} <= topics


def test_the_papers_claims_have_groups():
    groups = load(overrides={"preset": "paper"}).groups
    claims = {group.claim for group in groups.values()}
    assert {"synthesis", "features", "residuals", "strength", "architecture"} <= claims


def test_backbones_have_published_weights():
    params = load(overrides={"preset": "paper"})
    archs = {params.variant(name).backbone.arch for name in params.variants}
    families = {arch.partition(".")[0] for arch in archs}
    assert {"wide_resnet50_2", "resnet50", "resnet34", "resnet18", "efficientnet_b4"} <= families
    for arch in archs:
        assert timm.models.is_model_pretrained(arch), arch


def test_variants_of_a_preset_replace_those_of_its_base():
    demo, smoke = load(), SMOKE
    assert "afs_half" in demo.variants and "afs_half" not in smoke.variants
    more = {"variants": {"mine": {"training": {"steps": 3}}}}
    mine = load(overrides={"preset": "smoke", **more})
    assert set(mine.variants) == {*smoke.variants, "mine"}
    assert set(load(overrides={"preset": "architecture_c"}).groups) == set(
        load(overrides={"preset": "paper"}).groups
    )


def test_a_group_with_an_unknown_variant_is_refused():
    groups = {"mine": {"title": "Mine", "variants": ["base", "afs_halv"]}}
    with pytest.raises(UserError, match=r"groups\.mine\.variants names 'afs_halv'.*afs_half"):
        load(overrides={"groups": groups})


# --- each kind trains ----------------------------------------------------------------------------


def stage(name, variant="base", **overrides):
    training = {"steps": 2, "select_every": None}
    return params_for(name, variant, **{"training": training} | overrides)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six images with a square on them, some SDAS images (of noise), and a backbone."""
    root = tmp_path_factory.mktemp("variants")
    rows, pool = [], []
    (root / "sdas").mkdir()
    for number in range(6):
        rng = np.random.default_rng(number)
        pixels = rng.integers(90, 110, (SIZE, SIZE, 3), dtype=np.uint8)
        pixels[6:26, 6:26] += rng.integers(40, 100, (20, 20, 3), dtype=np.uint8)
        write_png(root / f"{number}.png", pixels)
        row = {"path": root / f"{number}.png", "split": "train", "label": 0, "defect": "good"}
        row |= {"width": SIZE, "height": SIZE, "sha256": sha256(row["path"])}
        rows.append(dict.fromkeys(FIELDS, "") | row)
        write_png(root / f"sdas/{number}.png", rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8))
        pool.append({"path": f"{number}.png", "sha256": sha256(root / f"sdas/{number}.png")})
    write_csv(root / "manifest.csv", rows, FIELDS)
    write_csv(root / "sdas/manifest.csv", pool, ["path", "sha256"])
    make_backbone(stage("backbone"), root / "backbone")
    return root


def select(made, out, variant="base", **overrides):
    sdas = made / "sdas" if load(overrides={"preset": "smoke"}).uses_sdas(variant) else None
    given = made / "manifest.csv", made / "backbone", sdas, "mine", "square", 0
    select_features(stage("afs", variant, **overrides), *given, out)
    return load_selection(out)


def train(made, afs, out, variant="base", **overrides):
    sdas = made / "sdas" if load(overrides={"preset": "smoke"}).uses_sdas(variant) else None
    params = stage("realnet", variant, **overrides)
    train_realnet(
        *(params, made / "manifest.csv", made / "backbone", afs, sdas, "mine", "square", 0, out)
    )


def trained_otherwise():
    """Variants of the preset smoke that train RealNet differently from base."""
    return [name for name, overlay in SMOKE.variants.items() if set(overlay) - {"sdas", "evaluate"}]


@pytest.mark.parametrize("variant", trained_otherwise())
def test_each_kind_of_variant_trains_and_reloads(made, tmp_path, variant):
    p = SMOKE.variant(variant)
    if not uses_realnet(p) or p.backbone != SMOKE.backbone:
        pytest.skip("not RealNet on this backbone")
    selection = select(made, tmp_path / "afs", variant)
    train(made, tmp_path / "afs", tmp_path / "out", variant)
    runtime = start(stage("realnet").compute)
    detector = load_detector(tmp_path / "out", runtime)
    images = load_images(read_manifest(made / "manifest.csv"), SIZE)
    assert detector.margins(images, runtime, 4).isfinite().all()
    # The loaded detector has the features and channels of the training.
    with torch.no_grad():
        maps = load_backbone(made / "backbone")(images.float() / 255)
    ours = FeatureSelector(p.model.blocks, selection, SIZE, p.model.feature_scale)(maps)
    assert all(torch.equal(a, b) for a, b in zip(ours, detector.selector(maps), strict=True))
    kept = p.afs.channels if p.afs.selection != "all" else [m.shape[1] for m in maps]
    assert [len(layer) for layer in selection.indices] == kept
    assert [f.shape[1] for f in ours] == [sum(kept[k] for k in b.layers) for b in p.model.blocks]


# --- principal components ------------------------------------------------------------------------


def test_components_are_eigenvectors_of_the_covariance():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 6, generator=draw) @ torch.randn(6, 6, generator=draw) + 3
    maps = rows.view(4, 10, 10, 6).permute(0, 3, 1, 2)
    moments = Moments(6)
    for part in maps.split(3):
        moments.add(part)
    projection, deviations = moments.principal(4)
    assert projection.components.shape == (4, 6) and projection.mean.shape == (6,)
    gram = projection.components @ projection.components.T
    assert torch.allclose(gram, torch.eye(4), atol=1e-6)
    centred = (rows - rows.mean(0)).double()
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    assert deviations == pytest.approx((singular[:4] / math.sqrt(400)).tolist(), rel=1e-5)
    cosines = (projection.components.double() * axes[:4]).sum(1).abs()
    assert torch.allclose(cosines, torch.ones(4, dtype=torch.float64), atol=1e-5)
    largest = projection.components.abs().argmax(1, keepdim=True)
    assert (projection.components.gather(1, largest) > 0).all()
    assert torch.allclose(projection.mean, rows.mean(0), atol=1e-5)


def test_the_selector_projects_and_scales(made, tmp_path):
    selection = select(made, tmp_path / "afs", "afs_pca")
    images = load_images(read_manifest(made / "manifest.csv"), SIZE)
    extractor = load_backbone(made / "backbone")
    maps = extractor(images.float() / 255)
    blocks = stage("realnet").model.blocks
    features = FeatureSelector(blocks, selection, SIZE, True)(maps)
    for layer, (found, whole) in enumerate(zip(features, maps, strict=True)):
        mix, scale = selection.projections[layer], torch.tensor(selection.scales[layer])
        flat = whole.movedim(1, -1) - mix.mean
        expected = (flat @ mix.components.T / scale).movedim(-1, 1)
        assert torch.allclose(found, expected, atol=1e-4)
        assert found.mean((0, 2, 3)).abs().max() < 1e-3  # centred
        # Components are uncorrelated, and those above the floor of unit variance.
        rows = found.movedim(1, -1).flatten(0, -2).double()
        correlation = torch.corrcoef(rows.T)[:3, :3]
        assert (correlation - torch.eye(3)).abs().max() < 1e-2
        assert rows[:, 0].std(correction=0).item() == pytest.approx(1, abs=0.01)


def test_components_are_reproducible(made, tmp_path):
    first = select(made, tmp_path / "a", "afs_pca")
    again = select(made, tmp_path / "b", "afs_pca")
    params = stage("afs", "afs_pca")
    normal = load_images(read_manifest(made / "manifest.csv"), SIZE)
    counts, runtime = params.afs.channels, start(params.compute)
    extractor = runtime.place(load_backbone(made / "backbone"))
    fresh, _ = principal_components(extractor, normal, counts, runtime)
    train(made, tmp_path / "a", tmp_path / "out", "afs_pca")
    stored = selection_from(read_json(tmp_path / "out/model.json")["selection"])
    for other in (again.projections, fresh, stored.projections):
        for one, two in zip(first.projections, other, strict=True):
            assert torch.equal(one.components, two.components) and torch.equal(one.mean, two.mean)
    assert "projections" not in Selection([[0]], [[1.0]]).to_json()


def test_projection_round_trips_through_json_exactly():
    odd = torch.tensor([[1e-38, -0.0, 3.0], [float("inf"), 0.1, -7.25]])
    back = Projection.unpack(Projection(odd, odd[0]).pack())
    assert torch.equal(back.components, odd) and torch.equal(back.mean, odd[0])
    assert math.copysign(1, back.components[0, 1]) == -1


# --- all channels, fewer layers ------------------------------------------------------------------


def test_mode_all_ignores_the_number_of_channels(made, tmp_path):
    selection = select(made, tmp_path / "afs", "afs_all")
    shapes = load_backbone(made / "backbone").shapes(SIZE)
    assert selection.indices == [list(range(c)) for c, _ in shapes]
    # r may exceed the sum of m_k as written, but not the sum of the widths.
    wide = {"afs": {"selection": "all"}, "model": {"rrs": {"channels": sum(c for c, _ in shapes)}}}
    select(made, tmp_path / "wide", **wide)
    wide["model"]["rrs"]["channels"] += 1
    with pytest.raises(UserError, match=r"model\.rrs\.channels is \d+, but the blocks have"):
        select(made, tmp_path / "more", **wide)


def test_an_omitted_layer_is_neither_scored_nor_used(made, tmp_path):
    select(made, tmp_path / "afs", "layers_123")
    layers = read_json(tmp_path / "afs/afs.json")["layers"]
    assert not any(layers[3]["scores"]) and all(any(layer["scores"]) for layer in layers[:3])
    train(made, tmp_path / "afs", tmp_path / "out", "layers_123")
    runtime = start(stage("realnet").compute)
    detector = load_detector(tmp_path / "out", runtime)
    assert len(detector.model.reconstruct) == 3


# --- losses --------------------------------------------------------------------------------------


@pytest.fixture
def case():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 5, 5, generator=draw)
    masks = torch.rand(2, 5, 5, generator=draw) > 0.7
    rebuilt = [torch.randn(2, c, 4, 4, generator=draw) for c in (3, 6)]
    normal = [torch.randn(2, c, 4, 4, generator=draw) for c in (3, 6)]
    return logits, masks, rebuilt, normal


def test_focal_loss_matches_its_formula(case):
    logits, masks, *_ = case
    own = logits.softmax(1).gather(1, masks.long()[:, None])[:, 0]
    for gamma in (0.5, 2.0):
        expected = (-((1 - own) ** gamma) * own.log()).mean()
        assert realnet_loss(*case, focal_gamma=gamma)[0].item() == pytest.approx(expected.item())
    assert realnet_loss(*case, focal_gamma=0.0)[0].item() == pytest.approx(
        F.cross_entropy(logits, masks.long()).item()
    )


def test_cosine_loss_depends_only_on_the_direction(case):
    logits, masks, rebuilt, normal = case
    found = realnet_loss(*case, cosine=True)[1].item()
    longer = [g * 3 for g in rebuilt]
    assert realnet_loss(logits, masks, longer, normal, cosine=True)[1].item() == pytest.approx(
        found
    )
    assert realnet_loss(logits, masks, normal, normal, cosine=True)[1].abs() < 1e-6
    opposite = [-f for f in normal]
    assert realnet_loss(logits, masks, opposite, normal, cosine=True)[1].item() == pytest.approx(4)


def test_training_uses_the_configured_losses(made, tmp_path):
    import csv

    select(made, tmp_path / "afs")
    losses = {}
    for variant in ("base", "focal", "cosine"):
        train(made, tmp_path / "afs", tmp_path / variant, variant)
        rows = list(csv.DictReader((tmp_path / variant / "history.csv").open()))
        losses[variant] = {k: float(rows[0][k]) for k in rows[0]}
    base, focal, cosine = losses["base"], losses["focal"], losses["cosine"]
    assert focal["loss_segmentation"] < 0.5 * base["loss_segmentation"]
    assert focal["loss_reconstruction"] == base["loss_reconstruction"]
    assert cosine["loss_segmentation"] == base["loss_segmentation"]
    assert cosine["loss_reconstruction"] == pytest.approx(4)  # of zeros, with four blocks
