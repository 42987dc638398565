"""The layers of packages: imports point downwards, and there are no circular imports."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "realnet"

# From the bottom up. A package may import from its own layer and from those below.
LAYERS = (
    {"core"},
    {"config", "registry"},
    {"compute"},
    {"datasets", "metrics"},
    {"synthesis", "diffusion"},
    {"models"},
    {"detectors"},
    {"training", "evaluation"},
    {"tables"},
    {"provenance"},
    {"stages"},
    {"interop", "plots", "report", "tracking"},
    {"cli", "__main__"},
)
HEIGHT = {package: height for height, layer in enumerate(LAYERS) for package in layer}


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """(module of this package, whether inside a function) of every import that is executed."""
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, inside = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += [(child, inside) for child in node.orelse]
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inside = True
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if name in MODULES else node.module), inside
        elif isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        stack += [(child, inside) for child in ast.iter_child_nodes(node)]


@cache
def imports_of(name: str) -> list[tuple[str, bool]]:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    return [(found, inside) for found, inside in imported(tree) if found in MODULES]


def package_of(module: str) -> str:
    return module.split(".")[1]


def upward_imports() -> set[tuple[str, str]]:
    """(module, package above it that it imports); figures may be imported inside a function."""
    found = set()
    for module in set(MODULES) - {"realnet"}:
        for target, inside in imports_of(module):
            if target == "realnet":
                continue
            package = package_of(target)
            if inside and package == "plots":
                continue
            if HEIGHT[package] > HEIGHT[package_of(module)]:
                found.add((module, package))
    return found


def circular_modules() -> set[str]:
    """Modules that import themselves through others at module level.

    Importing ``a.b`` also runs ``a``, unless the importer is itself in ``a``.
    """
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        targets = {target for target, inside in imports_of(module) if not inside}
        parents = {t.rpartition(".")[0] for t in targets} & set(MODULES)
        parents = {p for p in parents if not module.startswith(p + ".")}
        graph[module] = (targets | parents) - {module, "realnet"}
    reached = {module: set(targets) for module, targets in graph.items()}
    changed = True
    while changed:
        changed = False
        for module, known in reached.items():
            wider = known.union(*(reached[target] for target in known))
            changed |= wider != known
            reached[module] = wider
    return {module for module, known in reached.items() if module in known}


def test_every_package_has_a_layer():
    packages = {package_of(module) for module in MODULES if module != "realnet"}
    assert packages == set(HEIGHT)


def test_imports_point_downwards():
    assert not upward_imports()


def test_no_circular_imports():
    assert not circular_modules()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from realnet.core import io", [("realnet.core.io", False)]),
        ("def f():\n import realnet.core.io", [("realnet.core.io", True)]),
        ("if TYPE_CHECKING:\n from realnet.core.io import sha256", []),
        ("from realnet.core.io import sha256", [("realnet.core.io", False)]),
    ],
)
def test_imports_are_found(code, expected):
    assert list(imported(ast.parse(code))) == expected
