"""The simulated core is pure: no I/O, clock, randomness, Prefect or Dask."""

from __future__ import annotations

import ast
import tomllib

from tests.architecture.source import ROOT, Module, in_each, read_modules

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
(CONTRACT,) = [
    contract
    for contract in SETTINGS["tool"]["importlinter"]["contracts"]
    if contract["type"] == "forbidden" and "pure core" in contract["name"]
]
# import-linter forbids these modules to import I/O; here they are read for calls of what
# harmless imports offer (`datetime.now`, `open`, `uuid4`).
PURE = set(CONTRACT["source_modules"])
IMPURE_CALLS = {
    "default_rng",
    "input",
    "monotonic",
    "now",
    "open",
    "perf_counter",
    "print",
    "read_bytes",
    "read_text",
    "sleep",
    "today",
    "utcnow",
    "uuid1",
    "uuid4",
    "write_bytes",
    "write_text",
}

MODULES = [
    module
    for module in read_modules()
    if any(module.name == name or module.name.startswith(f"{name}.") for name in PURE)
]


@in_each(MODULES)
def test_a_pure_module_reads_no_clock_and_touches_no_file(module: Module) -> None:
    assert not _impure_calls(module.tree), f"{module.path}: {_impure_calls(module.tree)}"


@in_each(MODULES)
def test_a_pure_module_keeps_no_state_of_its_own(module: Module) -> None:
    writes = [
        f"line {n.lineno}"
        for n in ast.walk(module.tree)
        if isinstance(n, ast.Global | ast.Nonlocal)
    ]
    assert not writes, f"{module.path} writes to outer names on {', '.join(writes)}"


def test_the_check_sees_impure_calls() -> None:
    tree = ast.parse(
        "a = datetime.now(UTC)\nwith open('x') as f: pass\ntime.sleep(1)\nb = max(1, 2)"
    )
    assert [call.split(" ")[0] for call in _impure_calls(tree)] == ["now", "open", "sleep"]


def test_what_must_be_pure_is_guarded() -> None:
    assert {"orchestrator.broker.core", "backends.metering", "backends.timing"} <= PURE
    assert {module.name for module in MODULES} >= PURE
    assert {"dask", "os", "prefect", "random", "socket", "time"} <= set(
        CONTRACT["forbidden_modules"]
    )


def _impure_calls(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in IMPURE_CALLS:
                found.append((node.lineno, f"{name} on line {node.lineno}"))
    return [text for _, text in sorted(found)]
