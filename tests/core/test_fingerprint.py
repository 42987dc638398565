"""Fingerprints of code: which edits change them and which do not."""

import ast

import pytest

from realnet.core.fingerprint import fingerprint, syntax

SOURCE = '''"""Noise."""
from typing import Any

import numpy as np

SCALE = 2.0


class Schedule:
    """Variances."""

    steps: int = 10


def noise(x: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """Adds noise."""
    # of one standard deviation
    if strength < 0:
        message = f"strength {strength} is negative"
        raise ValueError(message)
    if x.size == 0:
        raise UserError(f"{x.shape}: " + "empty")
    print("adding", strength)
    key = "seed"
    return SCALE * x + strength * draw(key)
'''

SAME = {
    "comment": ("# of one standard deviation", "# of unit variance"),
    "no comment": ("    # of one standard deviation\n", ""),
    "docstring": ('"""Adds noise."""', '"""Return ``x`` with noise."""'),
    "no docstring": ('    """Adds noise."""\n', ""),
    "docstring of the module": ('"""Noise."""', ""),
    "formatting": ("strength: float = 0.5) ->", "\n    strength: float=0.5,\n) ->"),
    "parentheses": ("SCALE * x + strength * draw(key)", "(SCALE * x) + (strength * draw(key))"),
    "quotes": ('key = "seed"', "key = 'seed'"),
    "message in a raise": ('"empty"', '"has no values"'),
    "values shown in a raise": ("{x.shape}: ", "shape {tuple(x.shape)}: "),
    "message in a variable": ("is negative", "is below 0"),
    "message without a variable": (
        '        message = f"strength {strength} is negative"\n        raise ValueError(message)',
        '        raise ValueError("negative")',
    ),
    "printed text": ('print("adding"', 'print("noise of strength"'),
    "annotation": ("x: np.ndarray,", "x: Any,"),
    "annotation of a variable": ('key = "seed"', 'key: str = "seed"'),
    "import of a type": ("from typing import Any\n", "from typing import Any, Literal\n"),
}
OTHER = {
    "operator": ("SCALE * x + strength", "SCALE * x - strength"),
    "constant": ("SCALE = 2.0", "SCALE = 2.5"),
    "default": ("float = 0.5", "float = 0.25"),
    "comparison": ("strength < 0", "strength <= 0"),
    "text that is a value": ('key = "seed"', 'key = "other"'),
    "name": ("import numpy as np", "import torch as np"),
    "precedence": ("SCALE * x + strength * draw(key)", "SCALE * (x + strength * draw(key))"),
    "type of a field": ("steps: int = 10", "steps: float = 10"),
    "kind of an error": ("raise ValueError", "raise TypeError"),
    "removed check": ("    if x.size == 0:\n", "    if x.size == 1:\n"),
}


def of(source: str) -> str:
    return syntax(ast.parse(source))


def changed(old: str, new: str) -> str:
    assert SOURCE.count(old) == 1
    return SOURCE.replace(old, new)


@pytest.mark.parametrize("change", SAME)
def test_what_changes_no_result_changes_no_fingerprint(change):
    assert of(changed(*SAME[change])) == of(SOURCE)


@pytest.mark.parametrize("change", OTHER)
def test_changed_behaviour_changes_the_fingerprint(change):
    assert of(changed(*OTHER[change])) != of(SOURCE)


def test_a_message_in_a_variable_counts_if_it_is_used_elsewhere():
    both = 'def f():\n    m = "{}"\n    if bad():\n        raise ValueError(m)\n    return m\n'
    assert of(both.format("a")) != of(both.format("b"))


def test_module_constants_count():
    used = 'HINT = "{}"\n\ndef f():\n    raise ValueError(f"no: {{HINT}}")\n'
    assert of(used.format("a")) != of(used.format("b"))


def test_type_checking_imports_do_not_count():
    block = "if TYPE_CHECKING:\n    from a import {}\nx = 1\n"
    assert of(block.format("B")) == of(block.format("C")) == of("x = 1\n")


def test_return_none_and_bare_return_differ():
    assert of("def f():\n    return None\n") != of("def f():\n    return\n")


def test_yaml_counts_by_its_values_and_other_files_by_their_bytes(tmp_path):
    table, page = tmp_path / "table.yaml", tmp_path / "style.css"
    digests = []
    for text in ("a: 1  # one\nb: [2, 3]\n", "a: 1\nb:\n  - 2\n  - 3\n", "a: 1\nb: [2, 4]\n"):
        table.write_text(text)
        digests.append(fingerprint(table))
    assert digests[0] == digests[1] != digests[2]
    page.write_text("a {}")
    before = fingerprint(page)
    page.write_text("a { }")
    assert fingerprint(page) != before
