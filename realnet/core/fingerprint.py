"""Fingerprints of files by what they mean: equal for code that computes the same results.

Of a Python file the syntax tree counts, without what changes no result: comments, formatting,
docstrings, type annotations of functions, and the text of messages. Of a YAML file its content
counts, of any other file its bytes.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

DIGITS = 16
# Imports that only name types: the names count where the code uses them.
TYPE_MODULES = {"__future__", "collections.abc", "typing"}
# Calls whose text is for the user, in addition to constructors of exceptions.
MESSAGE_CALLS = {"print", "progress", "warn"}
EXCEPTION_ENDINGS = ("Error", "Warning", "Exception")


def fingerprint(path: str | Path) -> str:
    """Digest of the meaning of a file.

    Raises:
        SyntaxError: a Python file that cannot be parsed.
    """
    path = Path(path)
    if path.suffix == ".py":
        content = syntax(ast.parse(path.read_text(encoding="utf-8")))
    elif path.suffix in (".yaml", ".yml"):
        content = json.dumps(yaml.safe_load(path.read_bytes()), default=str)
    else:
        return digest(path.read_bytes())
    return digest(content)


def digest(content: str | bytes) -> str:
    """The first digits of a SHA-256."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def syntax(tree: ast.Module) -> str:
    """The syntax tree of a module as text, without what changes no result; the tree is changed."""
    return _dump(_Strip(_names_with_meaning(tree)).visit(tree))


def is_typing_only(node: ast.stmt) -> bool:
    """Whether a statement is an ``if TYPE_CHECKING:``, which never runs."""
    return isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING"


class _Strip(ast.NodeTransformer):
    """Removes what changes no result."""

    def __init__(self, names_with_meaning: set[str]):
        self.names_with_meaning = names_with_meaning
        self.functions = 0  # around the node that is visited

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                kept = [s for s in block if not is_bare_string(s) and not is_typing_only(s)]
                # In a class they are fields, elsewhere notes for the reader.
                setattr(node, field, kept if isinstance(node, ast.ClassDef) else _plain(kept))
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        self.functions += 1
        self.generic_visit(node)
        self.functions -= 1
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_Pass(self, node: ast.Pass) -> None:
        """A body that was only a docstring is empty."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module in TYPE_MODULES and not node.level else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args = [ast.Constant("") if self._is_words(a) else a for a in node.exc.args]
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _is_message_call(node):
            node.args = [ast.Constant("") if _is_text(part) else part for part in node.args]
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        (first, *more) = node.targets
        return (
            None if not more and self._is_message(first, node.value) else self.generic_visit(node)
        )

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | None:
        return None if self._is_message(node.target, node.value) else self.generic_visit(node)

    def _is_words(self, node: ast.expr) -> bool:
        name = isinstance(node, ast.Name) and node.id not in self.names_with_meaning
        return name or _is_text(node)

    def _is_message(self, target: ast.expr, value: ast.expr) -> bool:
        """Whether a text is assigned to a local variable that only messages read."""
        if not (self.functions and isinstance(target, ast.Name)):
            return False
        return target.id not in self.names_with_meaning and _is_text(value)


def _plain(block: list[ast.stmt]) -> list[ast.stmt]:
    """Annotated assignments as plain ones, without those that assign nothing."""
    plain = []
    for node in block:
        if not isinstance(node, ast.AnnAssign):
            plain.append(node)
        elif node.value is not None:
            plain.append(ast.Assign([node.target], node.value))
    return plain


def _is_text(node: ast.expr) -> bool:
    """Whether an expression builds a text."""
    match node:
        case ast.Constant():
            return isinstance(node.value, str)
        case ast.JoinedStr():
            return True
        case ast.BinOp(op=ast.Add()):
            return _is_text(node.left) or _is_text(node.right)
        case ast.IfExp():
            return _is_text(node.body) and _is_text(node.orelse)
        case ast.Call(func=ast.Attribute() as method):
            return _is_text(method.value)  # " ".join(...), "...".format(...)
    return False


def _names_with_meaning(tree: ast.AST) -> set[str]:
    """Names that are read outside messages, or belong to more than one function."""
    in_messages: set[ast.Name] = set()
    everywhere: set[ast.Name] = set()
    shared: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            everywhere.add(node)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            shared.update(node.names)
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _is_message_call(node)):
            in_messages.update(part for part in ast.walk(node) if isinstance(part, ast.Name))
    return {node.id for node in everywhere - in_messages} | shared


def _is_message_call(node: ast.Call) -> bool:
    name = _name(node.func)
    return name in MESSAGE_CALLS or name.endswith(EXCEPTION_ENDINGS)


def _name(node: ast.expr) -> str:
    """The last part of a dotted name, else empty."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_bare_string(node: ast.stmt) -> bool:
    """Whether a statement is a docstring, or text in the place of a comment."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _dump(node: object) -> str:
    """A node as text, equal in every version of Python, since empty fields are omitted."""
    if isinstance(node, ast.AST):
        return f"{type(node).__name__}({','.join(_fields(node))})"
    if isinstance(node, list):
        return f"[{','.join(_dump(part) for part in node)}]"
    return repr(node)


def _fields(node: ast.AST) -> Iterator[str]:
    for name, value in ast.iter_fields(node):
        always = isinstance(node, ast.Constant) and name == "value"  # None is a value there
        if always or (value is not None and value != [] and name not in ("kind", "ctx")):
            yield f"{name}={_dump(value)}"
