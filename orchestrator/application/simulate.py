"""What a QPU's queue would have been like under other policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.plugins import PluginUnusable
from backends.simulator import simulated_device
from orchestrator.application.qpus import target_from_settings
from orchestrator.arguments import expect, expect_texts
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.wording import counted

if TYPE_CHECKING:
    from backends.api import Target
    from orchestrator.broker.core.policies import Policy
    from orchestrator.broker.core.rules import QpuRules
    from orchestrator.simulation.sources import QuantumRule
    from orchestrator.simulation.study import PolicyOutcome, Study
    from orchestrator.simulation.workload import Workload

__all__ = ["PolicyStudy", "simulate"]

_MIX_JOBS = 2000
_LONGEST_CALENDAR = timedelta(days=3660)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStudy:
    """One workload under several policies. outcomes: by policy, as it was asked for."""

    qpu: str
    study: Study
    outcomes: Mapping[str, PolicyOutcome]


def simulate(
    *,
    ledger: Path | str | None = None,
    swf: Path | str | None = None,
    mix: int | None = None,
    scope: str | None = None,
    rule: QuantumRule | None = None,
    policies: Sequence[str] = (),
    qpu: str | None = None,
    profile: str | None = None,
    limit: int | None = None,
    load: float | None = None,
    compress: float | None = None,
    slice_s: float | None = None,
    short_s: float = 10.0,
    noise: float = 0.0,
    seed: int = 0,
    site: Path | str | None = None,
    settings: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> PolicyStudy:
    """Replay jobs under several policies, with the scheduler that ships and a virtual clock.

    Give exactly one of ``ledger``, ``swf`` and ``mix``.

    Args:
        ledger: Ledger whose jobs are replayed as they were submitted.
        swf: Standard Workload Format file, also compressed (``.gz``): a sampler call for each job.
        mix: Seed of a made-up mix of short and long jobs.
        scope: Of the ledger: a run's id, or ``"service"``; None for all.
        rule: Makes the sampler call of a job of the SWF file; None for the usual rule.
        policies: Such as ``"weighted:shortness=8,age=1"``; all that are installed if empty.
        qpu: QPU of the site; None for the default one.
        profile: Device profile to simulate instead of the QPU's own.
        limit: The first so many jobs.
        load: Pace at which jobs ask for this part of the QPU's time, above 0.
        compress: Submit the jobs so many times as fast.
        slice_s: Longest work of a task in seconds; 0 for no cut, None for the site's setting.
        short_s: QPU-seconds up to which a job counts as short.
        noise: Sigma of the log-normal factor, of median 1, on each task's time; at most 2.
        seed: Of the noise.
        site: Path of a site file; None for the one that the usual lookup finds.
        settings: Changes to the site, such as ``"qpu.vlq.longest_task_s=60"``.
        progress: Called with the policy, the jobs submitted so far, and all jobs.

    Returns:
        The workload, the QPU's rules, and for each policy its metrics and the jobs' times.

    Raises:
        ConfigError: An argument or the site file is wrong, or the QPU has no timing model.
        WorkloadError: The jobs cannot be read, or the QPU can run none of them.
        LedgerError: The ledger cannot be read.
    """
    from orchestrator.simulation.study import Study, stretches

    if sum(source is not None for source in (ledger, swf, mix)) != 1:
        raise ConfigError(
            "the source of the jobs is missing or given twice: give one of ledger, swf and mix"
        )
    if load is not None and compress is not None:
        raise ConfigError("load and compress both set the pace; give one of them")
    _check_numbers(load=load, compress=compress, slice=slice_s, short=short_s, noise=noise)
    expect_texts("policies", policies, "weighted:shortness=8,age=1")
    chosen = _settings(load_site(site, settings), qpu, profile)
    known, unusable = _policies(policies, chosen)
    # Before the target: a wrong file is a mistake whatever QPU it would be replayed on.
    # On a profile alone all jobs of the ledger are replayed, whatever QPU they were for.
    only = chosen.name if profile is None or qpu is not None else None
    recorded = _workload(ledger, swf, mix, scope=scope, rule=rule, limit=limit, qpu=only)
    target = _target(chosen)
    workload = _fitting(recorded, target, chosen)
    workload = replace(workload, notes=(*workload.notes, *unusable))
    rules = _rules(chosen, target, workload, slice_s)
    workload = _paced(workload, rules, load, compress)
    rules = replace(rules, calendar=_calendar(chosen, target, workload, rules))
    stretched = stretches(seed, noise) if noise else None
    study = Study(workload=workload, rules=rules, noise=stretched, short_s=short_s)
    outcomes = {
        label: study.under(
            policy,
            None if progress is None else partial(_report, progress, label, len(workload.arrivals)),
        )
        for label, policy in known
    }
    return PolicyStudy(qpu=chosen.name, study=study, outcomes=outcomes)


def _report(progress: Callable[[str, int, int], None], label: str, jobs: int, done: int) -> None:
    progress(label, done, jobs)


def _check_numbers(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is None or (value == 0 and name in ("slice", "noise", "short")):
            continue
        expect(name, value, Real, "a number above 0")
        if not math.isfinite(value) or value <= 0:
            raise ConfigError(f"{name} {value:g}: give a number above 0")
        if name == "noise" and value > 2:
            raise ConfigError(f"noise {value:g}: give a number of at most 2")


def _settings(site: Site, qpu: str | None, profile: str | None) -> QpuSettings:
    """Return the QPU to simulate: the site's, or a profile served by the site's schedule."""
    if profile is None:
        return site.qpu(qpu)
    named = site.qpu(qpu) if qpu is not None else None
    backend, options = simulated_device(profile)
    settings = QpuSettings(name=qpu or profile, backend=backend, options=options)
    return settings if named is None else settings.model_copy(update={"schedule": named.schedule})


def _target(settings: QpuSettings) -> Target:
    """Return what the QPU publishes. Raises ``ConfigError`` if it has no timing model."""
    target = target_from_settings(settings)
    if target.timing is None:
        raise ConfigError(
            f"QPU {settings.name!r} has no timing model, so it cannot be simulated; choose a QPU "
            "with a profile, or a profile, such as vlq"
        )
    return target


def _policies(
    wanted: Sequence[str], settings: QpuSettings
) -> tuple[list[tuple[str, Policy]], list[str]]:
    """Return the policies by what they are asked for as, and notes of unusable installed ones."""
    from orchestrator.broker.runtime.site_rules import known_policies, named_policy

    found, notes = {}, []
    for text in wanted or known_policies():
        name, _, pairs = text.partition(":")
        schedule = settings.schedule
        values = dict(schedule.parameters) if schedule.policy == name else {}
        try:
            for pair in filter(None, pairs.split(",")):
                key, _, value = pair.partition("=")
                values[key.strip()] = float(value)
        except ValueError:
            raise ConfigError(
                f"policy {text!r}: write parameters as numbers, such as weighted:shortness=8,age=1"
            ) from None
        try:
            found[text] = named_policy(name, values)
        except ValueError as error:
            if not wanted and isinstance(error, PluginUnusable):
                notes.append(f"left out: {error}")
                continue
            raise ConfigError(f"policy {text!r}: {error}") from None
    return list(found.items()), notes


def _workload(
    ledger: Path | str | None,
    swf: Path | str | None,
    mix: int | None,
    *,
    scope: str | None,
    rule: QuantumRule | None,
    limit: int | None,
    qpu: str | None,
) -> Workload:
    from orchestrator.simulation import sources
    from orchestrator.simulation.workload import first_jobs

    if ledger is not None:
        workload = sources.read_recorded(Path(ledger).expanduser(), scope=scope, qpu=qpu)
    elif swf is not None:
        workload = sources.read_swf(Path(swf).expanduser(), rule or sources.QuantumRule())
    else:
        assert mix is not None
        workload = sources.made_up(sources.Mix(seed=mix, jobs=limit or _MIX_JOBS))
    return first_jobs(workload, limit) if limit is not None else workload


def _fitting(workload: Workload, target: Target, settings: QpuSettings) -> Workload:
    """Return the jobs that the QPU can run at all, handed in to it."""
    from orchestrator.simulation.workload import Workload, on_qpu

    most = target.num_qubits
    fit = [
        arrival
        for arrival in workload.arrivals
        if (most is None or arrival.job.num_qubits <= most)
        and arrival.job.payload_kind in target.payload_kinds
    ]
    left, notes = len(workload.arrivals) - len(fit), workload.notes
    if left:
        notes = (*notes, f"{counted(left, 'job')} left out that {settings.name} cannot run")
    return on_qpu(Workload.of(workload.name, fit, notes), settings.name, settings.backend)


def _rules(
    settings: QpuSettings, target: Target, workload: Workload, slice_s: float | None
) -> QpuRules:
    from orchestrator.broker.runtime.site_rules import qpu_rules

    rules = qpu_rules(settings, target, workload.start)
    return rules if slice_s is None else replace(rules, slice_s=slice_s or None)


def _paced(
    workload: Workload, rules: QpuRules, load: float | None, compress: float | None
) -> Workload:
    from orchestrator.simulation.study import alone
    from orchestrator.simulation.workload import with_load

    if compress is not None:
        return workload.compressed(compress)
    if load is not None:
        return with_load(workload, load, alone(rules))
    return workload


def _calendar(settings: QpuSettings, target: Target, workload: Workload, rules: QpuRules) -> Any:
    """Return the windows for as long as the work may take, twice over, and two months more."""
    from orchestrator.broker.runtime.site_rules import calendar_of
    from orchestrator.simulation.study import alone

    seconds = alone(rules)
    asked_s = workload.span_s + 2 * sum(seconds(arrival.job) for arrival in workload.arrivals)
    ahead = min(timedelta(seconds=min(asked_s, 1e9), days=60), _LONGEST_CALENDAR)
    return calendar_of(settings, target, workload.start, ahead)
