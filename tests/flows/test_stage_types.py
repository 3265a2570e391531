"""Workers load the flows' helpers, not the flows, which take Prefect with them."""

import importlib
from typing import Any, get_args, get_type_hints

import pytest
from prefect import Task

from orchestrator.stages import stage_needs


def classes_of(hint: Any):
    if isinstance(hint, type):
        yield hint
    for part in get_args(hint):
        yield from classes_of(part)


@pytest.mark.parametrize("name", ["dissociation", "entanglement", "generative", "molecules"])
def test_classical_stages_take_and_give_no_class_of_their_flow(name):
    pytest.importorskip("optax", reason="the learning extra is not installed")
    module = importlib.import_module(f"flows.{name}")
    stages = [value for value in vars(module).values() if isinstance(value, Task)]
    classical = [stage for stage in stages if stage_needs(stage).kind == "classical"]
    assert classical
    for stage in classical:
        hints = get_type_hints(stage.fn.__wrapped__).values()
        homes = {one.__module__ for hint in hints for one in classes_of(hint)}
        flows = {home for home in homes if hasattr(importlib.import_module(home), "flow")}
        assert not flows, f"{stage.name}: {flows}"
