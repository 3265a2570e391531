"""Identities are joined and split in one module, so that their texts agree wherever they are used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from tests.architecture.source import Module, in_each, read_modules

HOME = "orchestrator.identity"
# Signs that no text of ours holds for another reason. ``~/`` is the home folder in a help text.
SEPARATORS = ("~", "\x1f")
PREFIXES = ("project:", "run:", "reuse.")
# What tears a text apart, by the separators that identities have in common with other texts.
SPLITS = {
    "partition": {"@"},
    "rpartition": {"@", "."},
    "rsplit": {"@", "."},
    "split": {"@"},
}
# Values that are, or are part of, an identity; two of them side by side are one more.
PARTS = {
    "account",
    "content",
    "digest",
    "identity",
    "job",
    "key",
    "lease",
    "payer",
    "project",
    "run",
    "scope",
    "stage",
    "tag",
    "unit",
    "user",
}
JOINTS = set("~@.:/-\x1f")
SUFFIXES = (".lock", ".units")

MODULES = [
    module
    for module in read_modules(packages=("flows", "hpcqc", "orchestrator"))
    if module.name != HOME
]


@in_each(MODULES)
def test_only_one_module_joins_and_splits_identities(module: Module) -> None:
    found = sorted(_joins_and_splits(module.tree))
    assert not found, f"{module.path}: let {HOME} do it: {found}"


def test_the_check_sees_joins_and_splits() -> None:
    lines = [
        'scope.partition("~")',
        'run + "~" + key',
        'scope.startswith(f"{run}~")',
        '"\\x1f".join(payer)',
        'account.startswith("project:")',
        'f"hpcqc-{run.id}-{key}"',
        'f"{run}.lock"',
        'f"{stage or None}@{identity}"',
        'f"{view.stage}@{identity}"',
        'f"{lead.job}.{len(tasks)}"',
        'f"{str(key)}-{number}"',
        'tag.rpartition(".")',
        'stage.split("@")',
    ]
    for line in lines:
        assert list(_joins_and_splits(ast.parse(line))), line


def test_the_check_leaves_other_texts_alone() -> None:
    lines = [
        '"""Runs are in ``RUN~KEY``."""',
        '"the folder ~/.config"',
        'f"job {job}: {state}"',
        'f"/v1/jobs/{job}/cancel"',
        'f"{error}: {user}"',
        'f"{width}.{height}"',
        'f"hpcqc-{os.getpid()}-{host}"',
        'name.partition(".")',
    ]
    for line in lines:
        assert not list(_joins_and_splits(ast.parse(line))), line


def _joins_and_splits(tree: ast.Module) -> Iterator[tuple[int, str]]:
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            if any(sign in node.value.replace("~/", "") for sign in SEPARATORS):
                yield node.lineno, f"a separator in {node.value!r}"
            elif node.value in PREFIXES:
                yield node.lineno, f"the prefix {node.value!r}"
        elif isinstance(node, ast.JoinedStr):
            yield from _joints(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            first = node.args[0] if node.args else None
            sign = first.value if isinstance(first, ast.Constant) else None
            if sign in SPLITS.get(node.func.attr, ()):
                yield node.lineno, f"{node.func.attr}({sign!r})"


def _joints(text: ast.JoinedStr) -> Iterator[tuple[int, str]]:
    """Yield where an f-string puts a sign between two parts, or our name before one."""
    values = [_name(piece.value) if _is_value(piece) else None for piece in text.values]
    constants = [piece.value if isinstance(piece, ast.Constant) else None for piece in text.values]
    for left, right in zip(constants, values[1:], strict=False):
        if left == "hpcqc-" and right in PARTS:
            yield text.lineno, f"{left}{right}"
    for left, right in pairwise(zip(values, constants, strict=True)):
        if left[0] in PARTS and right[1] in SUFFIXES:
            yield text.lineno, f"{left[0]}{right[1]}"
    for at, sign in enumerate(constants[1:-1], start=1):
        if sign in JOINTS and values[at - 1] in PARTS and values[at + 1] is not None:
            yield text.lineno, f"{values[at - 1]}{sign}…"


def _is_value(piece: ast.expr) -> bool:
    return isinstance(piece, ast.FormattedValue)


def _name(value: ast.expr) -> str:
    """Return what an expression is called: ``job`` for ``lead.job``, ``str(job)`` and ``job.id``."""
    if isinstance(value, ast.Call) and value.args:
        return _name(value.args[0])
    if isinstance(value, ast.BoolOp):
        return _name(value.values[0])
    if isinstance(value, ast.Attribute) and value.attr == "id":
        return _name(value.value)
    return getattr(value, "attr", getattr(value, "id", ""))
