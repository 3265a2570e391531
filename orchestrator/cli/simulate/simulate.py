"""``hpcqc simulate``: what a QPU's queue would have been like under other policies."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.output import print_json, say, tabulate, write
from orchestrator.config import ConfigError, QpuSettings, Site, load_site, resolve_secrets
from orchestrator.wording import counted

if TYPE_CHECKING:
    from backends.api import Target
    from orchestrator.broker.core.policies import Policy
    from orchestrator.broker.core.rules import QpuRules
    from orchestrator.simulation import Outcome, QuantumRule, Study, Workload

__all__ = ["Amounts", "SimulateRequest", "Source", "simulate", "tell_simulation"]

_PLAIN_EVERY_S = 10.0
_MIX_JOBS = 2000
# Below this part of its time at work, nobody waits for a QPU whatever the policy.
_IDLE = 0.3
_LONGEST_CALENDAR = timedelta(days=3660)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the jobs come from; exactly one of the first three is set.

    scope: of the ledger. rule: makes the quantum stage of a classical job.
    """

    ledger: Path | None = None
    swf: Path | None = None
    mix: int | None = None
    scope: str | None = None
    rule: QuantumRule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What of the workload, and how much of it at once; None leaves it as it is."""

    load: float | None = None
    compress: float | None = None
    limit: int | None = None
    slice_s: float | None = None
    short_s: float = 10.0
    noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateRequest:
    """What the user asked for."""

    source: Source
    amounts: Amounts = Amounts()
    policies: Sequence[str] = ()
    qpu: str | None = None
    profile: str | None = None
    site_file: Path | None = None
    overrides: Sequence[str] = ()


def simulate(request: SimulateRequest) -> tuple[Study, str, list[tuple[str, Outcome]]]:
    """Run the workload under each policy; return the study, the QPU's name, outcomes by label.

    Raises ``ValueError`` subclasses for what the user must change.
    """
    from orchestrator.simulation import Study, stretches

    _check(request.source, request.amounts)
    site = load_site(request.site_file, request.overrides)
    settings = _settings(site, request)
    policies = _policies(request.policies, settings)
    # Before the target: a wrong file is a mistake whatever QPU it would be replayed on.
    recorded = _workload(request, settings)
    target = _target(settings)
    workload = _fitting(recorded, target, settings)
    rules = _rules(settings, target, workload, request.amounts)
    workload = _paced(workload, rules, request.amounts)
    rules = replace(rules, calendar=_calendar(settings, target, workload, rules))
    amounts = request.amounts
    noise = stretches(amounts.seed, amounts.noise) if amounts.noise else None
    study = Study(workload=workload, rules=rules, noise=noise, short_s=amounts.short_s)
    outcomes = []
    with _progress(len(policies), len(workload.arrivals)) as told:
        for label, policy in policies:
            outcomes.append((label, study.under(policy, told(label))))
    return study, settings.name, outcomes


def tell_simulation(request: SimulateRequest, report: Path | None, *, as_json: bool) -> None:
    """Simulate, and write a table, or one JSON document, and a report if a file is named."""
    from orchestrator.provenance.study import figure_rows, study_document, write_report

    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"--report {report}: there is no folder {report.parent}")
    study, qpu, outcomes = simulate(request)
    if report is not None:
        try:
            write_report(report, study, qpu, outcomes)
        except OSError as error:
            raise ConfigError(f"--report {report} cannot be written: {error.strerror}") from None
    if as_json:
        print_json(study_document(study, qpu, outcomes))
        return
    workload = study.workload
    say(f"{counted(len(workload.arrivals), 'job')} of {workload.name} on QPU {qpu}")
    for note in workload.notes:
        say(f"  {note}", style="dim")
    tabulate(["", *(label for label, _ in outcomes)], figure_rows(outcomes))
    if max(outcome.metrics.utilisation for _, outcome in outcomes) < _IDLE:
        say(
            "the QPU has little to do, so policies hardly differ; --load 0.9 lets the same jobs come "
            "at the pace that asks for nine tenths of its time"
        )
    if report is not None:
        say(f"  {report}")


def _check(source: Source, amounts: Amounts) -> None:
    if sum(s is not None for s in (source.ledger, source.swf, source.mix)) != 1:
        raise ConfigError(
            "say where the jobs come from: one of --ledger FILE, --swf FILE and --mix SEED"
        )
    if amounts.load is not None and amounts.compress is not None:
        raise ConfigError("--load and --compress both set the pace; give one of them")
    for name in ("load", "compress", "slice_s", "short_s", "noise"):
        value, least = getattr(amounts, name), 0.0
        if value is None or (value == 0 and name in ("slice_s", "noise", "short_s")):
            continue
        if not math.isfinite(value) or value <= least:
            option = f"--{name.removesuffix('_s')}"
            raise ConfigError(f"{option} {value:g}; give a number above 0")
    if amounts.noise > 2:
        raise ConfigError(f"--noise {amounts.noise:g}; give a number of at most 2")


def _settings(site: Site, request: SimulateRequest) -> QpuSettings:
    """Return the QPU to simulate: the site's, or a profile served by the site's schedule."""
    if request.profile is None:
        return site.qpu(request.qpu)
    named = site.qpu(request.qpu) if request.qpu is not None else None
    settings = QpuSettings(
        name=request.qpu or request.profile, backend="aer", options={"profile": request.profile}
    )
    return replace(settings, schedule=named.schedule) if named is not None else settings


def _target(settings: QpuSettings) -> Target:
    """Return what the QPU publishes; of a simulator with a profile, without opening it."""
    profile = settings.options.get("profile")
    if settings.backend == "aer" and isinstance(profile, str):
        from backends.profiles import load_profile

        target = load_profile(profile).target(settings.name)
    else:
        import tempfile

        from backends import registry

        with tempfile.TemporaryDirectory() as scratch:
            options = resolve_secrets(settings.options)
            backend = registry.create(settings.backend, options, state_dir=Path(scratch))
            try:
                target = backend.target()
            finally:
                backend.close()
    if target.timing is None:
        raise ConfigError(
            f"QPU {settings.name!r} has no timing model, so nothing can be simulated on it; choose "
            "one with a profile by --qpu, or a profile by --profile, such as --profile vlq"
        )
    return target


def _policies(wanted: Sequence[str], settings: QpuSettings) -> list[tuple[str, Policy]]:
    from orchestrator.broker.core.policies import POLICIES, make_policy

    found = {}
    for text in wanted or POLICIES:
        name, _, pairs = text.partition(":")
        schedule = settings.schedule
        values = dict(schedule.parameters) if schedule.policy == name else {}
        try:
            for pair in filter(None, pairs.split(",")):
                key, _, value = pair.partition("=")
                values[key.strip()] = float(value)
        except ValueError:
            raise ConfigError(
                f"--policy {text!r}: write parameters as numbers, such as weighted:shortness=8,age=1"
            ) from None
        try:
            found[text] = make_policy(name, values)
        except ValueError as error:
            raise ConfigError(f"--policy {text!r}: {error}") from None
    return list(found.items())


def _workload(request: SimulateRequest, settings: QpuSettings) -> Workload:
    from orchestrator.simulation import Mix, QuantumRule, first_jobs, made_up, read_swf

    source, limit = request.source, request.amounts.limit
    if source.ledger is not None:
        from orchestrator.simulation.recorded import read_recorded

        # On a profile alone everything goes that was recorded, whatever QPU it was for.
        qpu = settings.name if request.profile is None or request.qpu is not None else None
        workload = read_recorded(source.ledger, scope=source.scope, qpu=qpu)
    elif source.swf is not None:
        workload = read_swf(source.swf, source.rule or QuantumRule())
    else:
        assert source.mix is not None
        workload = made_up(Mix(seed=source.mix, jobs=limit or _MIX_JOBS))
    return first_jobs(workload, limit) if limit is not None else workload


def _fitting(workload: Workload, target: Target, settings: QpuSettings) -> Workload:
    """Return the jobs that the QPU can run at all, handed in to it."""
    from orchestrator.simulation import Workload, on_qpu

    most = target.num_qubits
    fit = [
        arrival
        for arrival in workload.arrivals
        if (most is None or arrival.job.num_qubits <= most)
        and arrival.job.payload_kind in target.payload_kinds
    ]
    left, notes = len(workload.arrivals) - len(fit), workload.notes
    if left:
        notes = (*notes, f"{counted(left, 'job')} left out that {target.name} cannot run")
    return on_qpu(Workload.of(workload.name, fit, notes), settings.name, settings.backend)


def _rules(settings: QpuSettings, target: Target, workload: Workload, amounts: Amounts) -> QpuRules:
    from orchestrator.broker.runtime.site_rules import qpu_rules

    rules = qpu_rules(settings, target, workload.start)
    if amounts.slice_s is not None:
        rules = replace(rules, slice_s=amounts.slice_s or None)
    return rules


def _paced(workload: Workload, rules: QpuRules, amounts: Amounts) -> Workload:
    from orchestrator.simulation import alone, with_load

    if amounts.compress is not None:
        return workload.compressed(amounts.compress)
    if amounts.load is not None:
        return with_load(workload, amounts.load, alone(rules))
    return workload


def _calendar(settings: QpuSettings, target: Target, workload: Workload, rules: QpuRules) -> Any:
    """Return the windows for as long as the work may take, twice over, and two months more."""
    from orchestrator.broker.runtime.site_rules import calendar_of
    from orchestrator.simulation import alone

    seconds = alone(rules)
    asked_s = workload.span_s + 2 * sum(seconds(arrival.job) for arrival in workload.arrivals)
    ahead = min(timedelta(seconds=min(asked_s, 1e9), days=60), _LONGEST_CALENDAR)
    return calendar_of(settings, target, workload.start, ahead)


@contextlib.contextmanager
def _progress(policies: int, jobs: int) -> Iterator[Callable[[str], Callable[[int], None]]]:
    """Show how far a simulation is: a bar on a terminal, now and then a line elsewhere."""
    if sys.stderr.isatty():
        from rich.progress import Progress

        from orchestrator.cli.output import open_console

        with Progress(console=open_console(stderr=True), transient=True) as bars:

            def bar(label: str) -> Callable[[int], None]:
                task = bars.add_task(label, total=jobs)
                return lambda done: bars.update(task, completed=done) if done % 50 == 0 else None

            yield bar
        return
    due, begun = time.monotonic() + _PLAIN_EVERY_S, 0

    def line(label: str) -> Callable[[int], None]:
        nonlocal begun
        begun += 1
        place = f"{label} ({begun} of {policies})"

        def told(done: int) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + _PLAIN_EVERY_S
                write(f"{place}: {done:,} of {jobs:,} jobs handed in\n", sys.stderr)

        return told

    yield line
