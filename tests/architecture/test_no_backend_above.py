"""The orchestrator knows no backend by name, nor its options; the broker knows no payload kind."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator

from backends.aer.factory import AerOptions
from backends.fake.script import Script
from backends.registry import available
from backends.site_options import SITE_OPTIONS
from tests.architecture.source import Module, in_each, read_modules

# Words that are also fields of tasks, results or records, which the orchestrator does read.
ORDINARY = {
    "durable", "fail", "faults", "memory_bytes", "method",
    "precision", "processes", "profile", "run_s", "stuck", "target"
}  # fmt: skip
OPTIONS = {
    *(option.name for option in SITE_OPTIONS),
    *(field.name for kind in (AerOptions, Script) for field in dataclasses.fields(kind)),
}
BACKENDS = {name for name, point in available().items() if point.module.startswith("backends.")}
# In a text these are the name of the whole software, and of the interface that grants a job QPUs.
NAMED = BACKENDS - {"hpcqc", "qrmi"}

KINDS = (
    "samplerp",
    "estimatorp",
    '"sampler"',
    '"estimator"',
    "primitiveresult",
    "qiskit.primitives",
)

MODULES = [m for m in read_modules() if m.name.split(".")[0] == "orchestrator"]


def names_of_backends(tree: ast.Module) -> Iterator[str]:
    pattern = re.compile(rf"(?<![-\w])({'|'.join(sorted(NAMED))})(?![-\w])")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (f"line {node.lineno}: {found}" for found in pattern.findall(node.value))
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in imported:
            if name.split(".")[0] == "backends" and BACKENDS & set(name.split(".")):
                yield f"line {node.lineno}: import of {name}"


def names_of_options(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[object] = []
        known = OPTIONS - ORDINARY
        if isinstance(node, ast.Constant):
            names = [node.value]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.keyword):
            names = [node.arg]
        if isinstance(node, ast.Subscript) and _is_options(node.value):
            names, known = [getattr(node.slice, "value", None)], OPTIONS
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if _is_options(node.func.value) and node.args:
                names, known = [getattr(node.args[0], "value", None)], OPTIONS
        elif isinstance(node, ast.Compare) and any(map(_is_options, node.comparators)):
            names, known = [getattr(node.left, "value", None)], OPTIONS
        yield from (f"line {node.lineno}: {name}" for name in names if name in known)


def _is_options(node: ast.expr) -> bool:
    return getattr(node, "id", getattr(node, "attr", None)) == "options"


@in_each(MODULES)
def test_no_backend_and_no_option_of_one_is_named(module: Module) -> None:
    assert not [*names_of_backends(module.tree), *names_of_options(module.tree)]


def test_the_readers_see_names() -> None:
    assert {"aer", "fake"} <= BACKENDS
    tree = ast.parse("from backends.aer import options\nif x == 'aer' or 'qiskit-aer': ...\n")
    assert len(list(names_of_backends(tree))) == 2
    lines = (
        "options.get('profile')\ns.options['method']\n'profile' in options\n"
        "f(time_scale=1)\nx.time_scale\nd['queue_s']\n"
    )
    assert len(list(names_of_options(ast.parse(lines)))) == 6
    assert not list(names_of_options(ast.parse("d['profile']\nx.method\n")))


@in_each(MODULES)
def test_the_broker_names_no_payload_kind(module: Module) -> None:
    if module.name.startswith("orchestrator.broker"):
        for word in KINDS:
            assert word not in module.text.lower(), f"{module.path} names {word}"
