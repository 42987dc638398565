"""AFS: scores against a loop, selected channels, passes over the layers, the saved artifact."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import make_backbone, params_for, select_features

from realnet.compute.runtime import start
from realnet.config.sections import Block
from realnet.core.io import read_json, sha256, write_csv, write_png
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.models.afs import (
    channel_scores,
    choose,
    load_selection,
    map_sizes,
    passes,
    standard_deviations,
)
from realnet.models.features import load_backbone
from realnet.synthesis.pools import build_pools, training_foregrounds
from realnet.synthesis.synthesiser import AnomalySynthesiser
from realnet.training.batches import shuffled_epochs

SIZE = 32
NAMES = ("afs", "mine", "cloth")
FIELDS = ["path", "split", "label", "defect", "mask_path", "width", "height", "sha256"]
FIELDS += ["mask_sha256"]


def stage(name, **overrides):
    synthesis = {"sources": {"normal": 0.5, "texture": 0.5}, "foreground": "none"}
    return params_for(name, **{"synthesis": synthesis} | overrides)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("afs")
    rows = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(90, 160, (SIZE, SIZE, 3), dtype=np.uint8)
        write_png(root / f"{number}.png", pixels)
        row = {"path": root / f"{number}.png", "split": "train", "label": 0, "defect": "good"}
        row |= {"width": SIZE, "height": SIZE, "sha256": sha256(row["path"])}
        rows.append(dict.fromkeys(FIELDS, "") | row)
    write_csv(root / "manifest.csv", rows, FIELDS)
    make_backbone(stage("backbone"), root / "backbone")
    run(root, root / "out")
    return root


def run(root, out, **overrides):
    folders = root / "manifest.csv", root / "backbone", None
    select_features(stage("afs", **overrides), *folders, "mine", "cloth", 0, out)
    return read_json(out / "afs.json")


def normal_images(root):
    return load_images(read_manifest(root / "manifest.csv"), SIZE)


# --- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 8])
def test_afs_scores_match_a_loop_over_channels(size):
    """Maps and masks are resized to the block's size; min and max are over the whole batch."""
    draw = torch.Generator().manual_seed(0)
    both = torch.rand(6, 5, 4, 4, generator=draw)
    masks = torch.rand(3, 32, 32, generator=draw) > 0.5
    scores, scaled = channel_scores(both, masks, size)
    resized = both
    if size != 4:
        resized = F.interpolate(both, (size, size), mode="bilinear", align_corners=True)
    small = masks[:, :: 32 // size, :: 32 // size].float()
    for channel in range(5):
        difference = [(resized[i, channel] - resized[i + 3, channel]) ** 2 for i in range(3)]
        low = min(d.min() for d in difference)
        high = max(d.max() for d in difference)
        total = 0.0
        for image in range(3):
            scaled_one = (difference[image] - low) / (high - low + 1e-4)
            assert torch.allclose(scaled[image, channel], scaled_one, atol=1e-6)
            total += ((scaled_one - small[image]) ** 2).mean().item() / 3
        assert scores[channel].item() == pytest.approx(total, rel=1e-5)


def test_the_channel_that_matches_the_mask_is_selected():
    """Channel 2 changes exactly inside the mask, the others anywhere, everywhere or never."""
    draw = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 16, 16, generator=draw) > 0.8
    original = torch.rand(4, 6, 16, 16, generator=draw)
    change = torch.rand(4, 6, 16, 16, generator=draw)
    change[:, 0] = 0.0
    change[:, 1] = 1.0
    change[:, 2] = 3.0 * masks
    change[:, 3] = 3.0 * ~masks
    scores, scaled = channel_scores(torch.cat([original + change, original]), masks, 16)
    assert choose(scores, 1, "afs", torch.Generator()) == [2]
    assert scores.argmax() == 3 and scores[2] < 1e-6
    assert scores[0].item() == pytest.approx(masks.float().mean().item())  # D^ is 0: no 0 / 0
    assert torch.allclose(scaled[:, 2], masks.float(), atol=1e-3)


def test_selection_modes():
    scores = torch.tensor([0.5, 0.1, float("nan"), 0.3, 0.1])
    first = torch.Generator().manual_seed(0)
    assert choose(scores, 3, "afs", first) == [1, 3, 4]
    assert choose(scores, 5, "afs", first) == [0, 1, 2, 3, 4]
    assert choose(scores, 2, "first", first) == [0, 1]
    picks = [choose(torch.zeros(50), 5, "random", first) for _ in range(4)]
    assert all(p == sorted(set(p)) and len(p) == 5 for p in picks) and picks[0] != picks[1]
    again = torch.Generator().manual_seed(0)
    assert choose(torch.zeros(50), 5, "random", again) == picks[0]


def test_of_channels_with_equal_scores_the_first_is_selected():
    """The official code takes whatever ``topk`` returns."""
    scores = torch.tensor([0.3, 0.1, 0.3, 0.3, 0.3])
    assert choose(scores, 2, "afs", torch.Generator()) == [0, 1]
    assert choose(scores, 4, "afs", torch.Generator()) == [0, 1, 2, 3]


def test_maps_are_scored_at_the_size_of_their_block():
    blocks = [Block(layers=[0, 2], stride=4), Block(layers=[3], stride=16)]
    assert map_sizes(blocks, 4, 50) == [13, None, 13, 4]


# --- the stage -----------------------------------------------------------------------------------


def test_one_pass_equals_one_pass_per_layer(made):
    """The saved scores against each layer separately, batch by batch, with the same anomalies."""
    stored = read_json(made / "out/afs.json")["layers"]
    params = stage("afs")
    extractor, normal = load_backbone(made / "backbone"), normal_images(made)
    foregrounds = training_foregrounds(normal, params.synthesis, "mine", "cloth")
    pools = build_pools(params.synthesis, None, 0, "mine", "cloth", SIZE)
    make = AnomalySynthesiser(params.synthesis, pools, 0, *NAMES, anomalous_only=True)
    batch_of = shuffled_epochs(len(normal), params.afs.batch_size, 0, *NAMES)
    assert params.afs.batches == 2
    for layer, size in enumerate([16, 8, 4, 2]):
        total = 0
        for step in range(2):
            chosen = batch_of(step)
            drawn = make(normal[chosen], foregrounds[chosen], step * params.afs.batch_size)
            assert drawn.masks.flatten(1).any(1).all()  # no normal items
            before = extractor(normal[chosen].float() / 255)[layer]
            after = extractor(drawn.images.float() / 255)[layer]
            total = total + channel_scores(torch.cat([after, before]), drawn.masks, size)[0] / 2
        found = torch.tensor(stored[layer]["scores"])
        assert torch.allclose(found, total, atol=1e-5)
        best = found.argsort(stable=True)[:8].sort().values
        assert stored[layer]["indices"] == best.tolist()


def test_each_official_pass_has_its_own_anomalies(made, tmp_path):
    """Each block's scores come from the batches of its own pass. 6 images are a batch of 4 and one
    of 2, which have equal weight."""
    own = run(made, tmp_path, afs={"passes": "per_block"})["layers"]
    params = stage("afs", afs={"passes": "per_block"})
    extractor, normal = load_backbone(made / "backbone"), normal_images(made)
    foregrounds = training_foregrounds(normal, params.synthesis, "mine", "cloth")
    pools = build_pools(params.synthesis, None, 0, "mine", "cloth", SIZE)
    for block, size in enumerate([16, 8, 4, 2]):
        names = (*NAMES, "block", block)
        make = AnomalySynthesiser(params.synthesis, pools, 0, *names, anomalous_only=True)
        batch_of = shuffled_epochs(len(normal), 4, 0, *names, short_last=True)
        total = 0
        for step in range(2):
            chosen = batch_of(step)
            assert len(chosen) == (4, 2)[step]
            drawn = make(normal[chosen], foregrounds[chosen], step * 4)
            both = torch.cat([drawn.images, normal[chosen]]).float() / 255
            total = total + channel_scores(extractor(both)[block], drawn.masks, size)[0] / 2
        assert torch.allclose(torch.tensor(own[block]["scores"]), total, atol=1e-5)
    shared = read_json(made / "out/afs.json")["layers"]
    assert all(a["scores"] != b["scores"] for a, b in zip(own, shared, strict=True))


def test_passes_include_every_layer_once():
    blocks = [Block(layers=[0, 2], stride=4), Block(layers=[3], stride=16)]
    assert passes("shared", blocks) == [((), [0, 2, 3])]
    assert passes("per_block", blocks) == [(("block", 0), [0, 2]), (("block", 1), [3])]


def test_standard_deviations_of_normal_maps_have_a_floor(made):
    extractor, normal = load_backbone(made / "backbone"), normal_images(made)
    many = torch.cat([normal] * 4)  # more than one chunk of 16
    got = standard_deviations(extractor, many, start(stage("afs").compute))
    for found, maps in zip(got, extractor(many.float() / 255), strict=True):
        plain = maps.double().transpose(0, 1).flatten(1).std(1, unbiased=False)
        floor = max(0.25 * plain.median().item(), 1e-3)
        assert torch.allclose(torch.tensor(found).double(), plain.clamp(min=floor), rtol=1e-3)


def test_the_artifact_reloads_and_records_its_inputs(made):
    stored = read_json(made / "out/afs.json")
    selection = load_selection(made / "out")
    assert selection.indices == [layer["indices"] for layer in stored["layers"]]
    assert selection.scales == [layer["scales"] for layer in stored["layers"]]
    assert [(la["channels"], la["stride"]) for la in stored["layers"]] == [
        (8, 2),
        (16, 4),
        (24, 8),
        (32, 16),
    ]
    assert stored["computed_from"] == {
        "manifest": sha256(made / "manifest.csv"),
        "backbone": sha256(made / "backbone/backbone.json"),
    }


def test_scales_belong_to_the_selected_channels_in_every_mode(made, tmp_path):
    normal = normal_images(made)
    runtime = start(stage("afs").compute)
    extractor = runtime.place(load_backbone(made / "backbone"))
    deviations = standard_deviations(extractor, normal, runtime)
    chosen = {}
    for mode in ("afs", "random", "first"):
        run(made, tmp_path / mode, afs={"selection": mode, "channels": [3, 5, 8, 9]})
        selection = load_selection(tmp_path / mode)
        assert [len(i) for i in selection.indices] == [3, 5, 8, 9]
        for layer, indices in enumerate(selection.indices):
            assert selection.scales[layer] == [deviations[layer][i] for i in indices]
        chosen[mode] = selection.indices
    assert chosen["first"] == [list(range(n)) for n in (3, 5, 8, 9)]
    assert chosen["afs"] != chosen["random"] != chosen["first"]


def test_the_same_seed_selects_the_same_channels(made, tmp_path):
    run(made, tmp_path)
    assert (tmp_path / "afs.json").read_bytes() == (made / "out/afs.json").read_bytes()
