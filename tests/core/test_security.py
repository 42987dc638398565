"""External data is never executed, servers listen locally, and secrets are written nowhere."""

import ast
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import unicodedata
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realnet.config.params import PROJECT, load, parse, read_yaml, resolve
from realnet.core.errors import UserError
from realnet.core.io import read_json, sha256
from realnet.datasets.items import read_manifest
from realnet.evaluation.maps import Request, measure
from realnet.evaluation.stored import load_per_image
from realnet.interop.adm import read_state
from realnet.interop.safe_load import load_checkpoint
from realnet.models.features import read_weights_file
from realnet.training.checkpoint import Checkpoints

sys.path.insert(0, str(PROJECT / "workflow/scripts"))
import dag

# --- the rule: no code of this project executes data ----------------------------------------------

MODULES = {"marshal", "shelve", "dill", "joblib", "cloudpickle", "jsonpickle", "commands"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load_all"),
    *("yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("torch.hub.load", "torch.jit.load", "pandas.read_pickle", "pd.read_pickle"),
    *("asyncio.create_subprocess_shell", "mlflow.pyfunc.load_model"),
}
# Exceptions: file, call, and the reason why it is allowed.
ALLOWED = {
    ("realnet/training/checkpoint.py", "import pickle"): "for the name of its error alone",
    ("realnet/config/params.py", "yaml.load"): "with a loader that is a SafeLoader (tested below)",
}


def findings(source: str, where: str) -> list[str]:
    """Violations of the rule in a module's source, as ``file: call``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.partition(".")[0] for name in names}
            found += [f"import {name}" for name in roots & (MODULES | {"pickle"})]
            if isinstance(node, ast.ImportFrom):  # `from os import system` hides its module
                called = {f"{node.module}.{alias.name}" for alias in node.names}
                found += sorted(called & (CALLS | {"torch.load", "yaml.load", "numpy.load"}))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            found += [] if node.attr == "UnpicklingError" else [f"pickle.{node.attr}"]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            safe = {
                "torch.load": given.get("weights_only") == "True",
                "np.load": given.get("allow_pickle") == "False",
                "numpy.load": given.get("allow_pickle") == "False",
                "yaml.load": False,
            }.get(name, name not in CALLS)
            shell = given.get("shell", "False") != "False"
            found += [] if safe and not shell else [f"{name}{' with a shell' if shell else ''}"]
    return [what for what in found if (where, what) not in ALLOWED]


def sources() -> dict[str, str]:
    paths = [*PROJECT.glob("realnet/**/*.py"), *PROJECT.glob("workflow/**/*.py")]
    return {p.relative_to(PROJECT).as_posix(): p.read_text(encoding="utf-8") for p in paths}


def test_no_module_executes_data():
    texts = sources()
    assert len(texts) > 100
    found = {where: found for where, text in texts.items() if (found := findings(text, where))}
    assert not found


def test_allowed_exceptions_are_still_needed():
    texts = sources()
    for where, what in ALLOWED:
        assert what in texts[where].replace("yaml.load(path", "yaml.load"), (where, what)
    assert re.search(r"class _Loader\(yaml\.SafeLoader\)", texts["realnet/config/params.py"])
    assert (
        'yaml.load(path.read_text(encoding="utf-8"), _Loader)' in texts["realnet/config/params.py"]
    )


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "from torch import load",
        "import pickle",
        "from pickle import loads",
        "import shelve",
        "import joblib",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "import os\nos.system('ls ' + name)",
        "from os import system",
        "import subprocess\nsubprocess.run('ls ' + name, shell=True)",
        "import subprocess\nsubprocess.Popen(command, shell=flag)",
    ],
)
def test_the_rule_finds_each_forbidden_call(text):
    assert findings(text, "realnet/new.py")


def test_shell_commands_quote_their_values():
    """Snakemake puts values into the text of a command; `:q` quotes them."""
    texts = [p.read_text() for p in [*PROJECT.glob("workflow/rules/*.smk"), PROJECT / "Snakefile"]]
    fields = re.findall(r"{((?:params|input|output)\b[^{}]*)}", "\n".join(texts))
    assert len(fields) > 30
    bare = {field for field in fields if not field.endswith(":q")}
    # Consists of several words, each of which is quoted where the text is built.
    assert bare == {"params.manifests", "params.categories", "params.classifier", "params.sdas"}
    assert "\n".join(texts).count("shlex.quote(") >= 4


def test_wildcards_match_only_plain_names():
    text = (PROJECT / "workflow/rules/common.smk").read_text()
    block = text.partition("wildcard_constraints:\n")[2].partition("\n\n")[0]
    constraints = dict(re.findall(r'(\w+)=r"(.*)"', block))
    assert {"dataset", "category", "variant", "seed"} <= set(constraints)
    assert set(constraints.values()) <= {r"\w+", r"\d+"}


# --- malicious files ------------------------------------------------------------------------------


class Bomb:
    """Creates a folder when it is unpickled."""

    def __init__(self, trap: Path):
        self.trap = trap

    def __reduce__(self):
        return os.mkdir, (str(self.trap),)


@pytest.fixture
def trap(tmp_path) -> Path:
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(Bomb(trap)))
    assert trap.is_dir()  # unpickling it does run code
    trap.rmdir()
    return trap


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("reader", [load_checkpoint, read_state])
@pytest.mark.parametrize(
    "kind", ["zip", "legacy", "plain pickle", "in a list", "named safetensors"]
)
def test_foreign_checkpoints_execute_no_code(tmp_path, trap, reader, kind):
    path = tmp_path / ("w.safetensors" if kind == "named safetensors" else "w.pt")
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps({"w": Bomb(trap)}))
    else:
        content = [Bomb(trap)] if kind == "in a list" else {"w": torch.zeros(2), "x": Bomb(trap)}
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    with pytest.raises(UserError):
        reader(path)
    assert not trap.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_backbone_files_execute_no_code(tmp_path, trap, suffix, zipped):
    path = tmp_path / f"w{suffix}"
    torch.save({"w": Bomb(trap)}, path, _use_new_zipfile_serialization=zipped)
    params = load(PROJECT / "params.yaml").backbone
    params = params.model_copy(update={"source": "file", "file": str(path), "sha256": sha256(path)})
    with pytest.raises(UserError, match="not a readable state dict"):
        read_weights_file(params)
    assert not trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_training_checkpoints_execute_no_code(tmp_path, trap, zipped, capsys):
    checkpoints = Checkpoints(tmp_path / "out", "identity")
    torch.save(
        {"identity": "identity", "processes": 1, "x": Bomb(trap)},
        checkpoints.path,
        _use_new_zipfile_serialization=zipped,
    )
    assert checkpoints.load() is None and "starts from scratch" in capsys.readouterr().out
    assert not trap.exists()


def test_arrays_execute_no_code(tmp_path, trap):
    objects = np.array([[[Bomb(trap)]]], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", margins=objects, masks=objects, scores=objects)
    (tmp_path / "p.npy").write_bytes(pickle.dumps(Bomb(trap)))
    np.save(tmp_path / "m.npy", np.ones((1, 1, 1)))
    for name in ("o.npy", "o.npz", "p.npy"):
        with pytest.raises(UserError, match=r"NumPy file of numbers|no array"):
            measure(Request(tmp_path / name, tmp_path / "m.npy"))
    with pytest.raises(UserError, match="allow_pickle=False"):
        load_per_image(tmp_path / "o.npz")
    assert not trap.exists()


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [trap]",
        "!!python/object/new:os.mkdir [trap]",
        "!!python/name:os.mkdir",
        "!!python/object:subprocess.Popen {}",
    ],
)
def test_yaml_executes_no_code(tmp_path, tag, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(f"preset: {tag}\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(tmp_path / "params.yaml")
    for overrides in ({"preset": tag}, {"compute": {"threads": tag}}):
        with pytest.raises(UserError):
            dag.settings(read_yaml(PROJECT / "params.yaml"), overrides)
    assert not (tmp_path / "trap").exists()


# --- servers --------------------------------------------------------------------------------------


def test_servers_listen_on_localhost_only(tmp_path):
    done = subprocess.run(
        ["make", "-n", "mlflow"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    (server,) = (
        line.split() for line in done.stdout.splitlines() if "mlflow" in line and " ui " in line
    )
    assert server[server.index("--host") + 1] == "127.0.0.1"
    texts = sources() | {"Makefile": (PROJECT / "Makefile").read_text()}
    for where, text in texts.items():
        assert "0.0.0.0" not in text, where
        assert not re.search(r"http\.server|socketserver|HTTPServer|\.serve_forever", text), where


# --- names ----------------------------------------------------------------------------------------

UNSAFE_NAMES = [
    "a b",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned;",
    "x && touch pwned",
    "x | touch pwned",
    "-rf",
    "--help",
    "it's",
    'quote"',
    "back\\slash",
    "new\nline",
    "\x1b[31mred",
    "%s",
    "*",
    "[a]",
    "#",
    "~",
    "a,b",
    unicodedata.normalize("NFC", "ünï"),
    unicodedata.normalize("NFD", "ünï"),
    "é" * 120,
]


@pytest.mark.parametrize("name", [*UNSAFE_NAMES, "{x}", "my-part", "_x", "ok\n"])
def test_unsafe_category_names_are_refused_in_one_line(tmp_path, name, monkeypatch):
    for part in ("train/good", "test/good", "test/bent"):
        (tmp_path / "raw/bolts" / name / part).mkdir(parents=True)
        (tmp_path / "raw/bolts" / name / part / "0.png").write_bytes(b"x")
    values = read_yaml(PROJECT / "params.yaml")
    for wanted in ("all", [name]):
        own = {"data": {"root": str(tmp_path / "raw")}}
        own["experiment"] = {"datasets": {"bolts": wanted}, "variants": ["base"]}
        with pytest.raises(UserError, match=r"letters A-Z and a-z, digits and _") as error:
            dag.matrix(parse(resolve(values, own)))
        assert str(error.value).isprintable()


def test_file_names_with_wildcards_are_refused(tmp_path):
    for part in ("train/good", "test/good", "test/bent"):
        (tmp_path / "bolts/m8" / part).mkdir(parents=True)
        (tmp_path / "bolts/m8" / part / "{x}.png").write_bytes(b"x")
    own = {"data": {"root": str(tmp_path)}}
    params = parse(resolve(read_yaml(PROJECT / "params.yaml"), own))
    with pytest.raises(UserError, match=r"file names with { or } cannot be used; rename it"):
        dag.raw_files(params, "bolts", "m8")


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s3cr3t-aws",
    "AWS_SESSION_TOKEN": "s3cr3t-session",
    "MLFLOW_TRACKING_USERNAME": "s3cr3t-name",
    "MLFLOW_TRACKING_PASSWORD": "s3cr3t-mlflow",
    "MLFLOW_TRACKING_TOKEN": "s3cr3t-token",
    "HF_TOKEN": "s3cr3t-hf",
    "MLFLOW_TRACKING_URI": "http://s3cr3t-user:s3cr3t-uri@127.0.0.1:9",
    "HTTPS_PROXY": "http://u:s3cr3t-proxy@127.0.0.1:9",
}


class Project:
    """A copy of the project with a dataset of awkward names, and secrets in its environment."""

    def __init__(self, root: Path):
        self.root, self.output = root, ""
        for name in ("Snakefile", "params.yaml", "pyproject.toml"):
            shutil.copy(PROJECT / name, root / name)
        for name in ("realnet", "workflow"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT / name, root / name, ignore=ignored)

    def run(self, *command: str, status: int = 0) -> str:
        environment = os.environ | SECRETS | {"PYTHONDONTWRITEBYTECODE": "1"}
        environment["HOME"] = str(self.root / "home")
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )
        assert done.returncode == status, done.stdout[-3000:]
        self.output += done.stdout
        return done.stdout


def draw(path: Path, mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((16, 16) if mask else (16, 16, 3), np.uint8)
    pixels[4:8, 4:8] = 255 if mask else len(path.name) % 200 + 1
    Image.fromarray(pixels).save(path, format="PNG")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("project with spaces"))
    nut = project.root / "data/raw/bolts/m8"
    for name in UNSAFE_NAMES:
        draw(nut / f"train/good/{name}.png")
        draw(nut / f"test/good/{name}.png")
        draw(nut / f"test/{name}/{name}.png")
        draw(nut / f"ground_truth/{name}/{name}_mask.png", mask=True)
    wanted = {"datasets": {"bolts": ["m8"]}, "variants": ["base"]}
    project.run(
        *("snakemake", "--cores", "2", "--config", "preset=smoke"),
        *(f"experiment={json.dumps(wanted)}", "--", "data", "backbone"),
    )
    return project


def test_files_of_any_name_are_listed_and_nothing_is_executed(project):
    results = project.root / "results/data/bolts/m8"
    items = read_manifest(results / "manifest.csv")
    names = {f"{name}.png" for name in UNSAFE_NAMES}
    for split, label in (("train", 0), ("test", 0), ("test", 1)):
        part = [item for item in items if (item.split, item.label) == (split, label)]
        assert {item.path.name for item in part} == names
    for item in items:
        assert sha256(project.root / item.path) == item.sha256
        if item.label:
            assert item.defect == item.path.stem
            assert item.mask_path.name == f"{item.path.stem}_mask.png"
    assert read_json(results / "summary.json")["test_defective"] == len(UNSAFE_NAMES)
    assert not list(project.root.rglob("pwned*"))


def test_a_second_run_has_nothing_to_do(project):
    wanted = {"datasets": {"bolts": ["m8"]}, "variants": ["base"]}
    text = project.run(
        *("snakemake", "--cores", "2", "--dry-run", "--config", "preset=smoke"),
        *(f"experiment={json.dumps(wanted)}", "--", "data", "backbone"),
    )
    assert "Nothing to be done" in text


def test_dvc_tracks_files_of_any_name(project):
    folder = project.root / "data/raw/bolts"
    before = {path.relative_to(folder): sha256(path) for path in folder.rglob("*.png")}
    project.run("dvc", "init", "-q", "--no-scm")
    project.run("dvc", "add", "-q", "data/raw/bolts")
    shutil.rmtree(folder)
    project.run("dvc", "checkout", "-q")
    assert {path.relative_to(folder): sha256(path) for path in folder.rglob("*.png")} == before
    assert not list(project.root.rglob("pwned*"))


class Nothing(BaseHTTPRequestHandler):
    """Answers nothing and logs nothing."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        pass


def test_secrets_are_neither_written_nor_printed(project):
    project.run("realnet", "track", status=2)
    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}/mpdd.zip"
        address = f"http://s3cr3t-user:s3cr3t-fetch@{place}?token=s3cr3t-query"
        words = ("mpdd", "--accept-licence", "--from", address)
        project.run("realnet", "data", "fetch", *words, status=2)
        server.shutdown()
    assert place in project.output
    assert "s3cr3t" not in project.output
    files = [path for path in project.root.rglob("*") if path.is_file()]
    assert any(path.name == "stage.json" for path in files)
    assert any(path.suffix == ".log" for path in files)
    assert not [path for path in files if b"s3cr3t" in path.read_bytes()]
