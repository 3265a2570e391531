"""Benchmarks that nobody runs for weeks still import what they measure."""

from __future__ import annotations

import importlib
import pkgutil

import benchmarks
import benchmarks.flows


def test_every_benchmark_can_be_imported() -> None:
    found = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    ready = [f"flows.{module.name}" for module in pkgutil.iter_modules(benchmarks.flows.__path__)]
    found += ready
    assert {"reading", "flows.sensing"} <= {*found}
    for name in found:
        if name != "__main__":
            importlib.import_module(f"benchmarks.{name}")
