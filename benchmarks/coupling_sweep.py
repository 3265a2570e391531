"""Predicts which coupling wins where: ``python -m benchmarks.coupling_sweep`` renews the docs page.

Flows of the published experiment's shape, with quantum stages from a hundredth to ten times as long
as the classical ones, one to eight at once, on three and on twelve nodes, with and without a queue
before Slurm. The maps go to docs/images, the tables between markers of
docs/explanation/couplings-measured.md.
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgb

from benchmarks.published_experiment import COPIES, PUBLISHED, Phases, model
from benchmarks.setting import ROOT
from orchestrator.couplings.models import ClusterModel, CouplingPrediction, FlowModel, QpuModel
from orchestrator.couplings.policies import COUPLINGS
from orchestrator.couplings.prediction import compare
from orchestrator.couplings.replay import Preference, recommend, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MEASURES", "Case", "cases", "main", "predicted", "rewrite", "winner"]

RATIOS = tuple(float(ratio) for ratio in np.logspace(-2, 1, 13).round(4))
FLOWS = tuple(range(1, 9))
NODES = (3, 12)
WAITS_S = (0.0, 300.0)
# What a job takes to start on an idle cluster, and a worker until it is ready.
_START_S, _BOOT_S = 1.0, 3.0
# Seconds of a QPU to node-seconds, for what both cost together.
QPU_PRICE = 20.0
_TIE = 0.01
# Standard deviation of the logarithm of times that are known wrongly.
_ERROR = 0.3
PAGE = ROOT / "docs" / "explanation" / "couplings-measured.md"

MEASURES: Mapping[str, Callable[[CouplingPrediction], float]] = {
    "makespan": lambda outcome: outcome.makespan_s,
    "node-seconds": lambda outcome: outcome.node_seconds,
    "cost": lambda outcome: outcome.node_seconds + QPU_PRICE * outcome.qpu_held_s,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One point of the sweep. ratio: of quantum to classical time of an iteration.

    stages: other than those that the ratio makes of the published ones.
    """

    ratio: float
    flows: int
    nodes: int
    wait_s: float
    stages: Phases | None = None

    @property
    def phases(self) -> Phases:
        """The stages; the classical ones are the published ones."""
        if self.stages is not None:
            return self.stages
        usual = Phases()
        return Phases(quantum_s=self.ratio * (usual.clustering_s(3) + usual.rating_s))

    @property
    def models(self) -> list[FlowModel]:
        """All flows, which begin together."""
        return [model(f"flow {number}", self.phases) for number in range(self.flows)]

    @property
    def cluster(self) -> ClusterModel:
        """The nodes."""
        return ClusterModel(nodes=self.nodes, start_s=_START_S, boot_s=_BOOT_S, wait_s=self.wait_s)

    @property
    def qpu(self) -> QpuModel:
        """The QPU."""
        return QpuModel(start_s=_START_S)


def cases() -> Iterator[Case]:
    """Return every point of the sweep."""
    for nodes, wait_s, flows, ratio in product(NODES, WAITS_S, FLOWS, RATIOS):
        yield Case(ratio=ratio, flows=flows, nodes=nodes, wait_s=wait_s)


def predicted(case: Case) -> dict[str, CouplingPrediction]:
    """Predict all couplings."""
    return compare(case.models, case.cluster, case.qpu)


def winner(outcomes: Mapping[str, CouplingPrediction], measure: str) -> str:
    """Return the best coupling; of those within 1 % the one with the fewest node-seconds."""
    value = MEASURES[measure]
    least = min(map(value, outcomes.values()))
    near = {name: o for name, o in outcomes.items() if value(o) <= least * (1 + _TIE)}
    return min(near, key=lambda name: (near[name].node_seconds, near[name].makespan_s))


def _wrong(case: Case, rng: np.random.Generator) -> Case:
    """Return a case whose times are wrong by a factor of typically 1.35, each by itself."""
    clustering, quantum, rating, wait = np.exp(rng.normal(0, _ERROR, 4)).tolist()
    true = case.phases
    stages = Phases(
        serial_s=true.serial_s * clustering,
        unit_s=true.unit_s * clustering,
        quantum_s=true.quantum_s * quantum,
        rating_s=true.rating_s * rating,
    )
    return replace(case, wait_s=case.wait_s * wait, stages=stages)


def main() -> None:
    """Predict everything, draw the maps, and write the tables into the page."""
    outcomes = {case: predicted(case) for case in cases()}
    for wait_s in WAITS_S:
        path = ROOT / "docs" / "images" / f"couplings-winners-{wait_s:.0f}.svg"
        path.write_text(_winners(outcomes, wait_s))
        print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)
    rewrite(PAGE, "published", published_table())
    rewrite(PAGE, "sweep", _wins(outcomes))
    rewrite(PAGE, "auto", _auto(outcomes))


def rewrite(page: Path, name: str, text: str) -> None:
    """Put a text between two markers of a page."""
    maker = {"measured": "couplings", "errors": "coupling_errors"}.get(name, "coupling_sweep")
    begin = f"<!-- {name}: made by python -m benchmarks.{maker}; do not edit -->\n"
    before, found, rest = page.read_text().partition(begin)
    _, ended, after = rest.partition(f"<!-- end of {name} -->")
    if not found or not ended:
        raise ValueError(f"{page}: no markers of {name!r}")
    page.write_text(f"{before}{begin}\n{text}\n{ended}{after}")


_Outcomes = Mapping[Case, Mapping[str, CouplingPrediction]]


def published_table() -> str:
    """Return the published figures beside the prediction at full scale."""
    flows = [model(f"copy {number}", Phases()) for number in range(COPIES)]
    found = compare(
        flows, ClusterModel(nodes=3, start_s=_START_S, boot_s=_BOOT_S), QpuModel(start_s=_START_S)
    )
    base = found["exclusive"]
    lines = [
        "| coupling | makespan, s | node-seconds | saved | QPU busy |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, outcome in found.items():
        theirs = PUBLISHED.get(name)
        lines.append(
            f"| {name} | {_beside(outcome.makespan_s, theirs and theirs.makespan_s)} "
            f"| {_beside(outcome.node_seconds, theirs and theirs.node_seconds)} "
            f"| {1 - outcome.node_seconds / base.node_seconds:.0%} "
            f"| {outcome.qpu_busy:.0%}{f' ({theirs.qpu_busy:.0%})' if theirs else ''} |"
        )
    return "\n".join(lines)


def _beside(ours: float, theirs: float | None) -> str:
    return f"{ours:,.0f}" + (f" ({theirs:,.0f})" if theirs else "")


def _wins(outcomes: _Outcomes) -> str:
    """Return how often each coupling wins, and how far the others are behind."""
    lines = [
        "| coupling | " + " | ".join(f"wins, {measure}" for measure in MEASURES) + " | "
        "makespan, worst | node-seconds, worst |",
        "|---|" + "---:|" * (len(MEASURES) + 2),
    ]
    wins = {
        measure: Counter(winner(found, measure) for found in outcomes.values())
        for measure in MEASURES
    }
    for name in COUPLINGS:
        shares = (f"{wins[measure][name] / len(outcomes):.0%}" for measure in MEASURES)
        worst = (
            f"{max(_excess(found, name, measure) for found in outcomes.values()):.1f}"
            for measure in ("makespan", "node-seconds")
        )
        lines.append(f"| {name} | {' | '.join(shares)} | {' | '.join(worst)} |")
    return "\n".join(lines)


def _excess(found: Mapping[str, CouplingPrediction], name: str, measure: str) -> float:
    """Return a coupling's value to that of the best one."""
    value = MEASURES[measure]
    return value(found[name]) / min(map(value, found.values()))


_PREFERENCES: Mapping[Preference, Callable[[CouplingPrediction], float]] = {
    "time": lambda outcome: score(outcome, "time"),
    "nodes": lambda outcome: score(outcome, "nodes"),
    "balanced": lambda outcome: score(outcome, "balanced"),
}


def _auto(outcomes: _Outcomes) -> str:
    """Return how far ``auto`` is from the best coupling by what it prefers."""
    lines = [
        "| `auto` knows | prefers | within 5 % of the best | mean | worst |",
        "|---|---|---:|---:|---:|",
    ]
    believed = {
        "the times": outcomes,
        "times with errors": {
            case: predicted(_wrong(case, np.random.default_rng(seed)))
            for seed, case in enumerate(outcomes)
        },
    }
    for label, known in believed.items():
        for prefer, value in _PREFERENCES.items():
            values = [
                value(found[recommend(known[case], prefer)]) / min(map(value, found.values()))
                for case, found in outcomes.items()
            ]
            near = sum(one <= 1.05 for one in values) / len(values)
            lines.append(
                f"| {label} | {prefer} | {near:.1%} | {np.mean(values):.3f} | {max(values):.2f} |"
            )
    return "\n".join(lines)


_COLORS = {
    "exclusive": "#8c8c8c",
    "split": "#0072b2",
    "multiplexed": "#cc79a7",
    "malleable": "#e69f00",
    "gated": "#009e73",
}


def _winners(outcomes: _Outcomes, wait_s: float) -> str:
    """Return maps of the winners by measure and number of nodes, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    settings = {"svg.hashsalt": f"winners-{wait_s}", "svg.fonttype": "none", "font.size": 8}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9, 5.2), layout="constrained")
        figure.patch.set_facecolor("white")
        axes = figure.subplots(len(NODES), len(MEASURES), sharex=True, sharey=True)
        for row, nodes in zip(axes, NODES, strict=True):
            for one, measure in zip(row, MEASURES, strict=True):
                ours = {
                    (case.flows, case.ratio): winner(found, measure)
                    for case, found in outcomes.items()
                    if case.nodes == nodes and case.wait_s == wait_s
                }
                _draw(one, ours)
                one.set_title(f"best {measure}, {nodes} nodes", fontsize=8)
        for one in axes[-1]:
            one.set_xlabel("quantum to classical time")
        for one in axes[:, 0]:
            one.set_ylabel("flows at once")
        patches = [Patch(color=color, label=name) for name, color in _COLORS.items()]
        figure.legend(handles=patches, loc="outside lower center", ncols=5, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _draw(axes: Axes, winners: Mapping[tuple[int, float], str]) -> None:
    colors = [[to_rgb(_COLORS[winners[flows, ratio]]) for ratio in RATIOS] for flows in FLOWS]
    axes.imshow(np.array(colors), origin="lower", aspect="auto", interpolation="none")
    axes.set_yticks(range(len(FLOWS)), [str(flows) for flows in FLOWS])
    axes.set_xticks([0, 4, 8, 12], ["0.01", "0.1", "1", "10"])


if __name__ == "__main__":
    main()
