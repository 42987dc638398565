"""Fuzz tests of external files: a correct result, or a UserError of one line.

``REALNET_FUZZ`` scales the number of inputs: 1/12 by default; 1 in `make test-all` (more than
10,000 inputs, always the same); above 1 each call has other inputs:

    REALNET_FUZZ=20 python -m pytest tests/core/test_fuzz.py
"""

import contextlib
import csv
import functools
import io
import json
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from realnet.config.params import (
    PROJECT,
    Params,
    check_plain,
    parse,
    read_yaml,
    resolve,
    stage_params,
)
from realnet.config.params import merge as laid_over
from realnet.config.sections import OwnLayout, Prepare
from realnet.core.errors import UserError
from realnet.datasets.items import FIELDS, Item, read_manifest
from realnet.datasets.layouts import list_categories, list_category
from realnet.evaluation.maps import Request, measure
from realnet.evaluation.maps.columns import read_labels, read_scores
from realnet.evaluation.maps.files import read_map, read_truth
from realnet.metrics import MetricInputError, image_ap, image_auroc, image_f1_max, pixel_metrics
from realnet.registry import params_of

sys.path.insert(0, str(PROJECT / "workflow/scripts"))
import dag

SCALE = float(os.environ.get("REALNET_FUZZ", "0.08"))
COUNTED: Counter[str] = Counter()
WANTED = 10_000


def inputs(count: int):
    """Hypothesis settings of a test with ``count`` inputs at scale 1.

    No deadline, since machines differ in speed, and no database, so that every run is the same
    (unless the scale is above 1).
    """
    return settings(
        max_examples=max(25, round(count * SCALE)),
        derandomize=SCALE <= 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def given(*strategies, **named):
    """Like ``hypothesis.given``; counts the inputs."""

    def decorate(test):
        @functools.wraps(test)
        def counted(*arguments, **inputs):
            COUNTED[test.__name__] += 1
            return test(*arguments, **inputs)

        return drawn(*strategies, **named)(counted)

    return decorate


def outcome(function, *arguments, **options):
    """The result, or None after a UserError of one line; any other error fails the test."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return function(*arguments, **options)
    except (UserError, MetricInputError) as error:
        line = str(error)
        assert line.strip() and line.isprintable(), repr(line)
        assert len(line) < 2_000, f"{len(line)} characters: {line[:300]}"
        return None


@pytest.fixture(scope="module")
def folder():
    """A folder for all inputs of this file, in memory if possible."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as name:
        yield Path(name)


# --- damage ---------------------------------------------------------------------------------------

AWKWARD = [b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b",", b",,,,", b"'", b"-1"]
AWKWARD += [
    b"1e999",
    b"nan",
    b"inf",
    b"9" * 5_000,
    b"x" * 140_000,
    "\u202e\u0301é".encode(),
    b"\x1b[2J",
]
AWKWARD += [b"../../etc/passwd", b"$(touch pwned)", b"[", b"{", b"&a ", b"*a", b"!!", b": ", b"- "]


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """``whole`` with up to four changes: bytes flipped, deleted, repeated, or inserted."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "insert", "replace", "delete", "cut", "repeat"]))
        end = place + draw(st.integers(0, 20))
        if kind == "flip":
            data[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "insert":
            data[place:place] = draw(st.sampled_from(AWKWARD))
        elif kind == "replace":
            data[place:end] = draw(st.sampled_from(AWKWARD))
        elif kind == "delete":
            del data[place:end]
        elif kind == "cut":
            del data[place:]
        else:
            data[place:place] = data[place:end]
    return bytes(data)


# --- manifests ------------------------------------------------------------------------------------

GOOD_ROW = dict(
    path="data/raw/demo/nut/train/good/0 ü.png",
    split="train",
    label="0",
    defect="good",
    mask_path="",
    width="64",
    height="48",
    sha256="ab" * 32,
    mask_sha256="",
)
BAD_ROW = GOOD_ROW | dict(
    path='data/raw/demo/nut/test/bent/"1, 2".png', split="test", label="1", defect="bent",
    mask_path="data/raw/demo/nut/ground_truth/bent/1_mask.png", mask_sha256="cd" * 32,
)  # fmt: skip


def table(header, rows) -> bytes:
    text = io.StringIO(newline="")

    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


MANIFEST = table(FIELDS, [[row[name] for name in FIELDS] for row in (GOOD_ROW, BAD_ROW)])


def check_items(items):
    for item in items or ():
        assert isinstance(item, Item)
        assert item.split in ("train", "test") and item.label in (0, 1)
        assert item.width > 0 and item.height > 0 and item.path.name
        assert "\0" not in f"{item.path}{item.mask_path}"


def test_a_valid_manifest_is_read(folder):
    (folder / "m.csv").write_bytes(MANIFEST)
    first, second = read_manifest(folder / "m.csv")
    assert (str(first.path), first.mask_path, first.width) == (GOOD_ROW["path"], None, 64)
    assert (str(second.path), second.label, second.defect) == (BAD_ROW["path"], 1, "bent")


@inputs(2_500)
@given(data=damaged(MANIFEST))
def test_damaged_manifests(folder, data):
    (folder / "m.csv").write_bytes(data)
    check_items(outcome(read_manifest, folder / "m.csv"))


TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from([part.decode("latin-1") for part in AWKWARD if len(part) < 100]),
    st.integers().map(str),
    st.floats().map(str),
)


@inputs(1_000)
@given(data=st.data())
def test_manifests_with_changed_values_columns_and_rows(folder, data):
    header = data.draw(st.permutations([*FIELDS, *data.draw(st.lists(TEXTS, max_size=2))]))
    header = header[: data.draw(st.integers(0, 14)) or None]
    rows = []
    for good in data.draw(st.lists(st.sampled_from([GOOD_ROW, BAD_ROW]), max_size=3)):
        row = good | data.draw(st.dictionaries(st.sampled_from(FIELDS), TEXTS, max_size=2))
        rows.append([row.get(name, "") for name in header][: data.draw(st.integers(0, 40)) or None])
        rows[-1] += data.draw(st.lists(TEXTS, max_size=1))
    (folder / "m.csv").write_bytes(table(header, rows))
    check_items(outcome(read_manifest, folder / "m.csv"))


# --- parameters -----------------------------------------------------------------------------------

VALUES = resolve(read_yaml(PROJECT / "params.yaml"), {"preset": "smoke"})
PLAIN = parse(VALUES).model_dump()


def leaves(values, above=()):
    for key, value in values.items() if isinstance(values, dict) else ():
        yield (*above, key)
        yield from leaves(value, (*above, key))


PLACES = [place for place in leaves(PLAIN) if place[0] != "variants"]
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 1e308, 10**400, -(10**30), 2**63, 5e-324])
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.binary(max_size=3), st.dates())
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(TEXTS, st.integers()), inner, max_size=4),
    ),
    max_leaves=8,
)


def at(place, value):
    for key in reversed(place):
        value = {key: value}
    return value


def usable(values):
    """Check the values to be plain and validate them, as for a file."""
    check_plain(values, "params.yaml")
    return parse(values)


def check_params(params):
    """Accepted parameters can be written as JSON for a stage and read back."""
    if params is not None:
        assert isinstance(params, Params)
        for stage in ("data", "realnet"):
            section = params.section_json(stage)
            assert stage_params(section, params_of(stage)).model_dump() == json.loads(section)


@inputs(2_000)
@given(place=st.sampled_from(PLACES), value=ANYTHING, other=st.sampled_from(PLACES))
def test_any_value_of_any_parameter(place, value, other):
    values = laid_over(VALUES, at(place, value))
    if len(str(value)) % 3 == 0:  # a second error, or a value from elsewhere
        values = laid_over(values, at((*place[:-1], *other[-1:]), value))
    check_params(outcome(usable, values))


@inputs(300)
@given(place=st.sampled_from(PLACES), value=ANYTHING, inside=ANYTHING)
def test_any_command_line_override(place, value, inside):
    """As Snakemake passes `--config a={b: 5}`: numbers are text."""
    key = place[0]
    overrides = {key: at(place[1:], value)} if len(place) > 1 else {key: value}
    params = outcome(
        dag.settings, VALUES, overrides | ({"preset": inside} if key == "preset" else {})
    )
    check_params(params)


@inputs(300)
@given(name=st.sampled_from(["base", "full", "x"]), place=st.sampled_from(PLACES), value=ANYTHING)
def test_any_override_of_a_variant(name, place, value):
    values = laid_over(VALUES, {"variants": {name: at(place, value)}})
    params = outcome(usable, values)
    if params is not None:
        outcome(params.variant, name)


@inputs(500)
@given(data=damaged(parse(VALUES).section_json("realnet").encode()))
def test_damaged_stage_parameters(data):
    text = data.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        outcome(stage_params, text, params_of("realnet"))


SMALL = b"""# a part of params.yaml
preset: smoke
experiment: &e {datasets: {demo: all, btad: ['01', "02"]}, seeds: [0, 1], variants: [base]}
compute:
  device: auto      # and a comment
  threads: 2
  when: 2026-01-02
training: {lr: 1.0e-4, steps: 10, text: |
   several
   lines
  }
again: *e
"""


@inputs(1_500)
@given(data=damaged(SMALL))
def test_damaged_yaml(folder, data):
    (folder / "p.yaml").write_bytes(data)
    values = outcome(read_yaml, folder / "p.yaml")
    assert values is None or isinstance(values, dict)
    if values is not None:
        outcome(lambda: parse(resolve(laid_over(VALUES, values))))


HOSTILE = {
    "python object": "preset: !!python/object/apply:os.system ['touch pwned']",
    "python name": "preset: !!python/name:os.system",
    "python module": "!!python/module:os",
    "python tuple": "experiment: !!python/tuple [1]",
    "cycle of lists": "experiment: &a [*a]",
    "cycle of mappings": "experiment: &a {variants: *a}",
    "cycle in free values": "backbone: &a {arch_args: {x: *a}}",
    "merge of itself": "a: &a {<<: *a}",
    "deep lists": "experiment: " + "[" * 3_000,
    "deep lists, closed": "experiment: " + "[" * 300 + "]" * 300,
    "deep mappings": "".join(f"{' ' * k}a:\n" for k in range(400)),
    "deep free values": "backbone: {arch_args: " + "{a: " * 60 + "1" + "}" * 60 + "}",
    "duplicate key": "preset: smoke\npreset: paper",
    "duplicate key inside": "compute: {threads: 1, threads: 2}",
    "no hashable key": "{[1, 2]: 3}",
    "mapping as key": "{{a: 1}: 3}",
    "no date": "preset: 2020-99-99",
    "number of many digits": "preset: " + "9" * 5_000,
    "base 60": "preset: 190:20:30",
    "not UTF-8": b"preset: \xff\xfe",
    "NUL": b"preset: smoke\0",
    "a list": "- preset",
    "a word": "preset",
    "two documents": "preset: smoke\n---\npreset: paper",
    "unknown tag": "preset: !x smoke",
    "no such alias": "preset: *x",
    "infinite": "training: {lr: .inf}",
    "not a number": "training: {lr: .nan}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml(folder, name, monkeypatch):
    monkeypatch.chdir(folder)
    text = HOSTILE[name]
    (folder / "p.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    found = outcome(lambda: parse(laid_over(VALUES, read_yaml(folder / "p.yaml"))))
    assert found is None and not (folder / "pwned").exists()


def test_recursive_overrides():
    overrides: dict = {"backbone": {"arch_args": {}}}
    overrides["backbone"]["arch_args"]["x"] = overrides
    with pytest.raises(UserError, match="nested deeper"):
        resolve(VALUES, overrides)


# --- layouts --------------------------------------------------------------------------------------

PATTERNS = st.lists(
    st.sampled_from(
        ["{category}", "{defect}", "{stem}", "{x}", "*", "**", "?", "[a-z]", "[!a]", "[", "]", "{",
         "}", "..", "/", "train", "good", ".png", "\\", "(", "a b", "é", "$(x)", "\0", "[]",
         "[z-a]"]
    ),
    max_size=6,
).map("".join)  # fmt: skip


@pytest.fixture(scope="module")
def tree(folder):
    for name in ("m8/train/good/0.png", "m8/test/good/1.png", "m8/test/bent/2.png"):
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder / "tree"


@inputs(400)
@given(parts=st.lists(PATTERNS, min_size=4, max_size=4))
def test_any_layout_pattern(tree, parts):
    layout = dict(zip(("train", "test_good", "test_defective", "mask"), parts, strict=True))
    params = outcome(parse, laid_over(VALUES, {"prepare": {"layouts": {"bolts": layout}}}))
    if params is not None:
        own = Prepare(allow_partial=False, layouts={"bolts": OwnLayout(**layout)})
        for category in outcome(list_categories, tree, "bolts", own.layouts) or ["m8"]:
            outcome(list_category, tree, "bolts", category, own)


@inputs(200)
@given(table=PATTERNS, content=st.text(max_size=80))
def test_any_split_table(tree, table, content):
    params = outcome(
        parse, laid_over(VALUES, {"prepare": {"layouts": {"bolts": {"table": table}}}})
    )
    (tree / "split.csv").write_text("path,split,defect,mask\n" + content, encoding="utf-8")
    for name in (table, "split.csv") if params is not None else ():
        own = Prepare(allow_partial=False, layouts={"bolts": OwnLayout(table=name)})
        for category in outcome(list_categories, tree, "bolts", own.layouts) or ["bolts"]:
            outcome(list_category, tree, "bolts", category, own)


# --- metrics --------------------------------------------------------------------------------------


def test_aurocs_match_scikit_learn():
    generator = random.Random(0)
    for _ in range(300):
        count = generator.randint(2, 30)
        labels = [0, 1] + [generator.randint(0, 1) for _ in range(count - 2)]
        values = [generator.choice([generator.gauss(0, 1), 0.5, 1e300, -1e-300]) for _ in labels]
        scores = np.array(values)
        assert outcome(image_auroc, scores, labels) == pytest.approx(
            roc_auc_score(labels, scores), abs=1e-12
        )
        assert image_ap(scores, labels) == pytest.approx(
            average_precision_score(labels, scores), abs=1e-12
        )


DTYPES = [
    "?",
    "u1",
    "i1",
    "<u2",
    ">i4",
    "<i8",
    "<u8",
    "<f2",
    "<f4",
    ">f4",
    "<f8",
    "<c8",
    "<U3",
    "S2",
]
DTYPES += ["M8[s]", "m8[s]", "V4", "<f8,<i4", "g", "O"]
SPECIAL = [0, 1, -1, 0.5, float("nan"), float("inf"), float("-inf"), 1e300, 1e-300, 255]


@st.composite
def arrays(draw, shapes, likely):
    """Mostly valid arrays; values are from a small set, so that they tie, or random."""
    odd = draw(st.integers(0, 5)) == 0
    dtype = np.dtype(draw(st.sampled_from(DTYPES if odd else likely)))
    shape = draw(shapes)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        values = generator.normal(size=shape) * draw(st.sampled_from([0, 1, 100]))
    else:
        chosen = draw(st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=4))
        values = generator.choice(np.array(chosen, float), size=shape)
    with np.errstate(all="ignore"):
        try:
            return values.astype(dtype)
        except (TypeError, ValueError, OverflowError):
            return np.zeros(shape, dtype)


SIDES = st.integers(0, 5)
STACKS = st.one_of(
    st.just((4, 5, 5)),
    st.just((4, 5, 5)),
    st.just((4, 1, 5, 5)),
    st.lists(SIDES, max_size=4).map(tuple),
)
ROWS = st.one_of(st.just((4,)), st.lists(SIDES, max_size=2).map(tuple))
MAP_KINDS, MASK_KINDS = ["<f4", "<f8", "<f2", "u1", "<i8"], ["?", "u1", "<f4"]
ROW_LABELS = arrays(ROWS, MASK_KINDS)


def check_measured(result):
    if result is None:
        return
    assert json.loads(json.dumps(result, allow_nan=False))
    for key, value in result.items():
        if key.startswith(("image_a", "image_f", "pixel_", "pro")) and isinstance(value, float):
            assert 0 <= value <= 1, (key, value)
        if value is None and key in ("image_auroc", "image_ap"):
            assert key in result["undefined"]


@inputs(1_000)
@given(arrays(STACKS, MAP_KINDS), arrays(STACKS, MASK_KINDS), arrays(ROWS, MAP_KINDS), ROW_LABELS)
@pytest.mark.filterwarnings("ignore")
def test_metrics_of_arbitrary_arrays(maps, masks, scores, labels):
    for function in (image_auroc, image_ap, image_f1_max):
        value = outcome(function, scores, labels)
        assert value is None or np.isnan(value) or 0 <= value <= 1
    found = outcome(pixel_metrics, maps, masks)
    for value in (found or {}).values():
        assert value is None or not isinstance(value, float) or np.isnan(value) or 0 <= value <= 1


@inputs(900)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_metrics_command_on_arbitrary_npy_files(folder, data):
    maps, masks = data.draw(arrays(STACKS, MAP_KINDS)), data.draw(arrays(STACKS, MASK_KINDS))
    np.save(folder / "maps.npy", maps, allow_pickle=True)
    np.save(folder / "masks.npy", masks, allow_pickle=True)
    options = data.draw(
        st.fixed_dictionaries(
            {"resamples": st.sampled_from([0, 0, 0, 2])},
            optional={
                "resize": st.sampled_from(["masks", "maps"]),
                "pool": st.integers(1, 8),
                "pro_limit": st.sampled_from([0.3, 1.0, 1e-9, 0.0, 2.0, float("nan")]),
                "logits": st.booleans(),
                "compat": st.booleans(),
            },
        )
    )
    if data.draw(st.booleans()):
        np.save(folder / "labels.npy", data.draw(arrays(ROWS, MASK_KINDS)), allow_pickle=True)
        options["labels"] = folder / "labels.npy"
    given_masks = data.draw(st.sampled_from([folder / "masks.npy"] * 4 + [None]))
    check_measured(outcome(measure, Request(folder / "maps.npy", given_masks, **options)))


EVALUATED = ("margins", "masks", "labels", "image_scores", "defects", "has_masks")


@inputs(500)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_metrics_command_on_altered_scores_npz(folder, data):
    """A scores.npz as the evaluation writes it, with some arrays changed, removed or added."""
    stored = {
        "margins": np.random.default_rng(0).normal(size=(4, 5, 5)).astype(np.float32),
        "masks": np.arange(100).reshape(4, 5, 5) >= 60,
        "labels": np.array([0, 0, 1, 1]),
        "image_scores": np.array([0.1, 0.4, 0.3, 0.9]),
        "defects": np.array(["good", "good", "bent", "cut"]),
        "has_masks": np.array(True),
    }
    for name in data.draw(st.lists(st.sampled_from(EVALUATED), max_size=2)):
        stored[name] = data.draw(arrays(st.one_of(STACKS, ROWS), MAP_KINDS))
    for name in data.draw(st.lists(st.sampled_from(EVALUATED), max_size=1)):
        stored.pop(name, None)
    np.savez(folder / "scores.npz", **stored)
    check_measured(outcome(measure, Request(folder / "scores.npz", resamples=0)))


def npy(values) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def npz(**values) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **values)
    return file.getvalue()


def picture(suffix: str) -> bytes:
    import cv2

    return cv2.imencode(suffix, np.arange(64, dtype=np.float32).reshape(8, 8))[1].tobytes()


WHOLE = npy(np.linspace(0, 1, 100, dtype=np.float32).reshape(4, 5, 5))
TRUTH = npy(np.arange(100).reshape(4, 5, 5) >= 60)


@inputs(700)
@given(data=damaged(WHOLE))
@pytest.mark.filterwarnings("ignore")
def test_damaged_npy(folder, data):
    (folder / "d.npy").write_bytes(data)
    (folder / "t.npy").write_bytes(TRUTH)
    check_measured(outcome(measure, Request(folder / "d.npy", folder / "t.npy", resamples=0)))
    outcome(read_truth, folder / "d.npy")


@inputs(600)
@given(data=damaged(npz(a=np.zeros((4, 5, 5), np.float32))))
@pytest.mark.filterwarnings("ignore")
def test_damaged_npz(folder, data):
    (folder / "d.npz").write_bytes(data)
    (folder / "t.npy").write_bytes(TRUTH)
    check_measured(outcome(measure, Request(folder / "d.npz", folder / "t.npy", resamples=0)))


@inputs(400)
@pytest.mark.filterwarnings("ignore")
@given(data=st.one_of(*(damaged(picture(suffix)) for suffix in (".tiff", ".png"))))
def test_damaged_map_images(folder, data):
    for name in ("d.tiff", "d.png"):
        (folder / name).write_bytes(data)
        values = outcome(read_map, folder / name)
        assert values is None or values.ndim == 2
        mask = outcome(read_truth, folder / name)
        assert mask is None or (mask.ndim == 2 and mask.dtype == bool)


LABELS = table(["path", "label", "score", "defect"],
               [["a/good/0.png", 0, 0.25, "good"], ["a/bent/1.png", 1, 0.75, "bent"]])  # fmt: skip


@inputs(800)
@given(data=damaged(LABELS), names=st.sampled_from([None, ["good/0", "bent/1"]]))
def test_damaged_labels_and_scores(folder, data, names):
    (folder / "l.csv").write_bytes(data)
    found = outcome(read_labels, folder / "l.csv", 2, names)
    assert found is None or (found[0].shape == (2,) and found[0].dtype == bool)
    scores = outcome(read_scores, folder / "l.csv", 2, names)
    assert scores is None or (scores.shape == (2,) and not np.isnan(scores).any())


def test_valid_labels_are_read(folder):
    (folder / "l.csv").write_bytes(LABELS)
    found = read_labels(folder / "l.csv", 2, ["bent/1", "good/0"])
    assert found.anomalous.tolist() == [True, False] and found.defects == ["bent", "good"]
    assert read_scores(folder / "l.csv", 2, None).tolist() == [0.25, 0.75]


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(SCALE < 1, reason="a part of the inputs: REALNET_FUZZ is below 1")
def test_the_number_of_inputs_is_the_documented_one(request):
    """Counted over the whole file; skipped if only some of its tests run."""
    here = [item for item in request.session.items if item.path == request.path]
    named = {name for name in globals() if name.startswith("test_")}
    if {item.originalname for item in here} != named:
        pytest.skip("only a part of the file was run")
    print(f"{COUNTED.total()} inputs: {dict(COUNTED)}")
    assert COUNTED.total() >= WANTED, COUNTED
