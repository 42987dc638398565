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
# Calls whose text is for the user, beside the constructors of exceptions.
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
    return _dump(_Strip(_message_names(tree)).visit(tree))


def is_typing_only(node: ast.stmt) -> bool:
    """Whether a statement is an ``if TYPE_CHECKING:``, which never runs."""
    return isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING"


class _Strip(ast.NodeTransformer):
    """Removes what changes no result."""

    def __init__(self, message_names: set[str]):
        self.message_names = message_names

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
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_Pass(self, node: ast.Pass) -> None:
        """Where a docstring was the whole body there is nothing either."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module in TYPE_MODULES and not node.level else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            _blank(node.exc)
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _is_message_call(node):
            _blank(node)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        (first, *more) = node.targets
        named = not more and isinstance(first, ast.Name) and first.id in self.message_names
        if named and _is_text(node.value):
            node.value = ast.Constant("")
        return self.generic_visit(node)


def _plain(block: list[ast.stmt]) -> list[ast.stmt]:
    """Annotated assignments as plain ones, without those that assign nothing."""
    plain = []
    for node in block:
        if not isinstance(node, ast.AnnAssign):
            plain.append(node)
        elif node.value is not None:
            plain.append(ast.Assign([node.target], node.value))
    return plain


def _blank(call: ast.Call) -> None:
    """Empty the texts among the arguments, together with the values that f-strings show."""
    call.args = [ast.Constant("") if _is_text(part) else part for part in call.args]


def _is_text(node: ast.expr) -> bool:
    """Whether an expression puts a text together."""
    match node:
        case ast.Constant():
            return isinstance(node.value, str)
        case ast.JoinedStr():
            return True
        case ast.BinOp(op=ast.Add()):
            return _is_text(node.left) or _is_text(node.right)
        case ast.IfExp():
            return _is_text(node.body) and _is_text(node.orelse)
        case ast.Call(func=ast.Attribute()):
            return _is_text(node.func.value)  # " ".join(...), "...".format(...)
    return False


def _message_names(tree: ast.AST) -> set[str]:
    """Names that are read in messages only, so that text assigned to them is one."""
    inside, everywhere = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            everywhere.add(node)
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _is_message_call(node)):
            inside.update(
                part
                for part in ast.walk(node)
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)
            )
    return {node.id for node in inside} - {node.id for node in everywhere - inside}


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
    """A node as text, the same in every version of Python: empty fields are left out."""
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
