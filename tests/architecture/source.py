"""The project's own modules as syntax trees, for tests that read code instead of running it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("backends", "flows", "hpcqc", "orchestrator")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One file. path: relative to the repository's root; name: dotted, as it is imported."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@cache
def read_modules(root: Path = ROOT, packages: tuple[str, ...] = PACKAGES) -> tuple[Module, ...]:
    """Parse every Python file of the packages, once for all tests."""
    paths = (path for package in packages for path in sorted((root / package).rglob("*.py")))
    return tuple(_module(root, path) for path in paths)


@cache
def _module(root: Path, path: Path) -> Module:
    relative = path.relative_to(root)
    parts = relative.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text(encoding="utf-8")
    return Module(path=relative, name=name, text=text, tree=ast.parse(text))


def in_each(modules: Iterable[Module]) -> Callable[[Callable[[Module], None]], Callable[[], None]]:
    """Make of a rule for one module one test of all, which shows every module that breaks it."""

    def as_test(rule: Callable[[Module], None]) -> Callable[[], None]:
        def check_all() -> None:
            broken = []
            for module in modules:
                try:
                    rule(module)
                except AssertionError as error:
                    broken.append(f"{module.name}: {error}")
            assert not broken, "\n".join(broken)

        check_all.__name__, check_all.__doc__ = rule.__name__, rule.__doc__
        return check_all

    return as_test


def public_names(tree: ast.Module) -> set[str]:
    """Return the names a module defines at its top level.

    Left out are imports, ``_names``, and type variables, which mean nothing elsewhere.
    """
    found: set[str] = set()
    for node in ast.walk(_without_bodies(tree)):
        if isinstance(node, Function | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and not _makes_type_variable(node.value):
            found.update(name for target in node.targets for name in _targets(target))
        elif isinstance(node, ast.AnnAssign):
            found.update(_targets(node.target))
    return {name for name in found if not name.startswith("_")}


def imported_names(tree: ast.Module) -> set[str]:
    """Return the names a module binds by importing at its top level."""
    return {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(_without_bodies(tree))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def declared_names(tree: ast.Module) -> list[str] | None:
    """Return ``__all__``, None where there is none or a stub lists the names."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and "__all__" in set(_targets(node.targets[0])):
            return list(ast.literal_eval(node.value)) if isinstance(node.value, ast.List) else None
    return None


def _without_bodies(tree: ast.Module) -> ast.Module:
    """Copy the top level, with ``if`` and ``try`` opened and functions and classes emptied."""
    flat: list[ast.stmt] = []
    pending = list(tree.body)
    while pending:
        node = pending.pop(0)
        if isinstance(node, Function):
            flat.append(ast.parse(f"def {node.name}(): ...").body[0])
        elif isinstance(node, ast.ClassDef):
            flat.append(ast.parse(f"class {node.name}: ...").body[0])
        elif isinstance(node, ast.If | ast.Try | ast.With):
            pending = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)] + pending
        else:
            flat.append(node)
    return ast.Module(body=flat, type_ignores=[])


def _makes_type_variable(value: ast.expr) -> bool:
    made = value.func if isinstance(value, ast.Call) else None
    return isinstance(made, ast.Name) and made.id in ("ParamSpec", "TypeVar", "TypeVarTuple")


def _targets(target: ast.expr) -> Iterator[str]:
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _targets(element)
