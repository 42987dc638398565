"""`realnet metrics`: files in, JSON out, one line for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from realnet.errors import UserError
from realnet.evaluation.measure import measure
from realnet.evaluation.metrics import image_auroc, pixel_metrics, pooled_maximum


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


def test_mistakes_of_the_command_line_are_one_line(arrays, tmp_path: Path):
    done = command(arrays[0], tmp_path / "none.npy", "--json", tmp_path / "m.json")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [f"realnet: {tmp_path / 'none.npy'}: no such file"]
    assert not (tmp_path / "m.json").exists()


def test_default_image_score_is_the_plain_maximum(arrays):
    scores_file, masks_file, scores, _ = arrays
    result = measure(scores_file, masks_file)
    assert result["image_auroc"] == image_auroc(scores.max(axis=(1, 2)), [0, 0, 0, 1, 1, 1])


def test_labels_override_the_masks(arrays, tmp_path: Path):
    scores_file, masks_file, scores, _ = arrays
    labels = np.array([1, 0, 1, 0, 1, 0])
    np.save(tmp_path / "labels.npy", labels)
    result = measure(scores_file, masks_file, tmp_path / "labels.npy")
    assert result["image_auroc"] == image_auroc(scores.max(axis=(1, 2)), labels)


def test_scores_npz_of_the_evaluation_alone(arrays, tmp_path: Path):
    _, _, scores, masks = arrays
    image_scores = np.array([0.1, 0.9, 0.2, 0.3, 0.8, 0.7])
    np.savez(
        tmp_path / "scores.npz",
        margins=scores,
        masks=masks > 0,
        labels=np.array([0, 0, 0, 1, 1, 1], np.uint8),
        image_scores=image_scores,
    )
    result = measure(tmp_path / "scores.npz")
    assert result["image_auroc"] == pytest.approx(6 / 9)
    assert result["pixel_auroc"] == pixel_metrics(scores, masks)["pixel_auroc"]
    pooled = measure(tmp_path / "scores.npz", pool=2)
    assert pooled["image_auroc"] == image_auroc(pooled_maximum(scores, 2), [0, 0, 0, 1, 1, 1])


def test_undefined_is_null_and_said(arrays, tmp_path: Path, capsys):
    scores_file, _, _, masks = arrays
    np.save(tmp_path / "empty.npy", np.zeros_like(masks))
    result = measure(scores_file, tmp_path / "empty.npy")
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
        measure(arrays[0], bad)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_objects_are_refused(arrays, tmp_path: Path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a NumPy file of numbers"):
        measure(arrays[0], tmp_path / "objects.npy")


def test_one_argument_must_be_a_scores_npz(arrays, tmp_path: Path):
    with pytest.raises(UserError, match="masks too"):
        measure(arrays[0])
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="no array image_scores"):
        measure(tmp_path / "other.npz")
