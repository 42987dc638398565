"""Links, files, tests and commands that the documentation names exist."""

import ast
import re
import tomllib

import pytest
import typer
import yaml

from realnet import __version__
from realnet.cli import app
from realnet.config.params import PROJECT

NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")
PAGES = [*map(PROJECT.joinpath, NAMES), *sorted((PROJECT / "docs").glob("*.md"))]
IDS = [page.relative_to(PROJECT).as_posix() for page in PAGES]
BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def anchors(page):
    """Anchors of the headings, as GitHub derives them."""
    heads = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_have_targets(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text("utf-8"))):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_of_the_project_exist(page):
    text = page.read_text("utf-8")
    if page.name == "CHANGELOG.md":  # also names files of older versions
        return
    for path in re.findall(r"`((?:realnet|tests|workflow|benchmarks)/[\w./-]+)`", text):
        assert (PROJECT / path).exists(), path


def test_tests_named_in_reliability_md_run_in_make_test():
    text = (PROJECT / "docs/reliability.md").read_text("utf-8")
    named = set(re.findall(r"`(\w+/test_\w+\.py)`", text))
    assert len(named) > 10
    for path in sorted(named):
        assert fast_tests(PROJECT / "tests" / path), path


def fast_tests(path):
    """Names of the tests of a file that are not marked slow as a whole."""
    tree = ast.parse(path.read_text("utf-8"))
    marks = [ast.unparse(n.value) for n in tree.body if ast.unparse(n).startswith("pytestmark")]
    if any("slow" in mark for mark in marks):
        return []
    tests = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name[:5] == "test_"]
    slow = {"pytest.mark.slow", "SLOW"}
    return [n.name for n in tests if not slow & {ast.unparse(d) for d in n.decorator_list}]


def commands(command, name="realnet"):
    """Full name -> options, of every command."""
    if children := getattr(command, "commands", None):
        return {k: v for n, c in children.items() for k, v in commands(c, f"{name} {n}").items()}
    return {name: {option for p in command.params for option in p.opts} | {"--help"}}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_their_options_exist(page):
    known = commands(typer.main.get_command(app))
    lines = page.read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"(?:^ *|`)(realnet [a-z][^`\n#]*)", lines, re.MULTILINE):
        words = [" ".join(line.split()[:n]) for n in (3, 2)]
        name = next((name for name in words if name in known), None)
        assert name or words[-1] in ("realnet data", "realnet params"), line
        used = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", line))
        assert not name or used <= known[name], line


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_make_targets_exist(page):
    makefile = (PROJECT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_one_version():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text("utf-8"))
    assert __version__ == project["version"] == citation["version"]
    assert f"## [{__version__}]" in (PROJECT / "CHANGELOG.md").read_text("utf-8")
