"""Keys, values and tests named in docs/fidelity.md exist, and the preset has the values."""

import ast
import re

import pytest
import yaml
from pydantic import BaseModel

from realnet.config.params import PROJECT, Params, load

TEXT = (PROJECT / "docs/fidelity.md").read_text(encoding="utf-8")
SECTIONS = "|".join(Params.model_fields)
# `section.key` or `section.key: value`, in backticks.
SETTING = re.compile(rf"`((?:{SECTIONS})(?:\.[a-z_]+)+)(?:: ([^`]+))?`")
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def tables():
    """(header, rows of cells) of each table."""
    for block in re.findall(r"(?:^\|.*\n)+", TEXT, flags=re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in line.strip().strip("|").split(" | ")]
            for line in block.splitlines()
        )
        yield head, rows


def settings():
    return sorted({(key, value) for key, value in SETTING.findall(TEXT)})


def value_of(values, key):
    for part in key.split("."):
        values = values[part]
    return values


@pytest.fixture(scope="module")
def paper():
    return load(PROJECT / "params.yaml", {"preset": "paper"}).model_dump()


def test_every_table_has_its_columns_in_every_row():
    found = list(tables())
    assert len(found) >= 10
    for head, rows in found:
        assert rows
        for row in rows:
            assert len(row) == len(head) and all(row), row


def test_every_named_test_exists():
    named = set(TEST.findall(TEXT))
    assert len(named) > 60
    assert len(named) == len(set(re.findall(r"test_\w+\.py::\w+", TEXT)))
    for file, name in sorted(named):
        (path,) = (PROJECT / "tests").rglob(file)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file}::{name}"


def test_every_difference_has_a_test():
    for head, rows in tables():
        if "test" in head:
            assert all(TEST.search(row[head.index("test")]) for row in rows)


@pytest.mark.parametrize(("key", "value"), settings())
def test_every_key_exists_and_accepts_the_value(paper, key, value):
    model = Params
    for part in key.split("."):
        assert issubclass(model, BaseModel) and part in model.model_fields, key
        model = model.model_fields[part].annotation
    if not value:
        return
    section, *rest = key.split(".")
    changed = yaml.safe_load(value)
    for part in reversed(rest):
        changed = {part: changed}
    # A length is steps or epochs.
    if key in ("ddpm.epochs", "training.epochs"):
        changed["steps"] = None
    if key in ("ddpm.steps", "training.steps") and value == "null":
        changed["epochs"] = 1
    params = load(PROJECT / "params.yaml", {"preset": "paper", section: changed})
    assert value_of(params.model_dump(), key) == yaml.safe_load(value)


def test_the_paper_preset_has_the_official_values(paper):
    count = 0
    for head, rows in tables():
        if "`paper`" not in head:
            continue
        for row in rows:
            if not row[head.index("`paper`")].startswith(("official", "as the paper")):
                continue
            for key, value in SETTING.findall(row[head.index("official: key")]):
                assert value, f"{key}: the official value is missing"
                assert value_of(paper, key) == yaml.safe_load(value), key
                count += 1
    assert count > 40


def test_the_demo_has_exactly_the_listed_official_values():
    demo = load(PROJECT / "params.yaml").model_dump()
    checked = 0
    for head, rows in tables():
        if "demo" not in head:
            continue
        for row in rows:
            found = SETTING.findall(row[head.index("official: key")])
            if not found or row[head.index("`paper`")] != "official":
                continue
            same = all(value_of(demo, key) == yaml.safe_load(value) for key, value in found)
            assert same == row[head.index("demo")].startswith("official"), row[0]
            checked += 1
    assert checked > 30
