"""The metrics are a separate library: docstring examples run, and no other package is imported."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import realnet.metrics

MODULES = [module.name for module in pkgutil.iter_modules(realnet.metrics.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str):
    assert doctest.testmod(importlib.import_module(f"realnet.metrics.{name}")).failed == 0


@pytest.mark.parametrize("name", ["__init__", *MODULES])
def test_only_seeds_are_imported(name: str):
    tree = ast.parse((Path(realnet.metrics.__file__).parent / f"{name}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = {module for module in imported if module and module.startswith("realnet.")}
    allowed = {"realnet.core.seeds"} if name == "uncertainty" else set()
    assert {module for module in own if not module.startswith("realnet.metrics")} == allowed
