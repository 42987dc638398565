"""`realnet data verify`: each kind of problem in a small dataset, exit status, determinism."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import prepare
from PIL import Image
from typer.testing import CliRunner

from realnet.cli import app, main
from realnet.config.params import PROJECT, load
from realnet.config.sections import OwnLayout, Prepare
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, write_csv
from realnet.datasets.images import read_image, read_mask
from realnet.datasets.verify.verify_dataset import resolve_targets, verify
from realnet.datasets.verify.verify_files import KINDS
from realnet.datasets.verify.verify_report import report, summary

PARAMS = PROJECT / "params.yaml"
STRICT = Prepare(allow_partial=False, layouts={})


def noise(seed: int, size: tuple[int, int] = (24, 20)) -> np.ndarray:
    """uint8 ``[H, W, 3]``, different for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def hole(value: int = 255, size: tuple[int, int] = (24, 20)) -> np.ndarray:
    """A mask, uint8 ``[H, W]``."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[4:9, 5:12] = value
    return mask


def make_category(
    folder: Path, start: int = 0, good: str = "good", defects=("hole", "bent")
) -> Path:
    """4 + 2 normal images and two of each defect type, in MVTec-AD layout."""
    for index in range(4):
        save(folder / f"train/{good}/{index:03d}.png", noise(start + index))
    for index in range(2):
        save(folder / f"test/{good}/{index:03d}.png", noise(start + 10 + index))
    for number, defect in enumerate(defects, start=2):
        for index in range(2):
            save(folder / f"test/{defect}/{index:03d}.png", noise(start + 10 * number + index))
            save(folder / f"ground_truth/{defect}/{index:03d}_mask.png", hole())
    return folder


@pytest.fixture
def raw(tmp_path) -> Path:
    """``raw/own/bolt``, a valid category."""
    make_category(tmp_path / "raw/own/bolt")
    return tmp_path / "raw"


def checked(raw: Path, settings: Prepare = STRICT, *targets: tuple[str, str], **options):
    return verify(targets or [("own", "bolt")], raw, raw.parent / "data", settings, **options)


def found(raw: Path, settings: Prepare = STRICT, *targets: tuple[str, str]) -> list[tuple]:
    """(severity, kind, path below raw, message) of each problem."""
    return [
        (p.severity, p.kind, p.path.relative_to(raw).as_posix(), p.message)
        for one in checked(raw, settings, *targets)
        for p in one.problems
    ]


def only(problems: list[tuple], severity: str, kind: str, path: str, *parts: str) -> None:
    """This is the only problem."""
    assert [problem[:3] for problem in problems] == [(severity, kind, path)]
    for part in parts:
        assert part in problems[0][3]


def test_a_valid_tree_has_no_problems(raw):
    (one,) = checked(raw)
    assert one.problems == ()
    made = report([one])
    assert made["ok"]
    assert made["totals"]["images"] == 10
    assert made["totals"]["masks"] == 4
    assert made["totals"]["bytes"] == sum(p.stat().st_size for p in raw.rglob("*.png"))
    (category,) = made["categories"]
    assert category["counts"] == {"train": {"good": 4}, "test": {"bent": 2, "good": 2, "hole": 2}}
    assert category["sizes"] == {"24x20": 10}
    assert (category["formats"], category["modes"]) == ({"PNG": 10}, {"RGB": 10})
    assert category["manifest"] is None


# --- single files --------------------------------------------------------------------------------


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def unreadable_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


IMAGE, MASK = "test/hole/001.png", "ground_truth/hole/001_mask.png"


@pytest.mark.parametrize(
    ("name", "change", "severity", "kind", "part"),
    [
        (IMAGE, lambda p: cut(p, 0.5), "error", "unreadable", "cut off"),
        (IMAGE, lambda p: p.write_bytes(b""), "error", "unreadable", "0 bytes"),
        (IMAGE, lambda p: p.write_bytes(b"no picture"), "error", "unreadable", "not an image"),
        (IMAGE, lambda p: save(p, np.dstack([noise(5), hole()])), "error", "unreadable", "transp"),
        # The last chunk has no pixels: the image still decodes.
        (IMAGE, lambda p: p.write_bytes(p.read_bytes()[:-12]), "error", "damaged", "end"),
        (IMAGE, lambda p: flip(p, -14), "error", "damaged", "checksum"),
        (MASK, lambda p: flip(p, -14), "error", "damaged", "checksum"),
        (MASK, lambda p: cut(p, 0.6), "error", "mask-unreadable", "cut off"),
        (MASK, lambda p: save(p, hole(size=(20, 24))), "error", "mask-size", "20x24"),
        (MASK, lambda p: save(p, hole(0)), "error", "mask-empty", IMAGE),
        (MASK, lambda p: save(p, hole(0) + 255), "warning", "mask-full", "every pixel"),
    ],
)
def test_a_damaged_file_is_reported(raw, name, change: Callable, severity, kind, part):
    change(raw / "own/bolt" / name)
    only(found(raw), severity, kind, f"own/bolt/{name}", part)


def test_missing_masks_and_unused_masks_are_reported(raw):
    (raw / "own/bolt" / MASK).rename(raw / "own/bolt/ground_truth/hole/007_mask.png")
    first, second = found(raw)
    only([first], "error", "mask-missing", f"own/bolt/{IMAGE}", "hole")
    only([second], "error", "mask-unused", "own/bolt/ground_truth/hole/007_mask.png", "image")


def test_an_unused_mask_that_marks_nothing_is_only_a_warning(raw):
    name = "own/bolt/ground_truth/hole/007_mask.png"
    save(raw / name, hole(0))
    only(found(raw), "warning", "mask-unused", name, "marks nothing")
    (raw / name).write_bytes(b"no mask")
    only(found(raw), "error", "mask-unused", name, "named differently; and it is not an image")


def test_masks_of_small_ids_are_valid_and_soft_edges_are_a_warning(raw):
    path = raw / "own/bolt" / MASK
    ids = hole(3)
    ids[12:15, 2:5] = 7
    save(path, ids)
    assert found(raw) == []
    soft = hole()
    soft[4, 5:12] = 100
    save(path, soft)
    # 7 of the 35 marked pixels
    only(found(raw), "warning", "mask-values", f"own/bolt/{MASK}", "(0, 100, 255)", "20.0%")


def test_a_jpeg_mask_is_a_warning_that_states_the_threshold(raw):
    (raw / "own/bolt" / MASK).unlink()
    name = "own/bolt/ground_truth/hole/001_mask.jpg"
    save(raw / name, hole(), quality=60)
    only(found(raw), "warning", "mask-jpeg", name, "above 127")


def test_all_problems_are_reported_not_only_the_first(raw):
    bolt = raw / "own/bolt"
    for index in range(3):
        cut(bolt / f"train/good/{index:03d}.png", 0.4)
    save(bolt / "ground_truth/bent/000_mask.png", hole(0, size=(9, 20)))
    kinds = [problem[1] for problem in found(raw)]
    assert kinds == ["unreadable"] * 3 + ["mask-size", "mask-empty"]


def test_a_category_without_masks_is_a_note(tmp_path):
    own = OwnLayout(train="ok/*.png", test_good="fine/*.png", test_defective="broken/*.png")
    for index, part in enumerate(("ok", "fine", "broken")):
        save(tmp_path / f"raw/nut/{part}/a.png", noise(index))
    settings = Prepare(allow_partial=False, layouts={"nut": own})
    only(found(tmp_path / "raw", settings, ("nut", "nut")), "note", "no-masks", "nut")


# --- between files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "severity", "kind", "part"),
    [
        ("train/good/002.png", "test/good/001.png", "error", "leak", "train/good/002.png"),
        ("train/good/002.png", "test/bent/001.png", "error", "leak", "counts as good and this one"),
        ("train/good/000.png", "train/good/003.png", "warning", "duplicate", "good/000.png"),
        ("test/bent/000.png", "test/good/001.png", "warning", "duplicate", "counts as bent"),
    ],
)
def test_duplicate_bytes_and_pixels_are_reported(raw, source, target, severity, kind, part):
    bolt = raw / "own/bolt"
    (bolt / target).write_bytes((bolt / source).read_bytes())
    only(found(raw), severity, f"{kind}-bytes", f"own/bolt/{target}", part, "same bytes")
    pixels = read_image(bolt / source)
    save(bolt / target, np.dstack([pixels, np.full_like(pixels[..., 0], 255)]), compress_level=1)
    notes = [problem for problem in found(raw) if problem[1] != "alpha"]
    only(notes, severity, f"{kind}-pixels", f"own/bolt/{target}", part, "same pixels")


def test_equal_pixel_bytes_of_other_shapes_are_no_duplicates(raw):
    save(raw / "own/bolt/test/good/000.png", np.zeros((6, 4, 3), np.uint8))
    save(raw / "own/bolt/train/good/000.png", np.zeros((4, 6, 3), np.uint8))
    assert {problem[1] for problem in found(raw)} == {"sizes"}


def test_undecodable_files_are_no_duplicates(raw):
    for name in ("train/good/000.png", "test/good/000.png"):
        (raw / "own/bolt" / name).write_bytes(b"")
    assert [problem[1] for problem in found(raw)] == ["unreadable"] * 2


def test_counts_are_compared_with_the_published_ones(tmp_path):
    raw = tmp_path / "raw"
    make_category(raw / "btad/01", good="ok", defects=("ko",))
    problems = found(raw, STRICT, ("btad", "01"))
    assert {problem[:3] for problem in problems} == {("error", "count", "btad/01")}
    assert sorted(problem[3] for problem in problems) == [
        "test/good 2 instead of 21 published",
        "test/ko 2 instead of 49 published",
        "train/good 4 instead of 400 published",
    ]
    allowed = found(raw, Prepare(allow_partial=True, layouts={}), ("btad", "01"))
    assert [problem[0] for problem in allowed] == ["warning"] * 3


def test_missing_files_of_a_split_table_are_reported(tmp_path):
    raw, rows = tmp_path / "raw", []
    for index, (split, label) in enumerate(
        [("train", "normal"), ("test", "normal"), ("test", "anomaly"), ("test", "anomaly")]
    ):
        folder = "Normal" if label == "normal" else "Anomaly"
        image = f"candle/Data/Images/{folder}/{index:03d}.JPG"
        mask = f"candle/Data/Masks/Anomaly/{index:03d}.png" if folder == "Anomaly" else ""
        save(raw / "visa" / image, noise(index))
        if mask:
            save(raw / "visa" / mask, hole(2))
        rows.append(dict(object="candle", split=split, label=label, image=image, mask=mask))
    write_csv(raw / "visa/split_csv/1cls.csv", rows, list(rows[0]))
    allowed = Prepare(allow_partial=True, layouts={})
    assert {p[1] for p in found(raw, allowed, ("visa", "candle"))} == {"count"}
    (raw / "visa" / rows[0]["image"]).unlink()
    (raw / "visa" / rows[3]["mask"]).unlink()
    first, second = (p for p in found(raw, allowed, ("visa", "candle")) if p[0] == "error")
    only([first], "error", "missing", f"visa/{rows[0]['image']}", "no such file")
    only([second], "error", "mask-missing", f"visa/{rows[3]['mask']}", "no such file")


def test_odd_but_legal_images_are_counted_in_notes(raw):
    good = raw / "own/bolt/train/good"
    save(good / "000.png", noise(90, (30, 20)))
    save(good / "001.png", (noise(91)[..., 0].astype(np.uint16) << 8) + 7)
    Image.fromarray(noise(92)).quantize(16).save(good / "002.png")
    save(good / "003.png", np.dstack([noise(93), np.full((20, 24), 255, np.uint8)]))
    exif = Image.Exif()
    exif[0x0112] = 3  # rotation by 180 degrees, which keeps the size
    save(good / "004.png", noise(94), exif=exif)
    problems = found(raw)
    assert {problem[0] for problem in problems} == {"note"}
    about = {problem[1]: problem[3] for problem in problems}
    assert list(about) == ["sizes", "sixteen-bit", "palette", "alpha", "turned"]
    assert "24x20 (10), 30x20 (1)" in about["sizes"]
    for kind, name in zip(list(about)[1:], ("001", "002", "003", "004"), strict=True):
        assert f"{name}.png" in about[kind]
    (one,) = report(checked(raw))["categories"]
    assert one["modes"] == {"I;16": 1, "P": 1, "RGB": 8, "RGBA": 1}


def test_files_in_no_role_are_reported(raw):
    bolt = raw / "own/bolt"
    (bolt / "readme.txt").write_text("hello")
    (bolt / "test/hole/notes.TXT").write_text("hello")
    (bolt / "train/LICENSE").write_text("hello")
    (bolt / "train/good/.DS_Store").write_text("hidden")
    save(bolt / "train/more/b.png", noise(1))
    save(bolt / "train/more/a.png", noise(2))
    first, second = found(raw)
    only([first], "warning", "unused-images", "own/bolt/train/more", "2 images, the first a.png")
    only([second], "note", "passed-over", "own/bolt", "2 .txt, 1 LICENSE")


def test_a_wrong_layout_is_a_problem_of_its_category_only(raw):
    make_category(raw / "own/nut", start=1000)
    for path in (raw / "own/bolt/test/good").iterdir():
        path.unlink()
    targets = [("own", "bolt"), ("own", "nut")]
    only(found(raw, STRICT, *targets), "error", "layout", "own/bolt", "no normal test images")
    assert report(checked(raw, STRICT, *targets))["totals"]["images"] == 10


# --- the manifest --------------------------------------------------------------------------------


@pytest.fixture
def listed(raw) -> Path:
    """The valid category with its manifest."""
    prepare("own", "bolt", raw / "own", raw.parent / "data/own/bolt", STRICT)
    return raw


def manifest_of(raw: Path) -> Path:
    return raw.parent / "data/own/bolt/manifest.csv"


def test_a_matching_manifest_has_no_problems(listed):
    assert found(listed) == []
    assert report(checked(listed))["categories"][0]["manifest"] == manifest_of(listed).as_posix()


def test_files_changed_since_the_manifest_are_reported(listed):
    bolt = listed / "own/bolt"
    save(bolt / "train/good/000.png", noise(500))
    save(bolt / "train/good/001.png", noise(501, (24, 21)))
    save(bolt / MASK, hole(9))
    problems = [problem[:3] for problem in found(listed) if problem[0] == "error"]
    assert problems == [
        ("error", "manifest-hash", f"own/bolt/{MASK}"),
        ("error", "manifest-hash", "own/bolt/train/good/000.png"),
        ("error", "manifest-hash", "own/bolt/train/good/001.png"),
        ("error", "manifest-size", "own/bolt/train/good/001.png"),
    ]


def test_files_added_or_removed_since_the_manifest_are_reported(listed):
    bolt = listed / "own/bolt"
    (bolt / "train/good/000.png").unlink()
    save(bolt / "train/good/009.png", noise(500))
    first, second = found(listed)
    only([first], "error", "manifest-missing", "own/bolt/train/good/000.png", "no such file")
    only([second], "error", "manifest-unlisted", "own/bolt/train/good/009.png", "does not list")


def test_changed_roles_and_masks_are_reported(listed):
    rows = read_csv(manifest_of(listed))
    for row in rows:
        row["defect"] = row["defect"].replace("bent", "kink")
    write_csv(manifest_of(listed), rows, list(rows[0]))
    problems = found(listed)
    assert {problem[:2] for problem in problems} == {("error", "manifest-differs")}
    assert "test/bent" in problems[0][3]
    assert "in the manifest test/kink" in problems[0][3]
    # Renamed, so that it has no role any more.
    prepare("own", "bolt", listed / "own", manifest_of(listed).parent, STRICT)
    rows = read_csv(manifest_of(listed))
    stray = save(listed / "own/bolt/spare/a.png", noise(7))
    row = rows[0] | {"path": stray.as_posix()}
    write_csv(manifest_of(listed), [*rows, row], list(row))
    kinds = {problem[1]: problem for problem in found(listed)}
    assert set(kinds) == {"unused-images", "manifest-differs"}
    assert "in no role now" in kinds["manifest-differs"][3]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "no rows"),
        (b"path,split\na,b\n", "no column"),
        (b"\xff\xfe\x00", "not a table"),
    ],
)
def test_an_unreadable_manifest_is_reported(listed, content, part):
    manifest_of(listed).write_bytes(content)
    (problem,) = checked(listed)[0].problems
    assert (problem.kind, problem.path) == ("manifest-unreadable", manifest_of(listed))
    assert part in problem.message


def test_a_duplicate_row_is_reported(listed):
    rows = read_csv(manifest_of(listed))
    write_csv(manifest_of(listed), [*rows, rows[0]], list(rows[0]))
    (problem,) = checked(listed)[0].problems
    assert problem.kind == "manifest-unreadable"
    assert "twice" in problem.message


def test_the_data_may_have_moved_since_the_manifest(listed):
    listed.rename(listed.parent / "elsewhere")
    moved = listed.parent / "elsewhere"
    assert found(moved) == []
    save(moved / "own/bolt/train/good/000.png", noise(500))
    only(found(moved), "error", "manifest-hash", "own/bolt/train/good/000.png")


# --- targets, report, command --------------------------------------------------------------------


def test_targets_default_to_the_datasets_of_the_parameters(raw):
    make_category(raw / "own/nut")
    make_category(raw / "btad/01", good="ok", defects=("ko",))
    params = load(PARAMS)

    def resolved(*names: str, **datasets) -> list[tuple[str, str]]:
        experiment = params.experiment.model_copy(update={"datasets": datasets})
        return resolve_targets(names, params.model_copy(update={"experiment": experiment}), raw)

    assert resolved("own") == [("own", "bolt"), ("own", "nut")]
    assert resolved("own/nut", "own") == [("own", "nut"), ("own", "bolt")]
    assert resolved(own=["nut"]) == [("own", "nut")]
    # All three published categories are expected, also those without a folder.
    assert resolved(btad="all") == [("btad", "01"), ("btad", "02"), ("btad", "03")]
    assert {p[1] for p in found(raw, STRICT, ("btad", "02"))} == {"layout"}
    (raw / "empty").mkdir()
    for names, part in {
        ("other",): "other: no such folder",
        ("demo",): "realnet data demo",
        ("own/screw",): "no category 'screw'",
        ("btad/02",): "no category '02'",
        ("empty",): "no categories",
    }.items():
        with pytest.raises(UserError, match=part):
            resolved(*names)
    with pytest.raises(UserError, match="no category 'screw'"):
        resolved(own=["screw"])


def break_much(raw: Path) -> None:
    """Errors, warnings and notes, several of a kind."""
    make_category(raw / "own/nut", start=1000)
    bolt, nut = raw / "own/bolt", raw / "own/nut"
    for index in range(3):
        cut(bolt / f"train/good/{index:03d}.png", 0.5)
        save(nut / f"train/more/{index}.png", noise(index))
    (nut / "test/good/000.png").write_bytes((nut / "train/good/001.png").read_bytes())
    (nut / "train/good/003.png").write_bytes((nut / "train/good/001.png").read_bytes())
    save(nut / "test/good/001.png", noise(3, (40, 50)))
    (bolt / MASK).unlink()


def test_the_report_does_not_depend_on_the_number_of_workers(raw):
    break_much(raw)
    targets = [("own", "bolt"), ("own", "nut")]
    reports = [report(checked(raw, STRICT, *targets, workers=n)) for n in (1, 2, 7)]
    assert json.dumps(reports[0]) == json.dumps(reports[1]) == json.dumps(reports[2])
    assert {p["severity"] for p in reports[0]["problems"]} == {"error", "warning", "note"}
    for severity in ("error", "warning", "note"):
        number = sum(p["severity"] == severity for p in reports[0]["problems"])
        assert reports[0]["totals"][f"{severity}s"] == number > 0


def test_the_summary_shows_the_first_of_each_kind(raw):
    break_much(raw)
    lines = summary(checked(raw, STRICT, ("own", "bolt"), ("own", "nut")), show=2).splitlines()
    assert lines[1].split()[:3] == ["own/bolt", "10", "3"]
    assert lines[3].split()[:3] == ["total", "20", "7"]
    start = lines.index("error: images that do not decode (3, unreadable)")
    assert "000.png" in lines[start + 1]
    assert "001.png" in lines[start + 2]
    assert lines[start + 3].strip() == "and 1 more"
    assert lines[-1].startswith("NOT OK: 5 errors, 2 warnings, 1 note in 20 images")


def command(raw: Path, *arguments: str):
    options = ["--root", str(raw), "--manifests", str(raw.parent / "data"), "--params", str(PARAMS)]
    return CliRunner().invoke(app, ["data", "verify", *arguments, *options])


def test_the_exit_status_is_1_if_there_are_errors(raw, tmp_path):
    out = tmp_path / "verify.json"
    save(raw / "own/bolt/train/more/a.png", noise(1))  # a warning
    result = command(raw, "own/bolt", "--json", str(out))
    assert result.exit_code == 0, result.output
    assert "ok: 0 errors, 1 warning, 0 notes in 10 images" in result.output
    assert read_json(out)["ok"]
    cut(raw / "own/bolt" / IMAGE, 0.5)
    result = command(raw, "own", "--json", str(out), "--workers", "2")
    assert result.exit_code == 1
    assert IMAGE in result.output
    assert not read_json(out)["ok"]
    assert [p["kind"] for p in read_json(out)["problems"]] == ["unreadable", "unused-images"]


def test_the_exit_status_is_2_for_wrong_usage(raw, tmp_path, monkeypatch, capsys):
    out = tmp_path / "verify.json"
    options = ["--root", str(raw), "--params", str(PARAMS), "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["realnet", "data", "verify", "other", *options])
    with pytest.raises(SystemExit) as status:
        main()
    assert status.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("realnet: ")
    assert "no such folder" in message
    assert message.count("\n") == 1
    assert not out.exists()


def test_reading_from_bytes_equals_reading_from_files(tmp_path):
    path = save(tmp_path / "a.png", noise(1))
    data = path.read_bytes()
    gone = tmp_path / "gone.png"
    np.testing.assert_array_equal(read_image(gone, data), read_image(path))
    np.testing.assert_array_equal(read_mask(gone, data), read_mask(path))
    with pytest.raises(UserError, match="empty file"):
        read_image(gone, b"")


def test_every_kind_of_problem_has_a_severity_and_a_heading():
    assert {severity for severity, _ in KINDS.values()} == {"error", "warning", "note"}
    assert all(heading for _, heading in KINDS.values())
