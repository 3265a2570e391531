"""Which QPU gets the work of a stage that names none, and why (pure)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from backends.coupling_class import CouplingClass, is_met
from orchestrator.config.bounds import ChoiceWeights
from orchestrator.data_labels import all_labels, refusal
from orchestrator.names import LABEL, LINE, PROJECT, RUN

__all__ = [
    "Candidate",
    "ChoiceRequest",
    "QpuChoice",
    "QpuFacts",
    "QpuNeeds",
    "choose",
    "with_labels",
]

_GATE = "gate"
# What a fact that is not known counts where no candidate has it.
_NEUTRAL = 0.5
# Not strict: a list of labels is as good as a tuple.
_BOUNDED = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuNeeds:
    """What work needs of a QPU.

    qubits: how many. paradigm: ``gate``, or a kind of payload without gates. max_error: the largest
    median error of its gates on two qubits. coupling_class: the least one: see `Target` in
    `backends.api`. jurisdiction: where alone its data may be processed. labels: of its data; the QPU
    must accept each.

    >>> QpuNeeds(qubits=5, jurisdiction="EU").all_labels
    ('jurisdiction:EU',)
    """

    __pydantic_config__: ClassVar[ConfigDict] = _BOUNDED
    qubits: Annotated[int, Field(ge=1, le=10**6)] = 1
    paradigm: Annotated[str, Field(min_length=1, max_length=100, pattern=LINE)] = _GATE
    max_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    coupling_class: CouplingClass | None = None
    jurisdiction: Annotated[str, Field(max_length=100, pattern=LINE)] = ""
    labels: Annotated[tuple[Annotated[str, Field(pattern=LABEL)], ...], Field(max_length=32)] = ()

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The labels with that of the jurisdiction."""
        return all_labels(self.labels, jurisdiction=self.jurisdiction)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRequest:
    """What a broker is asked to choose a QPU for.

    stage: its key; asked again for the same stage of a run, a broker names the same QPU as long as
    it fits. among: the QPUs that may be chosen, empty for all. circuits, shots: of the work, as far
    as it is known; the cost is that of so much. fidelities: by QPU, predicted for the circuits as
    they are transpiled for it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _BOUNDED
    run: Annotated[str, Field(pattern=RUN)]
    stage: Annotated[str, Field(max_length=200, pattern=LINE)] | None = None
    project: Annotated[str, Field(pattern=PROJECT)] | Annotated[str, Field(max_length=0)] = ""
    needs: QpuNeeds = field(default_factory=QpuNeeds)
    among: Annotated[
        tuple[Annotated[str, Field(max_length=200, pattern=LINE)], ...], Field(max_length=1000)
    ] = ()
    weights: ChoiceWeights = field(default_factory=ChoiceWeights)
    circuits: Annotated[int, Field(ge=1, le=10**9)] = 1
    shots: Annotated[int, Field(ge=1, le=10**12)] = 1000
    fidelities: Mapping[str, Annotated[float, Field(ge=0, le=1)]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuFacts:
    """What is known of a QPU now; None where it is not known, which is not no.

    qubits: None also for as many as memory holds. error: median of its gates on two qubits.
    fidelity: predicted, on its current calibration. wait_s: until work that comes now begins.
    cost: in ``unit``. fault: why it takes no work.
    """

    name: str
    paradigms: frozenset[str] = frozenset()
    qubits: int | None = None
    is_described: bool = True  # whether its paradigms and qubits are known
    coupling_class: CouplingClass | None = None
    error: float | None = None
    fidelity: float | None = None
    of_circuits: bool = False  # whether the fidelity is that of the circuits, not of the device
    wait_s: float | None = None
    cost: float | None = None
    unit: str = ""
    calibration: str = ""
    accepted: frozenset[str] = frozenset()
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A QPU in a choice, with the numbers that counted. refused: why it could not be chosen."""

    qpu: str
    refused: str | None = None
    score: float | None = None
    fidelity: float | None = None
    of_circuits: bool = False
    error: float | None = None
    wait_s: float | None = None
    cost: float | None = None
    unit: str = ""
    calibration: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuChoice:
    """The QPU that was chosen, empty if none fits, and all candidates, the best of them first."""

    qpu: str
    reason: str
    candidates: tuple[Candidate, ...]


def choose(
    request: ChoiceRequest, facts: Sequence[QpuFacts], *, before: str | None = None
) -> QpuChoice:
    """Choose a QPU by predicted fidelity, wait and cost, among those that meet every need.

    The score is the mean, by the user's weights, of three terms between 0 and 1: the fidelity; the
    wait w as s/(s + w), with s the user's ``patience_s``; and the lowest cost divided by the cost.
    Costs in different units count where the user gives prices of these. What is not known of a QPU
    counts as the mean of the others. Labels are no term: a QPU that does not accept them is
    refused whatever the rest is.

    before: what was chosen for the same stage before; it stays if it still fits.
    """
    refused = {one.name: _unfit(one, request) for one in facts}
    fitting = [one for one in facts if refused[one.name] is None]
    scores = _scores(fitting, request.weights)
    candidates = tuple(
        sorted(
            (_candidate(one, refused[one.name], scores.get(one.name)) for one in facts),
            key=lambda one: (one.refused is not None, -(one.score or 0.0), one.qpu),
        )
    )
    if not fitting:
        reasons = "; ".join(f"{one.qpu}: {one.refused}" for one in candidates)
        return QpuChoice(qpu="", reason=f"no QPU fits: {reasons or 'none'}", candidates=candidates)
    if before in scores:
        reason = f"{before} was chosen for this stage before, and still fits"
        return QpuChoice(qpu=before, reason=reason, candidates=candidates)
    best = candidates[0]
    return QpuChoice(qpu=best.qpu, reason=_reason(candidates, len(fitting)), candidates=candidates)


def _unfit(facts: QpuFacts, request: ChoiceRequest) -> str | None:
    """Return why a QPU cannot be chosen. Labels come first: nothing else is told of them."""
    needs = request.needs
    if request.among and facts.name not in request.among:
        return "another QPU was asked for"
    held = refusal(needs.all_labels, facts.accepted, qpu=facts.name, project=request.project)
    if held is not None:
        return held
    if facts.fault is not None:
        return facts.fault
    if not facts.is_described:
        return "what it can do is not known"
    if needs.paradigm not in facts.paradigms:
        return f"it is for {', '.join(sorted(facts.paradigms)) or 'nothing'}, not {needs.paradigm}"
    if facts.qubits is not None and facts.qubits < needs.qubits:
        return f"it has {facts.qubits} qubits, and {needs.qubits} are needed"
    if needs.coupling_class is not None and not is_met(facts.coupling_class, needs.coupling_class):
        stated = facts.coupling_class or "not known"
        return f"its coupling class is {stated}, and {needs.coupling_class} is needed"
    if needs.max_error is not None and facts.error is None:
        return f"its error is not known, and at most {needs.max_error:g} is needed"
    if needs.max_error is not None and facts.error is not None and facts.error > needs.max_error:
        return f"its error is {facts.error:.3g}, and at most {needs.max_error:g} is needed"
    return None


def _scores(fitting: Collection[QpuFacts], weights: ChoiceWeights) -> dict[str, float]:
    costs = _costs(fitting, weights)
    cheapest = min(costs.values(), default=0.0)
    terms = (
        (weights.fidelity, _filled(fitting, lambda one: one.fidelity)),
        (weights.wait, _filled(fitting, lambda one: _promptness(one.wait_s, weights.patience_s))),
        (
            weights.cost,
            _filled(fitting, lambda one: _thrift(costs.get(one.name), cheapest)),
        ),
    )
    total = sum(weight for weight, _ in terms) or 1.0
    return {
        one.name: sum(weight * term[one.name] for weight, term in terms) / total for one in fitting
    }


def _filled(
    fitting: Iterable[QpuFacts], term: Callable[[QpuFacts], float | None]
) -> dict[str, float]:
    """Return a term of each QPU; where it is not known, the mean of the others."""
    found = {one.name: term(one) for one in fitting}
    known = [value for value in found.values() if value is not None]
    mean = sum(known) / len(known) if known else _NEUTRAL
    return {name: mean if value is None else value for name, value in found.items()}


def _promptness(wait_s: float | None, patience_s: float) -> float | None:
    return None if wait_s is None else patience_s / (patience_s + max(0.0, wait_s))


def _thrift(cost: float | None, cheapest: float) -> float | None:
    if cost is None:
        return None
    return 1.0 if cost <= 0 else cheapest / cost


def _costs(fitting: Iterable[QpuFacts], weights: ChoiceWeights) -> dict[str, float]:
    """Return costs that can be compared: all of one unit, or by the user's prices."""
    stated = [one for one in fitting if one.cost is not None]
    units = {one.unit for one in stated}
    if len(units) <= 1:
        return {one.name: one.cost or 0.0 for one in stated}
    return {
        one.name: (one.cost or 0.0) * weights.prices[one.unit]
        for one in stated
        if one.unit in weights.prices
    }


def _candidate(facts: QpuFacts, refused: str | None, score: float | None) -> Candidate:
    return Candidate(
        qpu=facts.name,
        refused=refused,
        score=None if score is None else round(score, 6),
        fidelity=facts.fidelity,
        of_circuits=facts.of_circuits,
        error=facts.error,
        wait_s=facts.wait_s,
        cost=facts.cost,
        unit=facts.unit,
        calibration=facts.calibration,
    )


def _reason(candidates: Sequence[Candidate], number: int) -> str:
    best = candidates[0]
    if number == 1:
        return f"{best.qpu} is the only QPU that fits"
    second = candidates[1]
    return (
        f"{best.qpu} has the highest score, {best.score:.3f}, of {number} that fit; "
        f"{second.qpu} is next with {second.score:.3f}"
    )


def with_labels(request: ChoiceRequest, labels: Iterable[str]) -> ChoiceRequest:
    """Return a request whose data has more labels."""
    needs = replace(request.needs, labels=all_labels(request.needs.labels, labels))
    return replace(request, needs=needs)
