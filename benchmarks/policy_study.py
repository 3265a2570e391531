"""Draws the policy study's plots and prints its tables: ``python -m benchmarks.policy_study LOG``.

LOG is the NASA iPSC log in the Standard Workload Format; the plots go to docs/images.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.scheduling import rules_of
from benchmarks.setting import ROOT
from orchestrator.broker.core.policies import POLICIES, make_policy
from orchestrator.provenance.study import figure_rows, study_pictures
from orchestrator.simulation.sources import Mix, QuantumRule, made_up, read_swf
from orchestrator.simulation.study import Study, alone
from orchestrator.simulation.workload import Workload, on_qpu, with_load

__all__ = ["main"]

_LOAD = 0.9


def main(log: Path) -> None:
    """Simulate the log and the mix under all policies."""
    workloads = {"mix": made_up(Mix(seed=1)), "nasa": read_swf(log, QuantumRule())}
    for name, workload in workloads.items():
        _study(name, workload)


def _study(name: str, workload: Workload) -> None:
    rules = rules_of("vlq")
    placed = with_load(on_qpu(workload, "q", "aer"), _LOAD, alone(rules))
    study = Study(workload=placed, rules=rules)
    outcomes = [(policy, study.under(make_policy(policy))) for policy in POLICIES]
    print("| | " + " | ".join(POLICIES) + " |\n|---" + "|---:" * len(POLICIES) + "|")
    for row in figure_rows(outcomes):
        print("| " + " | ".join(map(str, row)) + " |")
    for plot, picture in study_pictures(outcomes).items():
        path = ROOT / "docs" / "images" / f"study-{name}-{plot}.png"
        path.write_bytes(picture.png)
        print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give the log: python -m benchmarks.policy_study NASA-iPSC-1993-3.1-cln.swf.gz")
    main(Path(sys.argv[1]))
