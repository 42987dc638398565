"""`realnet metrics`: formats of the inputs, the JSON output, and errors of one line."""

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.special import expit
from typer.testing import CliRunner

from realnet.cli import app
from realnet.core.errors import UserError
from realnet.datasets.images import load_masks
from realnet.datasets.items import Entry
from realnet.evaluation.maps import Request, inputs, measure, run
from realnet.evaluation.maps.files import read_map, resize_mask
from realnet.evaluation.maps.inputs import Reader, open_images
from realnet.evaluation.maps.passes import two_passes
from realnet.metrics import (
    BOOTSTRAPPED,
    bootstrap,
    image_auroc,
    interval,
    localise,
    per_image,
    pixel_metrics,
    pooled_maximum,
)
from realnet.metrics.official import official_metrics


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    masks = np.zeros((6, 12, 12), np.uint8)
    masks[3:, 2:5, 3:7] = 255
    scores = (generator.normal(size=masks.shape) + masks / 200).astype(np.float32)
    np.save(tmp_path / "scores.npy", scores)
    np.save(tmp_path / "masks.npy", masks)
    return tmp_path / "scores.npy", tmp_path / "masks.npy", scores, masks


def command(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "realnet", "metrics", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_writes_fractions(arrays, tmp_path: Path):
    scores_file, masks_file, scores, masks = arrays
    done = command(scores_file, masks_file, "--json", tmp_path / "out" / "m.json", "--pool", 3)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "m.json").read_text())
    expected = pixel_metrics(scores, masks)
    assert {key: result[key] for key in expected} == expected
    assert result["image_auroc"] == image_auroc(pooled_maximum(scores, 3), [0, 0, 0, 1, 1, 1])
    assert (result["pro_limit"], result["image_score_pool"]) == (0.3, 3)
    assert (result["images"], result["anomalous_images"]) == (6, 3)
    assert "pro " in done.stdout


def test_command_line_errors_are_one_line(arrays, tmp_path: Path):
    done = command(arrays[0], tmp_path / "none.npy", "--json", tmp_path / "m.json")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [f"realnet: {tmp_path / 'none.npy'}: no such file"]
    assert not (tmp_path / "m.json").exists()


def test_default_image_score_is_the_plain_maximum(arrays):
    scores_file, masks_file, scores, _ = arrays
    result = measure(Request(scores_file, masks_file))
    assert result["image_auroc"] == image_auroc(scores.max(axis=(1, 2)), [0, 0, 0, 1, 1, 1])


def test_labels_override_the_masks(arrays, tmp_path: Path):
    scores_file, masks_file, scores, _ = arrays
    labels = np.array([1, 0, 1, 0, 1, 0])
    np.save(tmp_path / "labels.npy", labels)
    result = measure(Request(scores_file, masks_file, tmp_path / "labels.npy"))
    assert result["image_auroc"] == image_auroc(scores.max(axis=(1, 2)), labels)


def test_scores_npz_needs_no_masks_argument(arrays, tmp_path: Path):
    _, _, scores, masks = arrays
    image_scores = np.array([0.1, 0.9, 0.2, 0.3, 0.8, 0.7])
    np.savez(
        tmp_path / "scores.npz",
        margins=scores,
        masks=masks > 0,
        labels=np.array([0, 0, 0, 1, 1, 1], np.uint8),
        image_scores=image_scores,
    )
    result = measure(Request(tmp_path / "scores.npz"))
    assert result["image_auroc"] == pytest.approx(6 / 9)
    assert result["pixel_auroc"] == pixel_metrics(scores, masks)["pixel_auroc"]
    pooled = measure(Request(tmp_path / "scores.npz", pool=2))
    assert pooled["image_auroc"] == image_auroc(pooled_maximum(scores, 2), [0, 0, 0, 1, 1, 1])


def test_undefined_metrics_are_null_and_reported(arrays, tmp_path: Path, capsys):
    scores_file, _, _, masks = arrays
    np.save(tmp_path / "empty.npy", np.zeros_like(masks))
    result = measure(Request(scores_file, tmp_path / "empty.npy"))
    assert result["pro"] is None
    assert result["image_auroc"] is None
    assert "undefined, no anomalous pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a NumPy file"),
        (b"PK\x03\x04 broken", "not a NumPy file"),
        (b"hello", "not a NumPy file"),
    ],
)
def test_damaged_files_are_named(arrays, tmp_path: Path, content: bytes, message: str):
    bad = tmp_path / "bad.npy"
    bad.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        measure(Request(arrays[0], bad))
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_objects_are_refused(arrays, tmp_path: Path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a NumPy file of numbers"):
        measure(Request(arrays[0], tmp_path / "objects.npy"))


def test_one_argument_must_be_a_scores_npz(arrays, tmp_path: Path):
    with pytest.raises(UserError, match="masks too"):
        measure(Request(arrays[0]))
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="no array image_scores"):
        measure(Request(tmp_path / "other.npz"))


# --- folders -------------------------------------------------------------------------------------

DEFECTS = ["crack", "crack", "dent", "dent", "good", "good", "good"]
NAMES = [f"{defect}/{index:03d}" for index, defect in enumerate(DEFECTS)]


@pytest.fixture
def category() -> tuple[np.ndarray, np.ndarray]:
    """Margins float32 and masks uint8 [7, 20, 24], in the order of NAMES."""
    generator = np.random.default_rng(1)
    masks = np.zeros((7, 20, 24), np.uint8)
    for index in range(4):
        y, x = generator.integers(2, 12, 2)
        masks[index, y : y + 6, x : x + 4] = 255
        masks[index, 0, 20:] = 255
    return (generator.normal(size=masks.shape) + masks / 150).astype(np.float32), masks


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        assert cv2.imwrite(str(path), values)


def tree(root: Path, arrays: np.ndarray, ending: str, skip: str = "none") -> Path:
    for name, values in zip(NAMES, arrays, strict=True):
        if not name.startswith(skip):
            write(root / f"{name}{ending}", values)
    return root


@pytest.mark.parametrize("mask_ending", ["_mask.png", ".png", "_mask.tiff", ".npy", ".bmp"])
@pytest.mark.parametrize("map_ending", [".tiff", ".tif", ".npy"])
def test_a_folder_gives_the_same_metrics_as_an_array(category, tmp_path, map_ending, mask_ending):
    margins, masks = category
    maps = tree(tmp_path / "maps", margins, map_ending)
    truth = tree(tmp_path / "truth", masks, mask_ending, skip="good")
    result = measure(Request(maps, truth))
    found = localise(margins, masks, labels=[defect != "good" for defect in DEFECTS])
    assert {key: result[key] for key in pixel_metrics(margins, masks)} == pixel_metrics(
        margins, masks
    )
    assert result["by_defect"] == found.by_defect(DEFECTS)
    assert result["pro_at"]["0.05"] == found.pro[0.05]
    assert result["aupimo"] == np.mean(found.aupimo[:4])
    assert result["image_auroc"] == image_auroc(margins.max((1, 2)), [1, 1, 1, 1, 0, 0, 0])
    assert (result["images"], result["normal_images"], result["image_size"]) == (7, 3, [20, 24])
    assert result["notes"] == []


def test_folders_of_a_category_are_found(category, tmp_path):
    margins, masks = category
    tree(tmp_path / "maps/test", margins, ".tiff")
    tree(tmp_path / "bottle/ground_truth", masks, "_mask.png", skip="good")
    tree(tmp_path / "bottle/test", masks, ".png")  # the photographs
    (tmp_path / "maps/test/crack/._000.tiff").write_bytes(b"a Mac was here")
    (tmp_path / "maps/test/notes.txt").write_text("ours")
    result = measure(Request(tmp_path / "maps", tmp_path / "bottle"))
    assert result["pro"] == pixel_metrics(margins, masks)["pro"]


def test_masks_beside_photographs(category, tmp_path):
    margins, masks = category
    maps = tree(tmp_path / "maps", margins, ".tiff")
    tree(tmp_path / "truth", 255 - masks, ".png")
    tree(tmp_path / "truth", masks, "_mask.png")
    assert measure(Request(maps, tmp_path / "truth"))["pro"] == pixel_metrics(margins, masks)["pro"]


def test_maps_of_16_and_8_bits(category, tmp_path):
    margins, masks = category
    share = (margins - margins.min()) / np.ptp(margins)
    deep, coarse = (share * 65535).astype(np.uint16), (share * 255).astype(np.uint8)
    truth = tree(tmp_path / "truth", masks, ".png", skip="good")
    result = measure(Request(tree(tmp_path / "deep", deep, ".png"), truth))
    assert result["pro"] == pixel_metrics(deep, masks)["pro"]
    assert not any("8 bits" in note for note in result["notes"])
    result = measure(Request(tree(tmp_path / "coarse", coarse, ".png"), truth))
    assert result["pro"] == pixel_metrics(coarse, masks)["pro"]
    assert any("8 bits" in note for note in result["notes"])
    assert any("ties" in note for note in result["notes"])
    pairs = coarse[masks > 0][:, None] == coarse[masks == 0]
    assert result["tied_pairs"] == pytest.approx(pairs.mean())


def half_float_tiff(path: Path, values: np.ndarray, order: str) -> None:
    """In two strips, as tifffile writes them."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    data = values.astype(f"{order}f2").tobytes()
    height, width = values.shape
    half = height // 2 * width * 2
    places = 8 + len(data)  # position of (offsets, lengths), then the tags
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1),
            (262, 3, 1, 1), (273, 4, 2, places), (277, 3, 1, 1), (278, 4, 1, height // 2),
            (279, 4, 2, places + 8), (339, 3, 1, 3)]  # fmt: skip
    parts = [mark, struct.pack(f"{order}I", places + 16), data]
    parts.append(struct.pack(f"{order}4I", 8, 8 + half, half, len(data) - half))
    parts.append(struct.pack(f"{order}H", len(tags)))
    for key, kind, count, value in tags:
        form = f"{order}HHIHxx" if kind == 3 else f"{order}HHII"
        parts.append(struct.pack(form, key, kind, count, value))
    path.write_bytes(b"".join(parts) + bytes(4))


@pytest.mark.parametrize("order", ["<", ">"])
def test_half_float_tiff(tmp_path, order):
    values = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float16)
    half_float_tiff(tmp_path / "a.tiff", values, order)
    np.testing.assert_array_equal(read_map(tmp_path / "a.tiff"), values)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_float_tiff_of_other_programs(tmp_path, compression):
    values = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_map(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("dtype", [np.float64, np.uint16, np.int16, np.uint32])
def test_other_numbers_in_tiff(tmp_path, dtype):
    values = (np.random.default_rng(0).random((6, 5)) * 30000).astype(dtype)
    assert cv2.imwrite(str(tmp_path / "a.tif"), values)
    found = read_map(tmp_path / "a.tif")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


def test_images_without_defect_folders(category, tmp_path):
    margins, masks = category
    for name, values, mask in zip("abcdefg", margins, masks, strict=True):
        write(tmp_path / f"maps/{name}_margin.npy", values)
        write(tmp_path / f"maps/{name}_heatmap.png", np.zeros((5, 5, 3), np.uint8))
        write(tmp_path / f"truth/{name}.png", mask)
    result = measure(Request(tmp_path / "maps", tmp_path / "truth", suffix="_margin.npy"))
    assert result["pro"] == pixel_metrics(margins, masks)["pro"]
    assert result["anomalous_images"] == 4
    assert list(result["by_defect"]) == ["anomalous"]


def test_a_subset_of_maps(category, tmp_path):
    margins, masks = category
    maps = tree(tmp_path / "maps", margins, ".tiff", skip="crack/001")
    truth = tree(tmp_path / "truth", masks, ".png", skip="good")
    with pytest.raises(UserError, match=r"crack/001: a mask without a map in .*--subset"):
        measure(Request(maps, truth))
    left = [0, 2, 3, 4, 5, 6]
    result = measure(Request(maps, truth, subset=True))
    assert result["pro"] == pixel_metrics(margins[left], masks[left])["pro"]


# --- streaming -----------------------------------------------------------------------------------


def test_batches_change_no_metric(category, tmp_path, monkeypatch):
    margins, masks = category
    np.save(tmp_path / "maps.npy", margins)
    np.save(tmp_path / "masks.npy", masks)
    whole = measure(Request(tmp_path / "maps.npy", tmp_path / "masks.npy"))
    read = []
    original = Reader._pair
    monkeypatch.setattr(Reader, "_pair", lambda *a: read.append(a[1]) or original(*a))
    monkeypatch.setattr(inputs, "BATCH_PIXELS", 1000)  # a little more than two images
    assert measure(Request(tmp_path / "maps.npy", tmp_path / "masks.npy")) == whole
    assert read == [*range(7), *range(7)]


def test_batches_leave_out_the_same_images(category, tmp_path, monkeypatch):
    margins, masks = category
    np.save(tmp_path / "maps.npy", margins)
    np.save(tmp_path / "masks.npy", masks)
    rows = [f"{name},{int(k not in (1, 3))}\n" for k, name in enumerate(DEFECTS)]
    (tmp_path / "labels.csv").write_text("label,pixel_labelled\n" + "".join(rows))
    request = Request(tmp_path / "maps.npy", tmp_path / "masks.npy", tmp_path / "labels.csv")
    whole = measure(request)
    kept = [0, 2, 4, 5, 6]
    assert whole["pro"] == pixel_metrics(margins[kept], masks[kept])["pro"]
    monkeypatch.setattr(inputs, "BATCH_PIXELS", 1000)
    assert measure(request) == whole


def test_statistics_match_the_evaluation(monkeypatch, tmp_path):
    """Counts at other thresholds give almost the same samples."""
    generator = np.random.default_rng(2)
    masks = np.zeros((40, 48, 48), bool)
    for index in range(20):
        y, x = generator.integers(0, 40, 2)
        masks[index, y : y + 8, x : x + 5] = True
    margins = (generator.normal(size=masks.shape) + masks).astype(np.float32)
    labels = masks.any((1, 2))
    defects = np.where(labels, "dent", "good").tolist()
    np.save(tmp_path / "maps.npy", margins)
    np.save(tmp_path / "masks.npy", masks)
    monkeypatch.setattr(inputs, "BATCH_PIXELS", 20000)
    images = open_images(Request(tmp_path / "maps.npy", tmp_path / "masks.npy"))
    images = replace(images, defects=defects)
    passed = two_passes(Reader(images), 1, (0.3,))
    expected = per_image(margins, masks, margins.max((1, 2)), labels, defects)
    for metric in BOOTSTRAPPED:
        ours = bootstrap(passed.statistics, metric, 200)
        np.testing.assert_allclose(ours, bootstrap(expected, metric, 200), atol=5e-4)
    result = measure(Request(tmp_path / "maps.npy", tmp_path / "masks.npy", resamples=300, seed=5))
    assert result["bootstrap"] == {"count": 300, "level": 0.95, "seed": 5}
    low, high = result["intervals"]["pro"]
    assert low < result["pro"] < high
    samples = bootstrap(passed.statistics, "image_auroc", 300, 5)
    assert np.ptp(samples) > 0
    without = Request(tmp_path / "maps.npy", tmp_path / "masks.npy", resamples=0)
    assert measure(without)["intervals"] is None
    assert interval(samples)[0] <= result["image_auroc"] <= interval(samples)[1]


# --- stacks, labels, scores ----------------------------------------------------------------------


def test_named_arrays_and_a_single_channel_axis(category, tmp_path):
    margins, masks = category
    np.savez(tmp_path / "both.npz", maps=margins[:, None], truth=masks[..., None])
    np.savez(tmp_path / "one.npz", margins)
    expected = pixel_metrics(margins, masks)["pro"]
    file = tmp_path / "both.npz"
    assert measure(Request(Path(f"{file}:maps"), Path(f"{file}:truth")))["pro"] == expected
    assert measure(Request(tmp_path / "one.npz", Path(f"{file}:truth")))["pro"] == expected
    with pytest.raises(UserError, match=r"has 2 arrays; name one of those in it \(maps, truth\)"):
        measure(Request(tmp_path / "one.npz", file))
    with pytest.raises(UserError, match="has no array mask; name one"):
        measure(Request(tmp_path / "one.npz", Path(f"{file}:mask")))


@pytest.mark.parametrize("dtype", [">f4", "f2", "f8", "i4", "u2", bool])
def test_any_real_dtype(category, tmp_path, dtype):
    margins, masks = category
    margins = (margins * 50).astype(dtype)
    np.save(tmp_path / "maps.npy", margins)
    np.save(tmp_path / "masks.npy", masks)
    expected = pixel_metrics(margins.astype(margins.dtype.newbyteorder("=")), masks)
    assert measure(Request(tmp_path / "maps.npy", tmp_path / "masks.npy"))["pro"] == expected["pro"]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n" + "".join(f"x/{n}.png,{int('good' not in n)}\n" for n in reversed(NAMES)),
        "label,path\n" + "".join(f"{n[:4]},{n}\n" for n in NAMES),
    ],
)
def test_labels_by_path(category, tmp_path, text):
    margins, _ = category
    maps = tree(tmp_path / "maps", margins, ".tiff")
    (tmp_path / "labels.csv").write_text(text)
    result = measure(Request(maps, labels=tmp_path / "labels.csv"))
    assert result["image_auroc"] == image_auroc(margins.max((1, 2)), [1, 1, 1, 1, 0, 0, 0])
    assert result["pro"] is None
    assert result["undefined"]["pro"] == "no masks"
    assert result["intervals"]["image_auroc"] is not None
    assert result["intervals"]["pro"] is None


def test_folder_names_are_labels(category, tmp_path):
    margins, _ = category
    result = measure(Request(tree(tmp_path / "maps", margins, ".tiff")))
    assert result["image_auroc"] == image_auroc(margins.max((1, 2)), [1, 1, 1, 1, 0, 0, 0])


def test_labels_in_order_and_scores(category, tmp_path):
    margins, masks = category
    np.save(tmp_path / "maps.npy", margins)
    np.save(tmp_path / "masks.npy", masks)
    rows = ["1,crack,0.9", "1,crack,0.2", "1,dent,0.8", "1,dent,0.7", *["0,good,0.5"] * 3]
    (tmp_path / "rows.csv").write_text("label,defect,score\n" + "\n".join(rows))
    table = tmp_path / "rows.csv"
    files = (tmp_path / "maps.npy", tmp_path / "masks.npy", table)
    result = measure(Request(*files, image_scores=table))
    assert list(result["by_defect"]) == ["crack", "dent"]
    assert result["image_auroc"] == 0.75
    assert result["image_score_pool"] is None


# --- resizing, limits, official numbers, curves --------------------------------------------------


def test_sizes_are_matched_on_request(category, tmp_path):
    margins, masks = category
    small = margins[:, ::2, ::2].copy()
    maps = tree(tmp_path / "maps", small, ".tiff")
    truth = tree(tmp_path / "truth", masks, ".png", skip="good")
    with pytest.raises(UserError, match="10 x 12 pixels, its mask 20 x 24; resize one with"):
        measure(Request(maps, truth))
    shrunk = np.stack([resize_mask(mask > 0, 10, 12) for mask in masks])
    result = measure(Request(maps, truth, resize="masks"))
    assert result["pro"] == pixel_metrics(small, shrunk)["pro"]
    grown = np.stack([cv2.resize(m, (24, 20), interpolation=cv2.INTER_LINEAR) for m in small])
    result = measure(Request(maps, truth, resize="maps"))
    assert result["pro"] == pixel_metrics(grown, masks)["pro"]


def test_defects_lost_in_resizing_are_reported(category, tmp_path):
    margins, masks = category
    masks[0] = 0
    masks[0, 5, 5] = 255  # not among the pixels that are kept
    maps = tree(tmp_path / "maps", margins[:, ::4, ::4].copy(), ".tiff")
    truth = tree(tmp_path / "truth", masks, ".png", skip="good")
    notes = " / ".join(measure(Request(maps, truth, resize="masks"))["notes"])
    assert "1 image lost the whole defect when the mask was resized, the first" in notes
    assert "crack/000.tiff" in notes
    assert "7 regions became" in notes


def test_masks_are_resized_as_by_the_stages(category, tmp_path):
    _, masks = category
    write(tmp_path / "m.png", masks[0])
    item = Entry(tmp_path, "test", 1, "crack", tmp_path / "m.png")
    np.testing.assert_array_equal(resize_mask(masks[0] > 0, 9, 9), load_masks([item], 9)[0])


def test_limits(arrays):
    scores_file, masks_file, scores, masks = arrays
    result = measure(Request(scores_file, masks_file, limits=(0.2, 0.07), pro_limit=0.4))
    assert result["pro_limit"] == 0.4
    assert result["pro"] == pixel_metrics(scores, masks, 0.4)["pro"]
    assert list(result["pro_at"]) == ["0.07", "0.2", "0.4"]


def test_official_numbers(arrays, tmp_path):
    scores_file, masks_file, scores, masks = arrays
    with pytest.raises(UserError, match=r"found maps from .* for logits, use --logits"):
        measure(Request(scores_file, masks_file, compat=True))
    expected = official_metrics(expit(scores), masks, 4)
    result = measure(Request(scores_file, masks_file, compat=True, logits=True, pool=4))
    assert {key: result[key] for key in expected} == expected
    np.save(tmp_path / "probabilities.npy", expit(scores))
    again = measure(Request(tmp_path / "probabilities.npy", masks_file, compat=True, pool=4))
    assert {key: again[key] for key in expected} == expected
    assert again["image_auroc"] == result["image_auroc"]


@pytest.mark.parametrize(("given", "figure"), [("c/out.png", "c/out.png"), ("c", "c/curves.png")])
def test_curves(arrays, tmp_path, given, figure, capsys):
    scores_file, masks_file, scores, masks = arrays
    run(Request(scores_file, masks_file), curves=tmp_path / given)
    assert "pro (FPR up to 0.3)" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / figure)).std() > 1
    with np.load((tmp_path / figure).with_suffix(".npz")) as stored:
        curve = dict(stored)
    area = np.trapezoid(curve["roc_y"], curve["roc_x"])
    assert area == pytest.approx(pixel_metrics(scores, masks)["pixel_auroc"], abs=2e-3)
    whole = pixel_metrics(scores, masks, 1.0)["pro"]
    assert np.trapezoid(curve["pro_y"], curve["pro_x"]) == pytest.approx(whole, abs=2e-3)
    threshold = np.quantile(scores[masks == 0], 0.5)
    flagged = scores >= threshold
    point = (flagged[masks == 0].mean(), flagged[masks > 0].mean())
    place = np.abs(curve["roc_x"] - point[0]).argmin()
    assert (curve["roc_x"][place], curve["roc_y"][place]) == pytest.approx(point, abs=0.01)


def test_table_without_files(arrays, tmp_path, capsys):
    np.save(tmp_path / "empty.npy", np.zeros((6, 12, 12)))
    run(Request(arrays[0], tmp_path / "empty.npy", resamples=0))
    shown = capsys.readouterr().out
    assert "pro (FPR up to 0.3)  undefined (no anomalous pixels)" in shown
    assert "image_auroc          undefined (no anomalous images)" in shown
    assert "interval" not in shown


def test_only_defects(arrays, tmp_path):
    np.save(tmp_path / "full.npy", np.ones((6, 12, 12)))
    result = measure(Request(arrays[0], tmp_path / "full.npy"))
    assert result["undefined"]["pixel_auroc"] == "no normal pixels"
    assert result["undefined"]["image_auroc"] == "no normal images"


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((12, 12)), r"shape \(12, 12\); expected images x height x width, for a single"),
        (np.zeros((2, 3, 12, 12)), r"shape \(2, 3, 12, 12\); expected images x height x width"),
        (np.zeros((6, 12, 12), complex), "dtype complex128; expected real numbers"),
        (np.full((6, 12, 12), "a"), "dtype <U1; expected real numbers"),
        (np.zeros((5, 12, 12)), "5 maps, but .*masks.npy has 6 masks"),
        (np.zeros((6, 12, 13)), r"scores.npy\[0\]: 12 x 13 pixels, its mask 12 x 12; resize"),
    ],
)
def test_wrong_stacks(arrays, values, message):
    np.save(arrays[0], values)
    with pytest.raises(UserError, match=message) as caught:
        measure(Request(arrays[0], arrays[1]))
    assert "\n" not in str(caught.value)


def test_the_position_of_nan_is_reported(arrays):
    scores_file, masks_file, scores, masks = arrays
    scores[4, 3, 3] = np.nan
    np.save(scores_file, scores)
    with pytest.raises(UserError, match=r"scores.npy\[4\]: the map contains NaN \(1 pixels\)"):
        measure(Request(scores_file, masks_file))
    masks = masks.astype(float)
    masks[2, 0, 0] = np.nan
    np.save(scores_file, np.zeros_like(scores))
    np.save(masks_file, masks)
    with pytest.raises(UserError, match=r"masks.npy\[2\]: the mask contains NaN"):
        measure(Request(scores_file, masks_file))


def damage(name: str):
    """A function that damages the folders (maps, truth) before they are measured."""

    def missing_mask(maps, truth):
        (truth / "dent/002.png").unlink()

    def unreadable(maps, truth):
        (maps / "dent/002.tiff").write_bytes(b"II*\0 no tiff")

    def empty_file(maps, truth):
        (truth / "dent/002.png").write_bytes(b"")

    def colour(maps, truth):
        write(maps / "dent/002.tiff", np.zeros((20, 24, 3), np.uint8))

    def other_size(maps, truth):
        write(maps / "good/006.tiff", np.zeros((24, 24), np.float32))

    def other_kind(maps, truth):
        write(maps / "dent/002.tiff", np.zeros((20, 24), np.uint16))

    def two_maps(maps, truth):
        write(maps / "dent/002.npy", np.zeros((20, 24), np.float32))

    def two_masks(maps, truth):
        write(truth / "dent/002.tif", np.zeros((20, 24), np.uint8))

    def pages(maps, truth):
        page = Image.fromarray(np.zeros((20, 24), np.float32))
        page.save(maps / "dent/002.tiff", save_all=True, append_images=[page])

    def nan(maps, truth):
        write(maps / "dent/002.tiff", np.full((20, 24), np.nan, np.float32))

    def no_map(maps, truth):
        for path in maps.rglob("*.tiff"):
            path.rename(path.with_suffix(".jpg"))

    def no_mask(maps, truth):
        for path in truth.rglob("*.png"):
            path.unlink()

    return locals()[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing_mask", "maps/dent/002: no mask; expected .*truth/dent/002_mask.png"),
        ("unreadable", "dent/002.tiff: not a readable image"),
        ("empty_file", "dent/002.png: empty file"),
        ("colour", r"dent/002.tiff: shape \(20, 24, 3\); expected height x width \(a colour"),
        ("other_size", "good/006.tiff: 24 x 24 pixels, those before 20 x 24; expected maps of one"),
        ("other_kind", "dent/002.tiff: dtype uint16, those before float32; expected one dtype"),
        ("two_maps", "dent/002.tiff and 002.npy: two maps of one image"),
        ("two_masks", "dent/002.tif and 002.png: two masks of one image"),
        ("pages", "dent/002.tiff: holds 2 pages; expected one map"),
        ("nan", r"dent/002.tiff: the map contains NaN \(480 pixels\)"),
        ("no_map", "maps: no anomaly maps .* in it or below, found 7 .jpg"),
        ("no_mask", "truth: no masks .* in it or below"),
    ],
)
def test_wrong_folders(category, tmp_path, capfd, name, message):
    maps = tree(tmp_path / "maps", category[0], ".tiff")
    truth = tree(tmp_path / "truth", category[1], ".png", skip="good")
    damage(name)(maps, truth)
    with pytest.raises(UserError, match=message) as caught:
        measure(Request(maps, truth))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_incompatible_inputs_are_refused(arrays, category, tmp_path):
    maps = tree(tmp_path / "maps", category[0], ".tiff")
    with pytest.raises(UserError, match="a file, beside a folder of maps"):
        measure(Request(maps, arrays[1]))
    with pytest.raises(UserError, match="a folder, beside a stack of maps"):
        measure(Request(arrays[0], maps))
    with pytest.raises(UserError, match="no such folder of masks"):
        measure(Request(maps, tmp_path / "none"))
    with pytest.raises(UserError, match=r"maps.pt: no such file"):
        measure(Request(tmp_path / "maps.pt", arrays[1]))
    (tmp_path / "maps.pt").write_bytes(b"torch")
    with pytest.raises(UserError, match=r"maps.pt: unknown type of file; expected .npy, .npz"):
        measure(Request(tmp_path / "maps.pt", arrays[1]))
    with pytest.raises(UserError, match="--suffix and --subset are for folders"):
        measure(Request(arrays[0], arrays[1], subset=True))
    with pytest.raises(UserError, match="there are no masks"):
        measure(Request(maps, resize="maps"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no anomaly maps .* found nothing"):
        measure(Request(tmp_path / "empty", maps))
    write(tmp_path / "flat/a.tiff", category[0][0])
    with pytest.raises(UserError, match="which images are anomalous"):
        measure(Request(tmp_path / "flat"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("l.npy", np.zeros(5), r"labels of shape \(5,\); expected \(6,\), one per image"),
        ("l.npy", np.array([0, 1, np.nan, 0, 0, 0]), "labels contain NaN, the first at 2"),
        ("l.npy", np.array(["a"] * 6), "dtype <U1; expected real numbers"),
        ("l.txt", "0 1", "unknown type of file for labels; expected .npy or .csv"),
        ("l.csv", "label\n0\n1\n", "2 rows for 6 images"),
        ("l.csv", "path,target\na,0\n", "no column label; expected a header with label, found"),
        ("l.csv", "", "no column label; .* found no rows"),
        ("l.csv", "label\n" + "1\n" * 5 + "nan\n", "a label is NaN"),
        ("l.csv", "a,label\n" + "x,1\n" * 5 + "x\n", "line 7 has fewer columns"),
        ("l.csv", b"label\n\xff\xfe\n", "not a table in UTF-8"),
    ],
)
def test_wrong_labels(arrays, tmp_path, file, content, message):
    path = tmp_path / file
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        measure(Request(arrays[0], arrays[1], path))


def test_images_without_defect_folders_need_masks_or_labels(category, tmp_path):
    margins, masks = category
    for name, values in zip("abc", margins, strict=False):
        write(tmp_path / f"maps/{name}.tiff", values)
    write(tmp_path / "truth/a.png", masks[0])
    maps, truth, table = tmp_path / "maps", tmp_path / "truth", tmp_path / "labels.csv"
    with pytest.raises(UserError, match=r"maps/b and 1 more: no mask; .* or give --labels"):
        measure(Request(maps, truth))
    table.write_text("path,label\na.png,1\nb.png,0\nc.png,0\n")
    masks[1:] = 0
    expected = pixel_metrics(margins[:3], masks[:3])["pro"]
    assert measure(Request(maps, truth, table))["pro"] == expected
    table.write_text("path,label\na.png,1\nb.png,0\nc.png,1\n")
    with pytest.raises(UserError, match=r"c.tiff: anomalous in .*labels.csv, but without a mask"):
        measure(Request(maps, truth, table))


def test_a_table_of_labels_names_images_without_ground_truth(category, tmp_path):
    margins, masks = category
    for name, values in zip("abcd", margins, strict=False):
        write(tmp_path / f"maps/{name}.tiff", values)
    write(tmp_path / "truth/a.png", masks[0])
    maps, truth, table = tmp_path / "maps", tmp_path / "truth", tmp_path / "labels.csv"
    table.write_text("path,label,pixel_labelled\na,1,1\nb,0,1\nc,0,1\nd,1,0\n")
    masks[1:] = 0
    result = measure(Request(maps, truth, table))
    assert result["pro"] == pixel_metrics(margins[:3], masks[:3])["pro"]
    assert result["image_auroc"] == image_auroc(margins[:4].max((1, 2)), [1, 0, 0, 1])
    table.write_text("path,label,pixel_labelled\na,1,1\nb,0,1\nc,0,1\nd,1,no\n")
    with pytest.raises(UserError, match=r"labels.csv: pixel_labelled 'no' is not 0 or 1"):
        measure(Request(maps, truth, table))


def test_inverted_scores_are_reported(arrays):
    np.save(arrays[0], -arrays[2])
    result = measure(Request(*arrays[:2]))
    assert result["pixel_auroc"] < 0.5
    assert any(note.startswith("pixel_auroc is below 0.5") for note in result["notes"])


def test_unknown_and_ambiguous_label_paths_are_refused(category, tmp_path):
    maps = tree(tmp_path / "maps", category[0], ".tiff")
    table = tmp_path / "labels.csv"
    table.write_text("path,label\ncrack/000.png,1\n")
    with pytest.raises(UserError, match="no row with a path for crack/001; expected one"):
        measure(Request(maps, labels=table))
    table.write_text("path,label\na/crack/000.png,1\nb/crack/000.png,1\n")
    with pytest.raises(UserError, match="2 rows with a path for crack/000; expected one"):
        measure(Request(maps, labels=table))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limits", "0.3;0.1"], "--limits 0.3;0.1: expected numbers like 0.3,0.01"),
        (["--limits", "0.3,30"], "PRO limit 30: expected a false positive rate in (0, 1]"),
        (["--limits", ","], "--limits: expected at least one false positive rate, e.g. 0.3,0.05"),
        (["--resize-maps", "--resize-masks"], "--resize-masks and --resize-maps: give one of them"),
        (
            ["--curves", "c.pdf"],
            "c.pdf: --curves writes OUT.png and OUT.npz, or both into a folder",
        ),
    ],
)
def test_wrong_options(arrays, options, message):
    done = CliRunner().invoke(app, ["metrics", *map(str, arrays[:2]), *options])
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == message
