"""Registered models: real small detectors in a real registry, loaded as users of MLflow do."""

import ast
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import evaluate, fit_patchcore, prepare
from reference.official_realnet import OfficialRealNet, randomise, save_official, single

from realnet.config.params import load, stage_params
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, write_json, write_png
from realnet.datasets.images import read_image
from realnet.evaluation.predict import PredictOptions, predict
from realnet.interop.realnet_checkpoint import import_realnet
from realnet.models.features import build_network, write_backbone
from realnet.registry import params_of
from realnet.tracking import track
from realnet.tracking.registry import REQUIRED

SMOKE = load(overrides={"preset": "smoke"})
SIZE, POOL = 32, 4
NAME = "realnet-demo-hex_nut"
EXPERIMENT = {
    "name": "test",
    "datasets": {"demo": ["hex_nut"]},
    "seeds": [0],
    "variants": ["base", "texture"],
}
PARAMS = json.dumps(
    {"experiment": EXPERIMENT, "variants": {"base": {}, "texture": {"synthesis": {}}}}
)


def evaluate_stage():
    sections = json.loads(SMOKE.section_json("evaluate"))
    sections["data"]["image_size"] = SIZE
    sections["evaluate"] |= {"image_score_pool": POOL, "batch_size": 2}
    return stage_params(json.dumps(sections), params_of("evaluate"))


def detector(root, variant, seed):
    """A random detector of one block, complete in its folder, and its evaluation."""
    draw = torch.Generator().manual_seed(seed)
    some = torch.randn(2, 3, SIZE, SIZE, generator=draw)
    net = OfficialRealNet(single(("layer1", 64)), numbers=(8, 8), multipliers=(1, 2))
    checkpoint = save_official(root / "c.pth.tar", randomise(net, some, seed))
    model = root / f"results/realnet/demo/hex_nut/seed0/{variant}"
    shutil.rmtree(model, ignore_errors=True)
    import_realnet(checkpoint, model, SIZE, "demo", "hex_nut")
    out = root / f"results/evaluate/demo/hex_nut/seed0/{variant}"
    manifest = root / "results/data/demo/hex_nut/manifest.csv"
    evaluate(evaluate_stage(), manifest, model, "demo", "hex_nut", 0, variant, out)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two variants of one category, evaluated."""
    root = tmp_path_factory.mktemp("models") / "with a blank"
    rng = np.random.default_rng(0)
    for name in ("train/good/0", "test/good/0", "test/good/1", "test/hole/0", "test/hole/1"):
        path = root / f"raw/hex_nut/{name}.png"
        write_png(path, rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
        if "hole" in name:
            mask = np.zeros((40, 48), np.uint8)
            mask[8:20, 8:20] = 255
            write_png(root / f"raw/hex_nut/ground_truth/hole/{path.stem}_mask.png", mask)
    folder = root / "results/data/demo/hex_nut"
    prepare("demo", "hex_nut", root / "raw", folder, SMOKE.prepare)
    for seed, variant in enumerate(EXPERIMENT["variants"]):
        detector(root, variant, seed)
    return root


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def root(made, empty, tmp_path, monkeypatch):
    """A copy for each test with a store, as working folder."""
    here = tmp_path / "with a blank"
    shutil.copytree(made / "results", here / "results")
    shutil.copyfile(empty, here / "store.db")
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/store.db")
    for path in (here / "results").rglob("stage.json"):
        path.write_text(path.read_text().replace(str(made), str(here)))
    return here


@pytest.fixture
def images(made):
    paths = sorted((made / "raw/hex_nut/test").rglob("*.png"))
    return [paths[0], paths[3], paths[1]]


def registry():
    import os

    from mlflow import MlflowClient

    uri = os.environ["MLFLOW_TRACKING_URI"]
    return MlflowClient(uri, registry_uri=uri)


def model_of(alias="base-seed0"):
    import mlflow

    return mlflow.pyfunc.load_model(f"models:/{NAME}@{alias}")


def predicted(root, images, variant="base", model=None):
    """The results of `realnet predict --raw --margins`."""
    compute = SMOKE.compute.model_copy(update={"device": "cpu", "threads": 1})
    model = model or root / f"results/realnet/demo/hex_nut/seed0/{variant}"
    options = PredictOptions(POOL, raw=True, margins=True, batch_size=2)
    done = predict(model, images, root / "out", compute, options)
    names = [row["name"] for row in read_csv(root / "out/scores.csv")]
    return {
        "score": np.array([score for _, score in done.scores]),
        "map": np.stack([np.load(root / f"out/{name}.npy") for name in names]),
        "margin": np.stack([np.load(root / f"out/{name}_margin.npy") for name in names]),
    }


def same(found, expected):
    return set(found) == set(expected) and all(
        np.array_equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype
        for name in expected
    )


def test_a_registered_model_is_bit_identical_to_predict(root, images):
    track(Path("results"), PARAMS, models="all")
    for variant in EXPERIMENT["variants"]:
        expected = predicted(root, images, variant)
        found = model_of(f"{variant}-seed0").predict(list(map(str, images)))
        assert found["margin"].shape == found["map"].shape == (3, SIZE, SIZE)
        assert same(found, expected)


def test_every_form_of_input(root, images):
    track(Path("results"), PARAMS)
    model = model_of()
    paths = list(map(str, images))
    arrays = [read_image(path) for path in paths]
    expected = model.predict(paths)
    for given in (
        *(np.stack(arrays), arrays, np.stack(arrays).astype(np.int64), np.array(paths), images),
        *(pd.DataFrame({"path": paths, "label": 1}), pd.DataFrame({"file": paths})),
        np.stack(arrays).tolist(),  # as it comes from JSON
    ):
        assert same(model.predict(given), expected)
    one = model.predict(arrays[2])  # the last image, alone in its batch
    assert one["map"].shape == (1, SIZE, SIZE)
    assert np.array_equal(one["margin"][0], expected["margin"][2])
    assert same(model.predict(paths[2]), one)
    assert model.predict(np.empty((0, 8, 8, 3), np.uint8))["map"].shape == (0, SIZE, SIZE)


def test_another_window_of_the_score(root, images):
    track(Path("results"), PARAMS)
    model = model_of()
    found = model.predict(list(images), params={"image_score_pool": 1})
    assert found["score"] == pytest.approx(found["map"].max((1, 2)), abs=1e-6)
    assert (found["score"] > model.predict(list(images))["score"]).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 8, 3)), "an array of float64"),
        (np.zeros((8, 8, 3), np.int64) - 1, "an array of int64"),
        (np.zeros((8, 8, 1), np.uint8), r"shape \[8, 8, 1\]"),
        (np.zeros((8, 8), np.uint8), r"shape \[8, 8\]"),
        (["nothing.png"], "nothing.png: no such image"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "columns a, b"),
    ],
)
def test_errors_are_one_line(served, given, message):
    with pytest.raises(UserError, match=message) as error:
        served.predict(given)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def served(made, empty, tmp_path_factory):
    """One loaded model for all tests that do not modify it."""
    patch = pytest.MonkeyPatch()
    here = tmp_path_factory.mktemp("served")
    shutil.copyfile(empty, here / "store.db")
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/store.db")
    patch.chdir(made)
    try:
        track(Path("results"), PARAMS)
        yield model_of()
    finally:
        patch.undo()
    shutil.rmtree(made / "results/mlartifacts")


def test_signature_example_and_requirements(served):
    import mlflow

    signature = served.metadata.signature
    assert [(o.name, str(o.type), o.shape) for o in signature.outputs] == [
        ("score", "float64", (-1,)),
        ("map", "float32", (-1, SIZE, SIZE)),
        ("margin", "float32", (-1, SIZE, SIZE)),
    ]
    assert [(p.name, p.default) for p in signature.params] == [("image_score_pool", POOL)]
    folder = Path(mlflow.artifacts.download_artifacts(served.metadata.artifact_path))
    found = served.predict(served.input_example)
    assert found["map"].shape == (1, SIZE, SIZE)
    wanted = {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()}
    assert wanted == {"mlflow", *REQUIRED}
    assert not list(folder.rglob("*.pkl")) and not list(folder.rglob("__pycache__"))
    assert served.unwrap_python_model().__class__.__name__ == "Served"


@pytest.mark.slow
def test_a_model_works_without_the_project(root, images):
    """A moved model in a process that has neither this project nor its results."""
    import mlflow

    track(Path("results"), PARAMS)
    expected = predicted(root, images)
    place = registry().get_model_version_by_alias(NAME, "base-seed0").source
    away = root.parent / "away"
    shutil.copytree(mlflow.artifacts.download_artifacts(place), away / "model")
    shutil.rmtree(root / "results")
    (away / "run.py").write_text(
        "import json, sys, mlflow, numpy as np\n"
        "model = mlflow.pyfunc.load_model('model')\n"
        "found = model.predict(sys.argv[1:])\n"
        "np.save('margin.npy', found['margin'])\n"
        "mine = [m for n, m in list(sys.modules.items()) if n.partition('.')[0] == 'realnet']\n"
        "json.dump([m.__file__ for m in mine], open('files.json', 'w'))\n"
    )
    command = [sys.executable, "run.py", *map(str, images)]
    subprocess.run(command, cwd=away, env={"PATH": "/usr/bin:/bin", "HOME": str(away)}, check=True)
    assert np.array_equal(np.load(away / "margin.npy"), expected["margin"])
    files = [Path(path) for path in read_json(away / "files.json")]
    assert files and all(path.is_relative_to(away / "model/code/realnet") for path in files)
    # The code imports only its requirements and the standard library.
    distributions = packages_distributions()
    imported = set()
    for path in files:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    foreign = {n for n in imported if n not in sys.stdlib_module_names and n != "realnet"}
    needed = {distributions[name][0].lower() for name in foreign}
    assert {"torch", "timm", "pillow"} <= needed <= {"mlflow", *REQUIRED}


def test_patchcore_model(root, images):
    """Another method: its own folder and files, the same way in and out."""
    backbone = root / "results/backbone/base"
    torch.manual_seed(0)
    network = build_network(SMOKE.backbone)
    write_backbone(backbone, network, SMOKE.backbone, source="random")
    sections = json.loads(SMOKE.section_json("patchcore"))
    sections["data"]["image_size"] = SIZE
    stage = stage_params(json.dumps(sections), params_of("patchcore"))
    manifest = root / "results/data/demo/hex_nut/manifest.csv"
    model = root / "results/patchcore/demo/hex_nut/seed0/texture"
    fit_patchcore(stage, manifest, backbone, "demo", "hex_nut", 0, model)
    out = root / "results/evaluate/demo/hex_nut/seed0/texture"
    evaluate(evaluate_stage(), manifest, model, "demo", "hex_nut", 0, "texture", out)
    track(Path("results"), PARAMS, models="all")
    version = registry().get_model_version_by_alias(NAME, "texture-seed0")
    assert version.tags["method"] == "patchcore"
    expected = predicted(root, images, model=model)
    shutil.rmtree("results/patchcore")
    assert same(model_of("texture-seed0").predict(list(images)), expected)


def test_which_models_are_registered(root, capsys):
    there = registry()
    track(Path("results"), PARAMS, models="none")
    assert there.search_registered_models() == []
    track(Path("results"), PARAMS, models="reference")
    assert set(there.get_registered_model(NAME).aliases) == {"base-seed0"}
    track(Path("results"), PARAMS, Path("receipt.json"), models="all")
    assert set(there.get_registered_model(NAME).aliases) == {"base-seed0", "texture-seed0"}
    models = read_json("receipt.json")["models"]
    assert set(models) == {f"demo/{v}/hex_nut/seed0" for v in EXPERIMENT["variants"]}
    assert "2 models registered" in capsys.readouterr().out


def test_the_same_weights_are_registered_once(root):
    there = registry()
    for _ in range(2):
        track(Path("results"), PARAMS)
    (version,) = there.search_model_versions(f"name='{NAME}'")
    assert version.tags["model_sha256"] in (root / version.tags["model"] / "model.json").read_text()
    run = there.get_run(version.run_id)
    assert run.data.tags["registered_model"] == f"{NAME}/{version.version}"
    assert "models:/realnet-demo-hex_nut@base-seed0" in version.description
    # A new evaluation of the same weights: another run, the same model.
    path = root / "results/evaluate/demo/hex_nut/seed0/base/metrics.json"
    write_json(path, read_json(path) | {"image_auroc": 0.123})
    track(Path("results"), PARAMS)
    (again,) = there.search_model_versions(f"name='{NAME}'")
    assert again.version == version.version


def test_new_weights_replace_the_old(root, images):
    there = registry()
    track(Path("results"), PARAMS)
    old = there.get_model_version_by_alias(NAME, "base-seed0").version
    shutil.copytree(Path("results/data"), root / "kept")
    detector(root, "base", 7)
    track(Path("results"), PARAMS)
    new = there.get_model_version_by_alias(NAME, "base-seed0").version
    assert new != old
    assert [v.version for v in there.search_model_versions(f"name='{NAME}'")] == [new]
    assert same(model_of().predict(list(images)), predicted(root, images))
    there.set_registered_model_alias(NAME, "production", new)  # of the user's own
    detector(root, "base", 8)
    track(Path("results"), PARAMS)
    left = {v.version for v in there.search_model_versions(f"name='{NAME}'")}
    assert left == {new, there.get_model_version_by_alias(NAME, "base-seed0").version}


def test_a_large_model_is_not_copied(root, images):
    track(Path("results"), PARAMS, copy_limit=0)
    version = registry().get_model_version_by_alias(NAME, "base-seed0")
    assert version.tags["files"] == "in the results"
    folder = Path(re.sub("^file://", "", version.source).replace("%20", " "))
    assert folder.is_dir() and not list(folder.rglob("*.safetensors"))
    assert same(model_of().predict(list(images)), predicted(root, images))
    Path("results/realnet").rename("elsewhere")
    with pytest.raises(UserError, match=r"no model\.json there"):
        model_of()


def test_missing_models_are_omitted(root, capsys):
    shutil.rmtree("results/realnet/demo/hex_nut/seed0/base/backbone")
    track(Path("results"), PARAMS, models="all")
    assert "1 models have no files" in capsys.readouterr().err
    assert set(registry().get_registered_model(NAME).aliases) == {"texture-seed0"}
