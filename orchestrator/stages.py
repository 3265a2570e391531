"""``@classical`` and ``@quantum``: real Prefect tasks that say where their work belongs."""

from __future__ import annotations

import functools
import hashlib
import inspect
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import TypeAdapter, ValidationError

from backends.api import QpuUnavailable
from orchestrator.arguments import expect
from orchestrator.broker.core.budgets import BudgetExhausted
from orchestrator.broker.core.choice import QpuNeeds
from orchestrator.broker.core.codec import to_plain
from orchestrator.compute.api import Demand
from orchestrator.compute.digests import value_digest
from orchestrator.compute.kinds import check_demand, check_fits_one_job, settings_in_force
from orchestrator.compute.remote_call import (
    RemoteFunction,
    StageContext,
    deferred,
    dump_by_value,
    execution,
    exhausted,
    stage_context,
    within,
)
from orchestrator.config.durations import duration
from orchestrator.config.environment import silence_telemetry
from orchestrator.config.values import size_bytes
from orchestrator.data_labels import all_labels
from orchestrator.identity import ResultKey
from orchestrator.names import ANY, EXPECTED, LABEL, is_name
from orchestrator.resources import resources
from orchestrator.runs import Run, StageSpan, current_run

if TYPE_CHECKING:
    from orchestrator.qpu import Qpu

__all__ = ["StageKeyPolicy", "StageNeeds", "classical", "quantum", "stage_needs"]

P = ParamSpec("P")
R = TypeVar("R")
_NEEDS = "__hpcqc_needs__"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageNeeds:
    """What a stage declares."""

    kind: Literal["classical", "quantum"]
    where: str | None = None  # a compute or a QPU of the site, None for the default
    demand: Demand = field(default_factory=Demand)  # what a classical function asks of its compute
    of_qpu: QpuNeeds | None = None  # by which the broker chooses; None where a QPU is named
    labels: tuple[str, ...] = ()  # of the data that a quantum function sends
    failover: str = ""  # QPU for what is left of its jobs if their own QPU fails

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The labels of the data, with those that the choice of a QPU goes by."""
        return all_labels(self.labels, () if self.of_qpu is None else self.of_qpu.all_labels)


class StageKeyPolicy(CachePolicy):
    """Caches a stage within its run: same code, same inputs, same number of equal calls."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """Return the key under which Prefect keeps the result, None to keep none."""
        del flow_parameters, kwargs
        run = current_run()
        if not run.resumable:
            return None
        key = run.stage_key(str(task_ctx.task_run.id), lambda: _content(run, task_ctx.task, inputs))
        needs = stage_needs(task_ctx.task)
        if needs is not None:
            _note_cached(run, key, task_ctx, needs)
        return str(ResultKey(run.id, key))


@overload
def classical(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def classical(
    *,
    cores: int = ...,
    memory: str | None = ...,
    gpus: int = ...,
    nodes: int | tuple[int, int] = ...,
    tasks_per_node: int = ...,
    walltime: timedelta | str | None = ...,
    compute: str | None = ...,
    **task_options: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def classical(
    fn: Callable[P, R] | None = None,
    /,
    *,
    cores: int = 1,
    memory: str | None = None,
    gpus: int = 0,
    nodes: int | tuple[int, int] = 1,
    tasks_per_node: int = 1,
    walltime: timedelta | str | None = None,
    compute: str | None = None,
    **task_options: Any,
) -> Any:
    """Make a function a classical stage: a Prefect task whose body runs on a compute's worker.

    The task itself stays in the flow's process. The function must be picklable with its arguments
    and result.

    Args:
        fn: The function, where the decorator is used without parentheses.
        cores: Threads that it, or each task of its programs, may use.
        memory: Memory that it needs on each node, such as ``"8 GiB"``; None for what a worker has.
        gpus: GPUs that it needs on each node.
        nodes: Machines that it needs; ``(1, 3)`` for at least 1 and no use of more than 3.
        tasks_per_node: Processes on each node of the programs that it runs (`run_program`).
        walltime: Longest that it may take, also as a text such as ``"90 min"``; None for what the
            compute grants.
        compute: A compute of the site by name; None for its default.
        task_options: Whatever ``prefect.task`` takes.

    Returns:
        The task, or a decorator where ``fn`` is left out.

    Raises:
        TypeError: The walltime is neither a text nor a ``timedelta``.
        ValueError: The function is async, or an amount is invalid.
    """
    expect(
        "walltime", walltime, (timedelta, str, type(None)), "a timedelta, or a text like '90 min'"
    )
    fewest, most = nodes if isinstance(nodes, tuple) else (nodes, nodes)
    demand = Demand(
        cores=cores,
        memory=None if memory is None else size_bytes(memory),
        gpus=gpus,
        nodes=fewest,
        nodes_max=most,
        tasks_per_node=tasks_per_node,
        walltime=duration(walltime) if isinstance(walltime, str) else walltime,
    )
    needs = StageNeeds(kind="classical", where=compute, demand=demand)
    if fn is None:
        return lambda function: _stage(function, needs, task_options)
    return _stage(fn, needs, task_options)


@overload
def quantum(fn: Callable[..., R], /) -> Task[..., R]: ...
@overload
def quantum(
    *,
    qpu: str | None = ...,
    needs: QpuNeeds | Mapping[str, Any] | None = ...,
    labels: Sequence[str] = ...,
    failover: str | None = ...,
    **task_options: Any,
) -> Callable[[Callable[..., R]], Task[..., R]]: ...
def quantum(
    fn: Callable[..., R] | None = None,
    /,
    *,
    qpu: str | None = None,
    needs: QpuNeeds | Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
    failover: str | None = None,
    **task_options: Any,
) -> Any:
    """Make a function a quantum stage: a Prefect task that gets a `Qpu` as first argument.

    Call the stage without the first argument.

    Args:
        fn: the function; None, as in ``@quantum(qpu="vlq")``, returns a decorator.
        qpu: pins a QPU of the site by name; ``"any"`` lets the broker choose one; None is the run's
            choice, or the site's default.
        needs: what the QPU must have, as `QpuNeeds` or its fields: ``qubits``, ``paradigm``,
            ``max_error``, ``coupling_class``, ``jurisdiction``, ``labels``. The broker then chooses among the QPUs of
            the site, unless one is named for the stage or the run, which must meet them.
        labels: of the data that the stage sends; a QPU that does not accept them never gets it.
        failover: QPU, such as a simulator, for what is left of the stage's jobs if their own QPU fails or
            is drained; None lets them fail or wait. Results, record and report say what ran where.
        **task_options: passed to ``prefect.task``.

    Returns:
        The Prefect task.

    Raises:
        ValueError: the function is async or takes no argument, or a need or a label is invalid.
    """
    stage = StageNeeds(
        kind="quantum",
        where=qpu,
        of_qpu=_qpu_needs(needs),
        labels=_checked_labels(labels),
        failover=failover or "",
    )
    if fn is None:
        return lambda function: _stage(function, stage, task_options)
    return _stage(fn, stage, task_options)


def _qpu_needs(needs: QpuNeeds | Mapping[str, Any] | None) -> QpuNeeds | None:
    if needs is None:
        return None
    expect("needs", needs, (QpuNeeds, Mapping), "a QpuNeeds, or a mapping of its fields to values")
    stated = asdict(needs) if isinstance(needs, QpuNeeds) else needs
    try:
        return TypeAdapter(QpuNeeds).validate_python(dict(stated))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in fault["loc"])
        known = ", ".join(one.name for one in fields(QpuNeeds))
        raise ValueError(
            f"invalid need {name} = {fault['input']!r:.80}: {fault['msg']}; the needs are: {known}"
        ) from None


def _checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return labels as a job has them. Raises ``ValueError``."""
    if isinstance(labels, str):
        raise ValueError(f"labels = {labels!r}; give a list, such as [{labels!r}]")
    for label in labels:
        expect("label", label, str, "a text")
        if not is_name(label, LABEL):
            raise ValueError(f"invalid label {label!r}: {EXPECTED[LABEL]}")
    return all_labels(labels)


def stage_needs(task: Any) -> StageNeeds | None:
    """Return what a Prefect task declared, None if it is no stage."""
    return getattr(getattr(task, "fn", None), _NEEDS, None)


class _WithoutQpu(inspect.Signature):
    """A quantum stage's signature as its callers see it."""

    def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        try:
            return super().bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{error}; the QPU, the first argument of a quantum stage, is passed by hpcqc: "
                "call the stage without it"
            ) from None


@dataclass(frozen=True, slots=True)
class _Call:
    """A stage's function, what it declares, and its arguments."""

    fn: Callable[..., Any]
    needs: StageNeeds
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _stage(
    fn: Callable[..., Any], needs: StageNeeds, task_options: dict[str, Any]
) -> Task[..., Any]:
    silence_telemetry()  # before a flow of a notebook or a plain script starts Prefect's server
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise ValueError(f"{fn.__name__!r} is async; a {needs.kind} stage is a plain function")
    signature = inspect.signature(fn)
    if needs.kind == "quantum":
        parameters = list(signature.parameters.values())
        if not parameters:
            raise ValueError(f"{fn.__name__!r} takes no argument; the first one is the QPU")
        signature = _WithoutQpu(parameters[1:], return_annotation=signature.return_annotation)

    @functools.wraps(fn)
    def run_stage(*args: Any, **kwargs: Any) -> Any:
        return _run(_Call(fn, needs, args, kwargs))

    run_stage.__signature__ = signature  # type: ignore[attr-defined]
    setattr(run_stage, _NEEDS, needs)
    task_options.setdefault("cache_policy", StageKeyPolicy())
    task_options["retry_condition_fn"] = _unless_exhausted(task_options.get("retry_condition_fn"))
    return Task(run_stage, **task_options)


def _unless_exhausted(condition: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return a condition that retries no stage whose budget is exhausted."""

    def is_worth_it(task: Any, task_run: Any, state: Any) -> bool:
        if isinstance(state.data, BudgetExhausted):
            return False
        answer = True if condition is None else condition(task, task_run, state)
        return bool(run_coro_as_sync(answer) if inspect.iscoroutine(answer) else answer)

    return is_worth_it


def _run(call: _Call) -> Any:
    if execution() is not None:  # another stage's function calls it, on that one's worker
        return _run_inline(call)
    run = current_run()
    key, name = _key_and_name(run, call)
    needs = call.needs
    asked_at, after = _dependencies(run, call)
    default = run.default_qpu if needs.kind == "quantum" else run.site.default_compute
    span = StageSpan(
        key=key,
        name=name,
        kind=needs.kind,
        state="running",
        started_at=datetime.now(UTC),
        asked_at=asked_at,
        after=after,
        where=needs.where or default,
        cores=needs.demand.cores,
    )
    context = StageContext(
        run=run.id,
        key=key,
        site=deferred(run.site),
        qpu=run.chosen_qpu,
        keep_dir=run.site.state_dir / "units" / run.id if run.resumable else None,
        demand=needs.demand,
        qpu_identity=_qpu_identity(run, needs),
        labels=all_labels(needs.all_labels, _labels_around(run)),
        failover=needs.failover,
        limited=resources().is_limited(),
    )
    run.forget_cached(key)
    run.record(span)
    try:
        result = (_run_with_qpu if needs.kind == "quantum" else _run_remotely)(call, context)
    except BaseException as error:
        run.finish(span, "failed", f"{type(error).__name__}: {error}")
        raise
    run.finish(span, "completed")
    return result


def _run_inline(call: _Call) -> Any:
    around, here = stage_context(), execution()
    if call.needs.kind == "classical" or around is None or here is None:
        return exhausted(call.fn(*call.args, **call.kwargs))
    labels = all_labels(call.needs.all_labels, around.labels)
    # Kept until the execution ends, for threads that outlive the stage.
    here.labels |= set(labels)
    with within(replace(around, labels=labels)):
        qpu = _opened(call.needs, None)
        return exhausted(call.fn(qpu, *call.args, **call.kwargs))


def _labels_around(run: Run) -> tuple[str, ...]:
    """Return the labels of the stage that calls another one; they hold in that one, too."""
    context = stage_context()
    return run.labels_around() if context is None else context.labels


def _run_remotely(call: _Call, context: StageContext) -> Any:
    needs, site = call.needs, current_run().site
    if needs.demand != Demand():
        settings = settings_in_force(site, needs.where)
        check_demand(call.fn.__name__, needs.demand, settings)
        if current_run().coupling == "exclusive":
            check_fits_one_job(call.fn.__name__, needs.demand, settings)
    remote = RemoteFunction(_dump_once(call.fn), context)
    compute = needs.where or site.default_compute
    with resources().placement().classical(compute, needs.demand):
        ran = resources().compute(needs.where).run(remote, call.args, call.kwargs)
    current_run().update(
        context.key,
        worker=ran.worker,
        ran_from=ran.started_at,
        ran_until=ran.ended_at,
        slurm_job=ran.slurm_job,
        leftover=ran.leftover,
    )
    return ran.value


def _run_with_qpu(call: _Call, context: StageContext) -> Any:
    run = current_run()
    resources().begin_stage(context.key)
    with run.labelled(context.labels), within(context):
        name = _chosen_name(call.needs, context.key)
        with resources().placement().quantum(context.key, name):
            begun_at = datetime.now(UTC)
            qpu = _opened_or_failover(call.needs, context.key, name)
            value = exhausted(call.fn(qpu, *call.args, **call.kwargs))
            run.update(context.key, ran_from=begun_at, ran_until=datetime.now(UTC))
            return value


def _opened(needs: StageNeeds, stage: str | None, name: str | None = None) -> Qpu:
    """Open the QPU of a quantum stage, chosen by the broker if none is named."""
    from orchestrator.qpu import open_qpu  # Qiskit loads with the first quantum stage

    return open_qpu(name or _chosen_name(needs, stage), stage, needs.all_labels)


def _opened_or_failover(needs: StageNeeds, stage: str, name: str) -> Qpu:
    """Open the QPU of a stage, or the one that it allows in its place if that cannot be reached."""
    try:
        return _opened(needs, stage, name)
    except QpuUnavailable as error:
        if needs.failover in ("", name):
            raise
        why = f"{name} cannot be reached: {error}"
        reason = f"{needs.failover} is in the place of {name}, which cannot be reached: {error}"
    qpu = _opened(needs, stage, needs.failover)
    qpu.in_place_of, qpu.in_place_for = name, why
    current_run().update(stage, where=qpu.name, choice={"qpu": qpu.name, "reason": reason})
    return qpu


def _chosen_name(needs: StageNeeds, stage: str | None) -> str:
    """Return the QPU's name; where the broker chooses it, record why."""
    run = current_run() if execution() is None else resources().run
    named = needs.where or run.default_qpu
    if needs.of_qpu is None and named != ANY:
        return named
    from orchestrator.qpu import choose_qpu

    choice = choose_qpu(_with_labels(needs), named=_asked(run, needs), stage=stage)
    if stage is not None:
        run.update(stage, where=choice.qpu, choice=to_plain(choice))
    return choice.qpu


def _asked(run: Run, needs: StageNeeds) -> str:
    """Return the QPU that a choice is bound to: named for the stage or the run, not by default."""
    return needs.where or run.chosen_qpu or ANY


def _with_labels(needs: StageNeeds) -> QpuNeeds:
    return replace(needs.of_qpu or QpuNeeds(), labels=needs.all_labels, jurisdiction="")


def _key_and_name(run: Run, call: _Call) -> tuple[str, str]:
    """Name this execution: after its task run, or, called as a plain function, after the call."""
    fn, task_context = call.fn, TaskRunContext.get()
    if task_context is not None and getattr(task_context.task.fn, "__wrapped__", None) is fn:
        task_run = task_context.task_run
        parameters = task_context.parameters
        key = run.stage_key(str(task_run.id), lambda: _content(run, task_context.task, parameters))
        return key, task_run.name
    recipe = f"{fn.__qualname__}\n{_source(fn)}\n{_qpu_identity(run, call.needs)}"
    content = _digest(recipe, value_digest((call.args, call.kwargs)))
    token: Hashable = uuid.uuid4().hex
    if task_context is not None:
        around = task_context.task_run
        token = run.inner_token(str(around.id), around.run_count, content)
    return run.stage_key(token, lambda: content), fn.__name__


def _dependencies(run: Run, call: _Call) -> tuple[datetime | None, tuple[str, ...] | None]:
    """Return when the flow submitted this execution, and the stages whose results it takes.

    None for what is not known: of a plain call, or where other tasks are between two stages.
    """
    task_context = TaskRunContext.get()
    if task_context is None or getattr(task_context.task.fn, "__wrapped__", None) is not call.fn:
        return None, None
    task_run = task_context.task_run
    keys = {
        run.known_key(str(getattr(one, "id", "")))
        for inputs in task_run.task_inputs.values()
        for one in inputs
        if one.input_type != "parameter"
    }
    known = [key for key in keys if key is not None]
    return task_run.created, tuple(sorted(known)) if len(known) == len(keys) else None


@functools.lru_cache(maxsize=256)
def _dump_once(fn: Callable[..., Any]) -> bytes:
    return dump_by_value(fn)


def _content(run: Run, task: Task[..., Any], inputs: dict[str, Any]) -> str:
    """Return a digest of a stage's name, code, inputs and QPU."""
    needs = stage_needs(task)
    qpu = "" if needs is None else _qpu_identity(run, needs)
    return _digest(f"{task.name}\n{_source(task.fn)}\n{qpu}", value_digest(inputs))


def _qpu_identity(run: Run, needs: StageNeeds) -> str:
    """Return the identity of a quantum stage's QPU, or of its choice; empty for a classical one."""
    if needs.kind != "quantum":
        return ""
    if needs.of_qpu is None:
        return run.qpu_identity(needs.where or run.default_qpu)
    return _digest(f"{_asked(run, needs)}\n{needs.of_qpu!r}", "")


@functools.lru_cache(maxsize=256)
def _source(fn: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(fn)
    except (OSError, TypeError):
        return ""


def _digest(recipe: str, inputs: str) -> str:
    return hashlib.blake2b(f"{recipe}\n{inputs}".encode(), digest_size=8).hexdigest()


def _note_cached(run: Run, key: str, task_ctx: TaskRunContext, needs: StageNeeds) -> None:
    """Record the stage as cached; if Prefect runs it after all, `_run` replaces that."""
    now = datetime.now(UTC)
    run.record(
        StageSpan(
            key=key,
            name=task_ctx.task_run.name,
            kind=needs.kind,
            state="cached",
            started_at=now,
            ended_at=now,
            where=needs.where,
        )
    )
