"""The style card, as far as a program can read it: names, `__all__`, no environment."""

from __future__ import annotations

import ast
import re

from tests.architecture.source import (
    Function,
    Module,
    declared_names,
    imported_names,
    in_each,
    public_names,
    read_modules,
)

FORBIDDEN_WORDS = {"helper", "util", "common", "base", "manager", "handler"}

# Decorators that hand a function over to a command line or a router, so that nobody imports it.
REGISTERING_DECORATORS = {"callback", "command", "delete", "flow", "get", "post", "put"}

# Module -> why it may look at the environment.
ENVIRONMENT_READERS: dict[str, str] = {
    "backends.child.environment": "passes the few variables on that a backend's process gets",
    "orchestrator.config.environment": "the one reader of the environment",
    "orchestrator.programs.guard": "runs without packages on a node, whose name and task Slurm sets there",
}

# Modules that offer what others define, beside packages.
REEXPORTING = {"backends.api"}

MODULES = read_modules()
each_module = in_each(MODULES)


@each_module
def test_all_is_what_the_module_defines(module: Module) -> None:
    declared = declared_names(module.tree)
    defined = public_names(module.tree)
    if module.is_package or module.name in REEXPORTING:  # what it defines must be among it
        known = defined | imported_names(module.tree)
        assert set(declared or ()) <= known
        assert defined <= set(declared or ())
        return
    defined -= {
        node.name
        for node in module.tree.body
        if isinstance(node, Function) and _is_registered(node)
    } - set(declared or ())  # a command is called by its command line; it need not be exported
    if declared is None:
        assert not defined, f"{module.path} defines {sorted(defined)} and has no __all__"
        return
    assert set(declared) == defined, (
        f"{module.path}: only in __all__: {sorted(set(declared) - defined)}; "
        f"missing from it: {sorted(defined - set(declared))}"
    )


@each_module
def test_names_say_something(module: Module) -> None:
    defined = [n for n in ast.walk(module.tree) if isinstance(n, Function | ast.ClassDef)]
    named = [module.name.rsplit(".", 1)[-1], *(node.name for node in defined)]
    vague = [name for name in named if _words(name) & FORBIDDEN_WORDS]
    assert not vague, f"{module.path}: {vague} use one of {sorted(FORBIDDEN_WORDS)}"


@each_module
def test_only_config_reads_the_environment(module: Module) -> None:
    if module.name in ENVIRONMENT_READERS:
        return
    reads = [
        f"line {node.lineno}"
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
        or (isinstance(node, ast.ImportFrom) and _imports_environment(node))
    ]
    assert not reads, f"{module.path} looks at the environment on {', '.join(reads)}"


@each_module
def test_a_module_says_what_it_is_for(module: Module) -> None:
    assert (ast.get_docstring(module.tree) or "").strip(), f"{module.path} has no docstring"


def test_no_two_public_classes_share_a_name() -> None:
    found: dict[str, list[str]] = {}
    for module in MODULES:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(module.name)
    shared = {name: modules for name, modules in found.items() if len(modules) > 1}
    assert not shared, f"rename all but one of each: {shared}"


def test_exceptions_from_the_rules_are_still_needed() -> None:
    known = {module.name for module in MODULES}
    assert set(ENVIRONMENT_READERS) <= known


def test_the_readers_of_code_see_what_is_there() -> None:
    tree = ast.parse(
        "import os\nfrom x import y as z\nT = TypeVar('T')\n__all__ = ['A', 'f', 'n']\nn: int = 1\n_m = 2\n"
        "class A:\n    def g(self): ...\n"
        "if n:\n    def f(): ...\n"
    )
    assert declared_names(tree) == ["A", "f", "n"]
    assert public_names(tree) == {"A", "f", "n"}
    assert imported_names(tree) == {"os", "z"}
    assert _words("HTTPBaseServer") == {"http", "base", "server"}
    assert _words("path_utils") & FORBIDDEN_WORDS
    assert not _words("database_of_bases") & FORBIDDEN_WORDS


def _is_registered(node: Function) -> bool:
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in REGISTERING_DECORATORS:
            return True
    return False


def _imports_environment(node: ast.ImportFrom) -> bool:
    return node.module == "os" and any(a.name in ("environ", "getenv") for a in node.names)


def _words(name: str) -> set[str]:
    """Split an identifier into lower-case words and add their singulars (bases: of a basis)."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    words = {word.lower() for word in found}
    return words | {word.removesuffix("s") for word in words - {"bases"}}
