"""Fingerprints of the code of each stage, in one small file per stage.

``workflow/code/<stage>.json`` maps each module that the stage's result depends on to its
fingerprint. Snakemake and DVC depend on these files: they rerun a stage when its code changes, but
not after an edited comment.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from realnet.core.errors import UserError
from realnet.core.fingerprint import digest, fingerprint, is_bare_string, is_typing_only, syntax
from realnet.core.io import read_json, write_json
from realnet.registry import CODE, NOT_CODE, not_code

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = Path("workflow/code")
PRESETS = "presets"  # beside the stages: fingerprints of the presets
# Files that a module may read from the folder beside it.
BESIDE = {".yaml", ".j2", ".css", ".js"}


def refresh(root: Path = PROJECT, write: bool = True) -> list[str]:
    """Update ``workflow/code``; files whose content is current are not written.

    Returns the names of the files that were (or, without ``write``, are) out of date.

    Raises:
        UserError: a module that cannot be parsed, or a file that cannot be written.
    """
    wanted = {name: code_of(name, root) for name in CODE}
    presets = (root / "workflow/presets").glob("*.yaml")
    wanted[PRESETS] = {path.stem: _fingerprint(path) for path in sorted(presets)}
    stale = []
    for name, content in wanted.items():
        path = root / FOLDER / f"{name}.json"
        if path.is_file() and read_json(path) == content:
            continue
        stale.append(f"{FOLDER}/{name}.json")
        if write:
            try:
                write_json(path, content)
            except OSError as error:
                raise UserError(
                    f"{path}: cannot be written ({error.strerror}), and is out of date; run"
                    " `realnet code` as a user who may write it"
                ) from None
    for path in sorted((root / FOLDER).glob("*.json")):
        if path.stem not in wanted:
            stale.append(f"{FOLDER}/{path.name}")
            if write:
                path.unlink()
    return stale


def code_of(stage: str, root: Path = PROJECT) -> dict[str, str]:
    """Module or file -> fingerprint, of all that the stage's result depends on.

    ``stage`` is a key of :data:`realnet.registry.CODE`.
    """
    files = closure(CODE[stage], not_code(stage), root)
    return {name: _fingerprint(files[name]) for name in sorted(files)}


def _fingerprint(path: Path) -> str:
    return _read(path).fingerprint if path.suffix == ".py" else fingerprint(path)


def closure(
    module: str, without: Iterable[str] = NOT_CODE, root: Path = PROJECT
) -> dict[str, Path]:
    """Module -> file, for ``module`` every project module that it imports, and their data files.

    Read from the syntax trees: nothing is imported, and imports inside functions count. Of a
    package that only re-exports names, the modules that define the imported names are followed
    instead. Data files that a module names (``foreground.yaml``, in its folder) are listed by path.

    without: modules and packages that are not followed.

    Raises:
        UserError: no such module.
    """
    if _source(module, root) is None:
        raise UserError(f"realnet/registry.py: module {module} does not exist")
    package, without = module.partition(".")[0], tuple(without)
    todo, found = _whole(module, root), dict[str, Path]()
    while todo:
        name = todo.pop()
        path = _source(name, root)
        excluded = name == package or any(f"{name}.".startswith(f"{m}.") for m in without)
        if path is None or name in found or excluded or name.partition(".")[0] != package:
            continue
        found[name] = path
        for base, names in _imports(path, name):
            todo += [target for each in names for target in _targets(base, each, root)]
            todo += [] if names else _whole(base, root)
        todo += [name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)]
    files = {name: path for name, path in found.items() if _exports(path) is None}
    for path in set(files.values()):
        for beside in path.parent.iterdir():
            if beside.suffix in BESIDE and beside.name in _read(path).strings:
                files[beside.relative_to(root).as_posix()] = beside
    return files


def _targets(base: str, name: str, root: Path) -> list[str]:
    """The modules that ``from base import name`` needs."""
    if _source(f"{base}.{name}", root):
        return _whole(f"{base}.{name}", root)
    exported = _exports(_source(base, root)) or {}
    return _targets(*exported[name], root) if name in exported else [base]


def _whole(module: str, root: Path) -> list[str]:
    """The modules that ``import module`` needs: all that a package re-exports."""
    exported = (_exports(_source(module, root)) or {}).values()
    return [module, *(target for each in exported for target in _targets(*each, root))]


def _source(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _exports(path: Path | None) -> dict[str, tuple[str, str]] | None:
    """Name -> (module, name there), for a package that only re-exports; None for other modules."""
    return _read(path).exports if path is not None and path.name == "__init__.py" else None


def _imports(path: Path, module: str) -> list[tuple[str, tuple[str, ...]]]:
    """(module, names imported from it) of each import that can run, also in functions."""
    if _exports(path) is not None:
        return []
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for level, name, names in _read(path).imports:
        above = package.split(".")[: package.count(".") + 2 - level] if level else []
        found.append((".".join([*above, *filter(None, [name])]), names))
    return found


@dataclass(frozen=True)
class _Module:
    """The parsed content of a file, read once for all stages."""

    strings: frozenset[str]  # constants in it
    fingerprint: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]  # dots before it, module, names
    exports: dict[str, tuple[str, str]] | None  # where the file only imports


def _read(path: Path) -> _Module:
    state = path.stat()
    return _read_once(path, state.st_mtime_ns, state.st_size)


@cache
def _read_once(path: Path, _changed: int, _size: int) -> _Module:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be parsed: {' '.join(str(error).split())}") from None
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    for node in _running(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            imports.append((node.level, node.module or "", names))
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    strings = frozenset(value for value in constants if isinstance(value, str))
    exports = _re_exports(tree)  # before `syntax`, which modifies the tree
    return _Module(strings, digest(syntax(tree)), tuple(imports), exports)


def _re_exports(tree: ast.Module) -> dict[str, tuple[str, str]] | None:
    exported: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            exported |= {a.asname or a.name: (node.module, a.name) for a in node.names}
        elif not is_bare_string(node) and not (
            isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ):
            return None
    return exported


def _running(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING:``."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        todo += [
            child
            for child in ast.iter_child_nodes(node)
            if not (isinstance(child, ast.stmt) and is_typing_only(child))
        ]
