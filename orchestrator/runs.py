"""The run that is going on in this process: its id, site, QPU choice and what it did."""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import IO, Any, Literal

from backends import registry
from backends.api import TaskCancelled
from orchestrator.config.environment import (
    budgets_of_environment,
    own_variables,
    variable,
)
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.site import Site
from orchestrator.data_labels import all_labels
from orchestrator.identity import Occurrence, Occurrences, Scope, checked_run_id, qpu_identity
from orchestrator.retention import hold_run

__all__ = [
    "Gate",
    "Run",
    "StageSpan",
    "StageState",
    "activate",
    "bind",
    "current_run",
    "end_own",
    "is_activated",
    "on_qpu",
    "one_run",
]

_running = threading.Lock()

StageState = Literal["running", "completed", "cached", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpan:
    """One stage run in time."""

    key: str  # stable across reruns
    name: str
    kind: Literal["classical", "quantum"]
    state: StageState
    started_at: datetime
    ended_at: datetime | None = None
    asked_at: datetime | None = None  # when the flow submitted it
    after: tuple[str, ...] | None = None  # keys of stages whose results it takes, None: not known
    where: str | None = None  # name of a compute or a QPU
    error: str | None = None
    worker: str | None = None  # worker, ran_from and ran_until are known once it has ended there
    ran_from: datetime | None = None  # of a quantum stage: since when it has the QPU
    ran_until: datetime | None = None
    slurm_job: int | None = None  # of the worker
    units: tuple[int, int] | None = None  # finished and total units of its fan-out
    cores: int = 1
    leftover: int = 0  # processes that its programs left behind
    choice: Mapping[str, Any] | None = None  # why it is this QPU, where the broker chose it


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a gated run goes by. qpu_free_in_s: asks how long a QPU is busy, None if not known.

    quantum_after_s: how long the run works before it needs the QPU first, None if not known.
    """

    qpu_free_in_s: Callable[[str], float | None] | None = None
    quantum_after_s: float | None = None


@dataclass(eq=False)
class _Labelled:
    """Labels of a stage's data, and the threads that are not its own, or that it left behind."""

    labels: tuple[str, ...]
    since: datetime
    earlier: set[threading.Thread]
    left: set[threading.Thread] | None = None  # None while the stage runs

    def leave(self) -> None:
        """Note the threads that began while the stage was running, which may be its own."""
        self.left, self.earlier = set(threading.enumerate()) - self.earlier, set()

    def is_of_use(self) -> bool:
        """Whether the stage, or a thread that it may have started, is running."""
        return self.left is None or any(one.is_alive() for one in self.left)

    def may_hold(self, thread: threading.Thread, begun_at: datetime | None = None) -> bool:
        """Whether a thread, or a flow that began then, may be the stage's."""
        if self.left is not None:
            return thread in self.left
        return begun_at is None or begun_at >= self.since


@dataclass(eq=False)
class Run:
    """Everything stages and primitives must know about the run they belong to."""

    id: str  # given again, an interrupted run goes on where it was
    site: Site
    qpu: str | None = None  # of stages that pin none; None for the site's default
    resumable: bool = True  # whether anyone could give its id again
    scope: str = ""  # the part of the ledger that this process alone writes
    observers: list[Callable[[StageSpan], None]] = field(default_factory=list)  # must not block
    closing: bool = False  # the run is being ended: stages open nothing anew
    budgets: Mapping[str, float | None] = field(default_factory=dict)  # None lifts a limit
    flow: str = ""  # its name; empty where a script calls stages
    coupling: str = ""  # how its stages share nodes and QPU in time; empty where nothing is Slurm's
    gate: Gate = field(default_factory=Gate)  # of a gated run
    dry: bool = False  # on simulators, to estimate: nothing of it stays, nobody else works for it
    _spans: dict[tuple[str, datetime], StageSpan] = field(default_factory=dict)
    _stages: Occurrences = field(default_factory=Occurrences)
    _keys: dict[Hashable, str] = field(default_factory=dict)
    _inner: Occurrences = field(default_factory=Occurrences)
    _labelled: list[_Labelled] = field(default_factory=list)  # running, or threads of them are
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Take the run's own scope where none is given. Raises ``IdentityError`` for its id."""
        self.scope = self.scope or str(Scope(checked_run_id(self.id)))

    @property
    def default_qpu(self) -> str:
        """The QPU of a stage that pins none."""
        return self.chosen_qpu or self.site.default_qpu

    @property
    def chosen_qpu(self) -> str | None:
        """What overrides the site's default QPU here: `on_qpu`, else the run's own choice."""
        return _on_qpu.get() or self.qpu

    def qpu_identity(self, name: str) -> str:
        """Return ``NAME-DIGEST`` of a QPU's backend and options; the name alone if unknown."""
        # A secret counts by its place, so a renewed one changes nothing; nor does a clock's speed.
        settings = self.site.qpus.get(name)
        if settings is None:
            return name
        options = registry.result_options(settings.backend, settings.options)
        return qpu_identity(name, settings.backend, options)

    @contextmanager
    def labelled(self, labels: tuple[str, ...]) -> Iterator[None]:
        """Keep the labels of a stage's data while it runs, and for threads that outlive it."""
        if not labels:
            yield
            return
        kept = _Labelled(labels, datetime.now(UTC), set(threading.enumerate()))
        with self._lock:
            self._labelled.append(kept)
        try:
            yield
        finally:
            with self._lock:
                kept.leave()
                self._labelled = [one for one in self._labelled if one.is_of_use()]

    def labels_at_work(self) -> tuple[str, ...]:
        """Return the labels that may hold in a thread which does not know what stage it is of.

        Those of all running stages, and of the one that left this thread behind.
        """
        here = threading.current_thread()
        with self._lock:
            return all_labels(*(one.labels for one in self._labelled if one.may_hold(here)))

    def labels_around(self) -> tuple[str, ...]:
        """Return the labels that code outside of known stages inherits from those running.

        None for what the run's flow calls. A flow that a thread of a stage calls is not known to be
        of the stage, so that labels of stages which were running when it began hold in it.
        """
        if _bound.get() is self:
            return ()
        prefect = sys.modules.get("prefect.context")
        flow = None if prefect is None else prefect.FlowRunContext.get()
        if flow is None:
            return self.labels_at_work()
        here, begun_at = threading.current_thread(), flow.start_time
        with self._lock:
            around = [one for one in self._labelled if one.may_hold(here, begun_at)]
        return all_labels(*(one.labels for one in around))

    def spans(self) -> list[StageSpan]:
        """Return every stage run so far, in order of start."""
        with self._lock:
            return list(self._spans.values())

    def record(self, span: StageSpan) -> None:
        """Add or update a span and tell the observers."""
        with self._lock:
            self._spans[span.key, span.started_at] = span
        for observer in tuple(self.observers):
            observer(span)

    def update(self, key: str, **changes: Any) -> None:
        """Change fields of a stage's last span: ``units``, ``worker``, ``ran_from`` and so on."""
        with self._lock:
            found = [span for span in self._spans.values() if span.key == key]
        if found:
            self.record(replace(found[-1], **changes))

    def finish(self, span: StageSpan, state: StageState, error: str | None = None) -> None:
        """Record the end of a span, now."""
        with self._lock:
            span = self._spans.get((span.key, span.started_at), span)
        self.record(replace(span, state=state, ended_at=datetime.now(UTC), error=error))

    def forget_cached(self, key: str) -> None:
        """Remove the spans of a stage that was recorded as cached, but runs."""
        with self._lock:
            self._spans = {
                place: span
                for place, span in self._spans.items()
                if span.key != key or span.state != "cached"
            }

    def stage_key(self, token: Hashable, content: Callable[[], str]) -> str:
        """Return the key of a stage run: its content, and how many equal ones came before.

        token: names this execution, so that a retry keeps its key. content: digest of code, inputs.
        """
        with self._lock:
            known = self._keys.get(token)
        if known is not None:
            return known
        digest = content()
        with self._lock:
            if token not in self._keys:
                self._keys[token] = str(Occurrence(digest, self._stages.next(digest)))
            return self._keys[token]

    def known_key(self, token: Hashable) -> str | None:
        """Return the key of a stage run that has got one, by what names its execution."""
        with self._lock:
            return self._keys.get(token)

    def inner_token(self, task_run: str, attempt: int, content: str) -> Hashable:
        """Name the n-th equal call of a stage inside an attempt, the same for each attempt."""
        with self._lock:
            number = self._inner.next((task_run, attempt, content))
        return task_run, content, number


_current: Run | None = None
_own_variables: Mapping[str, str] | None = None
_own_hold: IO[str] | None = None
_current_lock = threading.Lock()
_on_qpu: ContextVar[str | None] = ContextVar("hpcqc_qpu", default=None)
_bound: ContextVar[Run | None] = ContextVar("hpcqc_run", default=None)


def activate(run: Run | None) -> None:
    """Make a run the one this process works for; None ends it."""
    global _current, _own_variables
    with _current_lock:
        _current, _own_variables = run, None
        _let_go()


def is_activated() -> bool:
    """Whether this process works for a run that was given to `activate`."""
    return _current is not None and _own_variables is None


@contextmanager
def one_run() -> Iterator[None]:
    """Allow one run at a time in this process, where stages find theirs, else raise ``RunBusy``."""
    if is_activated() or not _running.acquire(blocking=False):
        from orchestrator.broker.runtime.embedded import RunBusy

        raise RunBusy(
            "this process is running a flow; wait for its end, or call the flow as a function"
        )
    try:
        yield
    finally:
        _running.release()


def bind(run: Run) -> None:
    """Let what this context calls belong to a run alone, so that nothing outlives its end."""
    _bound.set(run)


def current_run() -> Run:
    """Return the active run; without one, start one on the site found by the usual lookup.

    A run that was started so follows ``HPCQC_QPU`` from stage to stage. Raises ``ConfigError``
    if another of its variables has changed, because its broker and workers are open already, and
    ``TaskCancelled`` where `bind` names a run that has ended.
    """
    global _current, _own_variables, _own_hold
    with _current_lock:
        bound = _bound.get()
        if bound is not None and bound is not _current:
            raise TaskCancelled(f"run {bound.id} has ended; nothing further is started")
        if _current is None:
            named = variable("HPCQC_RUN_ID")
            run_id = named or uuid.uuid4().hex[:12]
            _current = Run(
                id=run_id,
                site=load_site(),
                qpu=variable("HPCQC_QPU"),
                budgets=budgets_of_environment(),
                resumable=named is not None,
            )
            _own_variables = own_variables()
            if named is not None:
                _own_hold = hold_run(_current.site.state_dir, named)
        elif _own_variables is not None:
            _heed_changes(_current, _own_variables)
        return _current


def end_own() -> None:
    """Let the next `current_run` start anew, unless the active run was given to `activate`."""
    global _current, _own_variables
    with _current_lock:
        if _own_variables is not None:
            _current = _own_variables = None
            _let_go()


def _let_go() -> None:
    global _own_hold
    if _own_hold is not None:
        _own_hold.close()
        _own_hold = None


@contextmanager
def on_qpu(name: str) -> Iterator[None]:
    """Run the quantum stages of flows that are called inside on this QPU.

    Stages that pin a QPU stay there. Other threads and tasks are not affected, so that two may
    use different QPUs at the same time::

        with on_qpu("vlq"):
            noisy = agree()

    Args:
        name: the QPU's name.

    Raises:
        ConfigError: the site has no QPU of this name.
    """
    before = _on_qpu.set(current_run().site.qpu_name(name))
    try:
        yield
    finally:
        _on_qpu.reset(before)


def _heed_changes(run: Run, before: Mapping[str, str]) -> None:
    now = own_variables()
    for name in sorted((now.keys() | before.keys()) - {"HPCQC_QPU"}):
        if now.get(name) != before.get(name):
            raise ConfigError(
                f"{name} was {before.get(name)!r} when this process opened its run, and is "
                f"{now.get(name)!r} now; call hpcqc.shutdown() first, or set it back"
            )
    named = now.get("HPCQC_QPU")
    if named != run.qpu:
        run.qpu = None if named is None else run.site.qpu_name(named)
