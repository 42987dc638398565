"""Reading images and masks in the formats of cameras and annotation tools."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realnet.core.errors import UserError
from realnet.datasets.images import load_images, load_masks, read_image, read_mask
from realnet.datasets.items import Item


def gradient(height: int = 6, width: int = 9) -> np.ndarray:
    """uint8 ``[H, W, 3]`` in which every pixel and channel differs."""
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def item(path: Path, mask: Path | None = None, label: int = 0) -> Item:
    return Item(path, "test", label, "hole" if label else "good", mask, 9, 6, "", "")


def check_message(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def test_rgb_is_read_unchanged(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, gradient())


def test_grey_is_repeated_over_the_channels(tmp_path):
    grey = gradient()[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.stack([grey] * 3, axis=-1))


def test_sixteen_bit_grey_keeps_the_upper_eight_bits(tmp_path):
    values = np.array([[0, 255, 256], [1000, 40000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = np.array([[0, 0, 1], [3, 156, 255]], np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 2], expected)


def test_palette_images_are_converted_to_rgb(tmp_path):
    indices = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode="P")
    indices.putpalette([10, 20, 30, 200, 100, 50])
    indices.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image[0, 0].tolist() == [10, 20, 30]
    assert image[0, 1].tolist() == [200, 100, 50]


def test_opaque_alpha_is_dropped_and_transparent_pixels_are_refused(tmp_path):
    rgba = np.dstack([gradient(), np.full((6, 9), 255, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), gradient())
    rgba[2, 3, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "holed.png")
    with pytest.raises(UserError) as error:
        read_image(tmp_path / "holed.png")
    check_message(error, "holed.png", "transparent")


def test_exif_orientation_rotates_image_and_mask(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to view"
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=exif)
    turned = np.rot90(gradient(), k=-1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), turned)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), turned.any(axis=-1))


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError) as error:
        read_image(tmp_path / "a.tif")
    check_message(error, "a.tif", "32 bits")


def test_several_frames_are_refused(tmp_path):
    frames = [Image.fromarray(gradient()) for _ in range(2)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError) as error:
        read_image(tmp_path / "a.tif")
    check_message(error, "a.tif", "2 frames")


@pytest.mark.parametrize("reader", [read_image, read_mask])
def test_missing_empty_corrupt_and_truncated_files_are_named(tmp_path, reader):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(whole)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"this is no picture")
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:3000])
    reasons = {"missing.png": "no such", "empty.png": "0 bytes", "text.png": "not an image"}
    for name, reason in {**reasons, "cut.png": "cut off"}.items():
        with pytest.raises(UserError) as error:
            reader(tmp_path / name)
        check_message(error, tmp_path / name, reason)


def test_nonzero_mask_pixels_are_anomalous(tmp_path):
    small_ids = np.array([[0, 1], [2, 0]], np.uint8)  # some datasets store small numbers
    Image.fromarray(small_ids).save(tmp_path / "ids.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "ids.png"), small_ids > 0)
    Image.fromarray(small_ids.astype(np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png"), small_ids > 0)
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 3] = 255  # opaque everywhere: alpha is not part of the mask
    rgba[0, 1, 1] = 9
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "rgba.png"), rgba[..., 1] > 0)
    assert read_mask(tmp_path / "rgba.png").dtype == bool


def test_jpeg_mask_survives_compression(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 10:24] = 255
    Image.fromarray(mask).save(tmp_path / "m.jpg", quality=70)
    assert (np.asarray(Image.open(tmp_path / "m.jpg")) > 0).sum() > (mask > 0).sum()
    np.testing.assert_array_equal(read_mask(tmp_path / "m.jpg"), mask > 0)


def test_load_images_resizes_both_sides(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    Image.fromarray(np.full((40, 20, 3), (10, 20, 30), np.uint8)).save(tmp_path / "b.png")
    images = load_images([item(tmp_path / "a.png"), item(tmp_path / "b.png")], 16)
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert images[1].amin(dim=(1, 2)).tolist() == images[1].amax(dim=(1, 2)).tolist()
    assert images[1, :, 0, 0].tolist() == [10, 20, 30]
    by_hand = Image.fromarray(gradient()).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images[0].permute(1, 2, 0).numpy(), np.asarray(by_hand))


def test_load_masks_keeps_binary_values_and_order(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[:4, :2] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    items = [item(tmp_path / "good.png"), item(tmp_path / "bad.png", tmp_path / "m.png", label=1)]
    masks = load_masks(items, 4)
    assert masks.dtype == torch.bool
    assert not masks[0].any()
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, :1] = True
    assert torch.equal(masks[1], expected)


def test_load_masks_refuses_an_anomaly_without_mask_beside_one_that_has_one(tmp_path):
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "m.png")
    bad = item(tmp_path / "bad.png", label=1)
    with pytest.raises(UserError) as error:
        load_masks([bad, item(tmp_path / "other.png", tmp_path / "m.png", label=1)], 4)
    check_message(error, tmp_path / "bad.png", "mask")
    assert not load_masks([bad, item(tmp_path / "good.png")], 4).any()  # a dataset without masks
