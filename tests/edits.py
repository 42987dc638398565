"""Edits of source files, for tests of what Snakemake reruns."""

import ast
from pathlib import Path


class _Reworded(ast.NodeTransformer):
    """Replace docstrings and the messages of errors."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        call = node.exc
        if isinstance(call, ast.Call) and call.args and _is_text(call.args[0]):
            call.args[0] = ast.Constant("reworded")
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Expr(ast.Constant("Reworded.")) if _is_text(node.value) else node


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def reword(path: Path) -> None:
    """Rewrite a module without comments, reformatted, with other docstrings and error messages; it
    computes the same."""
    tree = _Reworded().visit(ast.parse(path.read_text(encoding="utf-8")))
    path.write_text("# Rewritten.\n" + ast.unparse(ast.fix_missing_locations(tree)) + "\n")


def flip_operator(path: Path) -> None:
    """Replace the first addition of a module by a subtraction."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            lines = text.splitlines(keepends=True)
            number = node.left.end_lineno - 1
            before = lines[number][: node.left.end_col_offset]
            after = lines[number][node.left.end_col_offset :]
            if "+" in after:
                lines[number] = before + after.replace("+", "-", 1)
                path.write_text("".join(lines))
                return
    raise AssertionError(f"{path}: no sum")
