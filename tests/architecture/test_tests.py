"""Rules for the tests themselves, read from their source."""

from __future__ import annotations

import ast

from tests.architecture.source import Module, in_each, read_modules

# Clocks that measure how long something takes. What takes how long is for benchmarks: a busy
# machine must not fail a test.
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "time"}

# Module -> why it may read such a clock.
CLOCK_READERS = {"tests.patience": "the deadline that keeps a test from hanging"}

MODULES = read_modules(packages=("tests",))


@in_each(MODULES)
def test_no_test_measures_time(module: Module) -> None:
    found = clock_readings(module.tree)
    assert not found or module.name in CLOCK_READERS, (
        f"{module.path}: reads a clock on line {found}; count operations, wait with "
        "tests.patience.until, or make it a benchmark"
    )


def test_the_rule_sees_a_reading() -> None:
    code = "import time\nfrom time import perf_counter\na = time.monotonic()\nb = perf_counter()"
    assert clock_readings(ast.parse(code)) == [2, 3]
    assert clock_readings(ast.parse("import time\ntime.sleep(1)\nmodel.time()")) == []


def clock_readings(tree: ast.Module) -> list[int]:
    """Return the lines on which one of the clocks is called through ``time``, or imported from it."""
    found = [
        node.lineno
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Attribute)
            and node.attr in CLOCKS
            and isinstance(node.value, ast.Name)
            and node.value.id == "time"
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and CLOCKS & {alias.name for alias in node.names}
        )
    ]
    return sorted(found)
