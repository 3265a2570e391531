"""The application layer is called from notebooks: it must not end their process."""

from __future__ import annotations

import ast

from tests.architecture.source import read_modules

ENDS = {"_exit", "exit", "abort", "SystemExit"}


def names_of(tree: ast.AST) -> set[str]:
    """Return what code calls or raises, by the last part of its name."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
                found.add(name)
            case ast.Raise(exc=ast.Name(id=name)):
                found.add(name)
    return found


def test_nothing_in_the_application_layer_ends_the_process() -> None:
    modules = [m for m in read_modules() if m.name.startswith("orchestrator.application.")]
    assert len(modules) > 10
    assert [m.name for m in modules if names_of(m.tree) & ENDS] == []


def test_the_reader_sees_each_way_out() -> None:
    code = "import os, sys\nos._exit(1)\nsys.exit()\nraise SystemExit\n"
    assert names_of(ast.parse(code)) >= {"_exit", "exit", "SystemExit"}
