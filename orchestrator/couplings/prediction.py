"""The couplings under a virtual clock: flows on a cluster's nodes and one QPU, both with a queue (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Literal

from orchestrator.couplings.models import (
    ClusterModel,
    CouplingPrediction,
    FlowModel,
    Occupation,
    QpuModel,
    StageModel,
    quantum_after_s,
)
from orchestrator.couplings.policies import (
    COUPLINGS,
    LONGEST_GATE_S,
    RunSituation,
    Wanted,
    decide,
    gives_way,
    submits_shared,
    useful_nodes,
)
from orchestrator.couplings.progress import (
    EPSILON_S,
    FlowRun,
    PredictedHold,
    PredictedJob,
    QueuedTask,
    StageRun,
)

__all__ = [
    "CouplingCannot",
    "compare",
    "predict",
]


class CouplingCannot(ValueError):
    """A flow cannot run in a coupling on this cluster."""


def compare(
    flows: Sequence[FlowModel],
    cluster: ClusterModel,
    qpu: QpuModel,
    couplings: Iterable[str] = tuple(COUPLINGS),
) -> dict[str, CouplingPrediction]:
    """Predict several couplings; those in which a flow cannot run are left out."""
    found = {}
    for coupling in couplings:
        try:
            found[coupling] = predict(flows, cluster, qpu, coupling)
        except CouplingCannot:
            continue
    return found


def predict(
    flows: Sequence[FlowModel], cluster: ClusterModel, qpu: QpuModel, coupling: str
) -> CouplingPrediction:
    """Predict flows that run at the same time, all in one coupling.

    Args:
        flows: The runs.
        cluster: The nodes.
        qpu: The QPU of all quantum stages.
        coupling: A key of `COUPLINGS`.

    Returns:
        Times and amounts.

    Raises:
        CouplingCannot: A stage, or the shared nodes of a flow, are more than the cluster has.
        KeyError: There is no such coupling.
    """
    for flow in flows:
        _check(flow, cluster, coupling)
    return _Prediction(flows, cluster, qpu, coupling).run()


def _check(flow: FlowModel, cluster: ClusterModel, coupling: str) -> None:
    COUPLINGS[coupling]
    classical = [s for s in flow.stages if s.kind == "classical"]
    most = max((s.nodes for s in classical), default=0)
    together = flow.nodes_max if coupling == "exclusive" else 0
    if max(most, together) > cluster.nodes:
        raise CouplingCannot(
            f"flow {flow.name!r} needs {max(most, together)} nodes at once when {coupling}, and the "
            f"cluster has {cluster.nodes}"
        )
    most = max((s.nodes for s in classical if not s.alone), default=0)
    if coupling == "exclusive" and most > flow.nodes_max:
        raise CouplingCannot(
            f"flow {flow.name!r} has a stage of {most} nodes, and its one job has nodes_max = "
            f"{flow.nodes_max}"
        )


class _Prediction:
    """Flows, nodes and QPU at a moment, and how they go on."""

    def __init__(
        self, flows: Sequence[FlowModel], cluster: ClusterModel, qpu: QpuModel, coupling: str
    ) -> None:
        self._cluster, self._qpu, self._coupling = cluster, qpu, coupling
        self._now_s = min((flow.begins_at_s for flow in flows), default=0.0)
        self._begins_s = self._now_s
        self._runs = [FlowRun(flow, quantum_after_s(flow)) for flow in flows]
        self._numbers = count()
        self._jobs: list[PredictedJob] = []  # not ended, in order of submission
        self._leaving: list[tuple[float, int]] = list(cluster.busy)
        self._tasks: list[QueuedTask] = []
        self._running: list[QueuedTask] = []
        self._submitted_s, self._slurm_ended_s = math.inf, -math.inf
        self._holds: list[PredictedHold] = []  # not granted
        self._holder: FlowRun | None = None  # with an exclusive job, or one that was granted
        self._node_seconds = self._qpu_node_s = self._held_s = self._used_s = 0.0
        self._held_until_s = -math.inf  # by tasks of runs that do not hold the QPU
        self._occupations: list[Occupation] = []
        if qpu.ahead_s:
            self._tasks.append(QueuedTask(self._now_s, qpu.ahead_s))

    def run(self) -> CouplingPrediction:
        """Go on until every flow has ended."""
        while any(run.ended_s == math.inf for run in self._runs):
            while self._step():
                pass
            if all(run.ended_s < math.inf for run in self._runs):
                break
            self._advance()
        ended = {run.model.name: run.ended_s for run in self._runs}
        return CouplingPrediction(
            coupling=self._coupling,
            makespan_s=max(ended.values(), default=self._begins_s) - self._begins_s,
            node_seconds=self._node_seconds,
            qpu_held_s=self._held_s,
            qpu_used_s=self._used_s,
            ended_at_s=ended,
            slurm_s=max(self._slurm_ended_s - self._submitted_s, 0.0),
            qpu_node_s=self._qpu_node_s,
            occupations=tuple(sorted(self._occupations, key=lambda o: (o.start_s, o.end_s))),
        )

    # What happens now.

    def _step(self) -> bool:
        """Do what is due; return whether something happened."""
        happened = self._end_tasks()
        happened |= self._end_stages()
        for run in self._runs:
            if run.model.begins_at_s <= self._now_s + EPSILON_S and run.ended_s == math.inf:
                happened |= self._go_on(run)
        happened |= self._grant()
        happened |= self._assign()
        happened |= self._use_qpu()
        return happened

    def _is_due(self, at_s: float) -> bool:
        return at_s <= self._now_s + EPSILON_S

    def _end_stages(self) -> bool:
        happened = False
        for stage in [stage for run in self._runs for stage in run.active]:
            works = stage.left > EPSILON_S or stage.cold_s > EPSILON_S
            over = not works if stage.is_classical else stage.is_over
            if over and stage.began_s < math.inf:
                happened = True
                self._end_stage(stage)
        for run in self._runs:
            for stage in [one for one in run.receiving if not one.prepares]:
                run.receiving.remove(stage)
                run.done[stage.model.name] = self._now_s
                happened = True
                if stage.job is not None and not self._hand_on(stage.job, stage):
                    self._end_job(stage.job)
        return happened

    def _end_stage(self, stage: StageRun) -> None:
        run, model = stage.run, stage.model
        run.active.remove(stage)
        nodes = stage.width if stage.is_classical else 0
        self._note(run, model.kind, model.name, stage.began_s, nodes)
        if stage.is_classical:
            stage.own_left_s = model.result_s
            run.receiving.append(stage)
        else:
            run.done[model.name] = self._now_s
        if run.hold is not None and all(one.is_classical for one in run.active):
            self._release(run.hold)

    def _hand_on(self, job: PredictedJob, stage: StageRun) -> bool:
        """Give the allocation of a stage that ended to an equal one that waits for one."""
        for other in stage.run.active:
            waits = other.is_classical and other.job is None and self._is_limited(other)
            if waits and other.shares_with(stage):
                job.stage, other.job = other, job
                return True
        return False

    def _is_limited(self, stage: StageRun) -> bool:
        """Whether a stage has an allocation of its own that is as large as a shared worker job."""
        return self._coupling == "split" and stage.model.shares

    def _note(
        self,
        run: FlowRun,
        what: Literal["nodes", "classical", "quantum", "qpu"],
        name: str,
        start_s: float,
        nodes: int = 0,
    ) -> None:
        self._occupations.append(
            Occupation(
                flow=run.model.name,
                what=what,
                name=name,
                start_s=start_s,
                end_s=self._now_s,
                nodes=nodes,
            )
        )

    def _go_on(self, run: FlowRun) -> bool:
        """Let stages become ready, and ask for what the coupling wants."""
        happened = False
        for model, ready_s in self._next_stages(run):
            if self._is_due(ready_s):
                run.known.add(model.name)
                run.active.append(self._stage(model, run))
                happened = True
        if not run.active and not run.receiving and len(run.done) == len(run.model.stages):
            run.ended_s = self._now_s
            for job in [job for job in self._jobs if job.run is run]:
                self._end_job(job)
            return True
        if (
            not run.active and not run.receiving and run.done
        ):  # between two stages a run keeps what it has
            return happened
        return self._reconcile(run, decide(self._coupling, self._situation(run))) or happened

    def _stage(self, model: StageModel, run: FlowRun) -> StageRun:
        if model.kind == "classical":
            return StageRun(model, run, self._now_s)
        if self._qpu.tasks_at_once is None:  # its tasks are work on the flow's machine, too
            return StageRun(model, run, self._now_s, tasks_left=1, own_s=model.seconds_on(1))
        task_s = model.on_qpu_s / model.tasks
        own_s = (model.seconds_on(1) - model.on_qpu_s) / model.tasks
        return StageRun(model, run, self._now_s, tasks_left=model.tasks, own_s=own_s, task_s=task_s)

    def _next_stages(self, run: FlowRun) -> list[tuple[StageModel, float]]:
        """Return the stages whose predecessors have ended, with the times at which they are ready."""
        found = []
        for model in run.model.stages:
            if model.name not in run.known and run.done.keys() >= set(model.after):
                ended = [run.done[name] for name in model.after]
                found.append((model, max(ended, default=run.model.begins_at_s) + model.delay_s))
        return found

    def _situation(self, run: FlowRun) -> RunSituation:
        model = run.model
        working = [stage for stage in run.active if stage.is_classical]
        classical = [*working, *run.receiving]
        if classical and run.gated_since_s is None:
            run.gated_since_s = self._now_s
        # Others have an allocation of their own.
        sharing = sum(stage.model.shares for stage in classical)
        run.gives_way = gives_way(run.gives_way, sharing, self._own_waits(run))
        return RunSituation(
            classical=sharing,
            quantum=len(run.active) - len(working),
            useful_nodes=useful_nodes(
                [s.model.most_nodes for s in classical if s.model.shares],
                model.stages_per_node,
            ),
            nodes_min=model.nodes_min,
            nodes_max=model.nodes_max,
            qpu_free_in_s=self._seen_at_gate(run),
            quantum_in_s=run.quantum_after_s,
            released=run.released,
            waited_s=0.0 if run.gated_since_s is None else self._now_s - run.gated_since_s,
            gives_way=run.gives_way,
        )

    def _own_waits(self, run: FlowRun) -> bool:
        """Whether an allocation of a stage's own waits for nodes."""
        own = [job for job in self._jobs if job.run is run and job.stage is not None]
        return any(job.was_short and job.started_s == math.inf for job in own)

    def _seen_at_gate(self, run: FlowRun) -> float | None:
        """Return how long the QPU is busy; a run looks from its first classical stage on."""
        if not self._qpu.tells_queue:
            return None
        return math.inf if run.gated_since_s is None else self._qpu_free_in_s()

    def _qpu_free_in_s(self) -> float:
        if self._holder is not None and self._coupling != "exclusive":
            running_s = self._held_for_s(self._holder)
        else:
            running_s = max((task.until_s - self._now_s for task in self._running), default=0.0)
        queued_s = sum(task.seconds for task in self._tasks if not self._is_of_holder(task))
        waiting = [hold for hold in self._holds if hold.is_queued]
        return running_s + queued_s + sum(self._held_for_s(hold.run) for hold in waiting)

    def _held_for_s(self, run: FlowRun) -> float:
        """Return for how long a run with its stages of now needs the QPU that it holds."""
        stages = (stage for stage in run.active if not stage.is_classical)
        return max((stage.needs_s(self._now_s) for stage in stages), default=0.0)

    def _is_of_holder(self, task: QueuedTask) -> bool:
        return task.stage is not None and task.stage.run is self._holder

    def _reconcile(self, run: FlowRun, wanted: Wanted) -> bool:
        mine = [job for job in self._jobs if job.run is run]
        known = [*run.model.shares_at_first, *(stage.model.shares for stage in run.active)]
        if known:
            run.submits_shared |= submits_shared(wanted, known)
        if wanted.together:
            submits = run.submits_shared and not any(job.together for job in mine)
            if submits:
                self._submit(run, wanted.workers, wanted.workers, together=True)
            return self._separate(run, wanted) or submits
        happened = False
        shared = [job for job in mine if job.stage is None]
        run.released |= not wanted.held
        for job in shared:
            if job.held and not wanted.held:
                job.held, job.since_s, happened = False, self._now_s, True
        workers = wanted.workers if run.submits_shared else 0
        for _ in range(workers - len(shared)):
            self._submit(run, 1, 1, held=wanted.held)
            happened = True
        happened |= self._retire(run, shared, max(len(shared) - wanted.workers, 0))
        return self._separate(run, wanted) or happened

    def _separate(self, run: FlowRun, wanted: Wanted) -> bool:
        """Submit a job for each stage that has one of its own."""
        happened = False
        for stage in run.active:
            own = wanted.separate or stage.model.alone or stage.model.nodes > 1
            own = stage.model.alone if wanted.together else own
            if stage.is_classical and own and stage.job is None and self._may_submit(stage):
                stage.job = self._submit(run, stage.model.nodes, stage.model.most_nodes)
                stage.job.stage = stage
                happened = True
        return happened

    def _may_submit(self, stage: StageRun) -> bool:
        """Whether there may be one more allocation like that of a stage."""
        if not self._is_limited(stage):
            return True
        equal = [
            job
            for job in self._jobs
            if job.run is stage.run and job.stage is not None and stage.shares_with(job.stage)
        ]
        return len(equal) < max(stage.run.model.nodes_max, 1)

    def _retire(self, run: FlowRun, shared: list[PredictedJob], surplus: int) -> bool:
        """End jobs that are too many: those that have not started first, then those that idle."""
        started = [job for job in shared if job.started_s < math.inf]
        waiting = [job for job in shared if job.started_s == math.inf]
        idle = max(len(started) - self._busy_nodes(run), 0)
        ending = [*reversed(waiting), *list(reversed(started))[:idle]][:surplus]
        for job in ending:
            self._end_job(job, self._cluster.retire_s)
        return bool(ending)

    def _busy_nodes(self, run: FlowRun) -> int:
        running = [s for s in run.active if s.is_classical and s.width and s.job is None]
        single = sum(s.model.most_nodes == 1 for s in running)
        wide = sum(s.width for s in running if s.model.most_nodes > 1)
        return wide + math.ceil(single / run.model.stages_per_node)

    def _submit(
        self, run: FlowRun, least: int, most: int, *, held: bool = False, together: bool = False
    ) -> PredictedJob:
        job = PredictedJob(
            number=next(self._numbers),
            run=run,
            least=least,
            most=min(most, self._cluster.nodes),
            since_s=self._now_s,
            held=held,
            together=together,
        )
        self._jobs.append(job)
        self._submitted_s = min(self._submitted_s, self._now_s)
        return job

    def _end_job(self, job: PredictedJob, later_s: float = 0.0) -> None:
        if job.started_s == math.inf:
            self._jobs.remove(job)
            return
        leaves_s = self._now_s + self._cluster.end_s + later_s
        if job.together:
            self._holder = None
            # The QPU of a Slurm job is held until the job has ended.
            self._held_s += (leaves_s if self._qpu.by_job else self._now_s) - job.started_s
            self._qpu_node_s += self._qpu.nodes_together * (leaves_s - job.started_s)
            self._note(job.run, "qpu", "exclusive", job.started_s)
        self._jobs.remove(job)
        self._leaving.append((leaves_s, job.nodes))
        self._node_seconds += job.nodes * (leaves_s - job.started_s)
        self._slurm_ended_s = max(self._slurm_ended_s, leaves_s)
        name = "shared" if job.stage is None else job.stage.model.name
        self._note(job.run, "nodes", name, job.started_s, job.nodes)

    def _free(self) -> int:
        self._leaving = [one for one in self._leaving if not self._is_due(one[0])]
        started = sum(job.nodes for job in self._jobs)
        return self._cluster.nodes - started - sum(nodes for _, nodes in self._leaving)

    def _eligible_s(self, job: PredictedJob) -> float:
        """Return when Slurm could start a job."""
        latency_s = self._cluster.start_s + self._cluster.wait_s
        if job.together:
            latency_s = max(latency_s, self._qpu.start_s)
        return job.since_s + latency_s

    def _waiting(self) -> list[PredictedJob]:
        waiting = [job for job in self._jobs if job.started_s == math.inf and not job.held]
        return sorted(waiting, key=lambda job: (job.since_s, job.number))

    def _grant(self) -> bool:
        """Start waiting jobs in order; the first one that does not fit keeps those behind it."""
        happened = False
        for job in self._waiting():
            if not self._is_due(self._eligible_s(job)):
                continue
            free = self._free()
            blocked = job.together and (self._holder is not None or bool(self._running))
            ahead = job.together and any(task.since_s < job.since_s for task in self._tasks)
            if free < job.least or blocked or ahead:
                break
            job.nodes = min(job.most, free)
            job.started_s = self._now_s
            job.ready_s = self._now_s + self._cluster.boot_s
            job.cold = job.nodes if job.stage else job.nodes * job.run.model.stages_per_node
            if job.together:
                self._holder = job.run
            happened = True
        for job in self._waiting():
            if not job.was_short and self._is_due(self._eligible_s(job)):
                job.was_short = happened = True
        return happened

    def _assign(self) -> bool:
        """Give the nodes that are ready to classical stages, which may use more or fewer later."""
        happened = False
        for run in self._runs:
            ready = sum(
                job.nodes
                for job in self._jobs
                if job.run is run and job.stage is None and self._is_due(job.ready_s)
            )
            happened |= self._share_nodes(run, ready)
            for stage in run.active:
                job = stage.job
                if job is not None and not stage.width and self._is_due(job.ready_s):
                    self._begin(stage, job.nodes)
                    happened = True
        return happened

    def _share_nodes(self, run: FlowRun, ready: int) -> bool:
        happened = False
        per_node = run.model.stages_per_node
        slots = ready * per_node
        of_run = [stage for stage in run.active if stage.is_classical and stage.job is None]
        stages = [stage for stage in of_run if not stage.model.alone]
        if self._coupling != "exclusive":  # others get an allocation of their own
            stages = [stage for stage in stages if stage.model.shares]
        stages.sort(key=lambda stage: (stage.began_s, stage.ready_s))
        least = {
            id(stage): 1 if stage.model.most_nodes == 1 else stage.model.nodes * per_node
            for stage in stages
        }
        fitting = []
        for stage in stages:
            if least[id(stage)] <= slots:
                slots -= least[id(stage)]
                fitting.append(stage)
        for stage in fitting:
            more = min(slots // per_node, stage.model.most_nodes - stage.model.nodes)
            slots -= more * per_node
            width = stage.model.nodes + more
            if not stage.width:
                self._begin(stage, width)
                happened = True
            elif stage.width != width:
                stage.width = width
                happened = True
        return happened

    def _begin(self, stage: StageRun, width: int) -> None:
        stage.width = width
        stage.began_s = self._now_s
        if self._warm_up(stage):
            stage.cold_s = stage.model.cold_s
        if stage.model.seconds_on(width) <= EPSILON_S:
            stage.left = 0.0

    def _warm_up(self, stage: StageRun) -> bool:
        """Let a stage begin on its workers, and return whether it is the first one on some of them.

        Of shared workers it takes those first that have run a stage and are idle.
        """
        if stage.job is not None:
            is_first, stage.job.cold = stage.job.cold > 0, 0
            return is_first
        run, per_node = stage.run, stage.run.model.stages_per_node
        ready = [
            j for j in self._jobs if j.run is run and j.stage is None and self._is_due(j.ready_s)
        ]
        others = [
            s for s in run.active if s.is_classical and s.width and s.job is None and s is not stage
        ]
        warm = sum(job.nodes * per_node - job.cold for job in ready)
        idle = max(warm - sum(self._workers(other) for other in others), 0)
        missing = first = max(self._workers(stage) - idle, 0)
        for job in ready:
            taken = min(job.cold, missing)
            job.cold, missing = job.cold - taken, missing - taken
        return missing < first

    def _workers(self, stage: StageRun) -> int:
        """Return how many shared workers a stage that runs takes."""
        per_node = stage.run.model.stages_per_node
        return 1 if stage.model.most_nodes == 1 else stage.width * per_node

    def _use_qpu(self) -> bool:
        happened = False
        for stage in [stage for run in self._runs for stage in run.active]:
            if not stage.is_classical and stage.tasks_left and stage.task is None:
                happened |= self._go_to_qpu(stage)
        happened |= self._grant_hold()
        while (task := self._next_task()) is not None:
            self._start_task(task)
            happened = True
        return happened

    def _end_tasks(self) -> bool:
        over = [task for task in self._running if self._is_due(task.until_s)]
        for task in over:
            self._running.remove(task)
            stage = task.stage
            if stage is not None:
                stage.task, stage.tasks_left = None, stage.tasks_left - 1
                stage.is_over = not stage.tasks_left
                if stage.tasks_left:
                    stage.own_left_s, stage.queued_s = stage.own_s, self._now_s
        return bool(over)

    def _go_to_qpu(self, stage: StageRun) -> bool:
        """Let a quantum stage prepare its task, or hand in the one that it has prepared."""
        if stage.own_left_s < math.inf:
            if stage.prepares or not self._is_due(stage.queued_s):
                return False
            stage.task = QueuedTask(self._now_s, stage.task_s, stage)
            stage.own_left_s = stage.queued_s = math.inf
            self._tasks.append(stage.task)
            return True
        run, begins = stage.run, stage.began_s == math.inf
        if self._coupling == "exclusive":
            if self._holder is not run:
                return False
        elif self._holds_by_job:
            if begins:
                stage.began_s = self._now_s
            if run.hold is None:
                run.hold = PredictedHold(run, stage, self._now_s + self._qpu.start_s)
                self._submitted_s = min(self._submitted_s, self._now_s)
                self._holds.append(run.hold)
            if run.hold.granted_s == math.inf:
                return begins
        stage.began_s = min(stage.began_s, self._now_s)
        by_broker = self._coupling != "exclusive" and not self._holds_by_job
        stage.own_left_s = stage.own_s
        stage.queued_s = self._now_s + (self._qpu.start_s if by_broker else 0.0)
        return True

    @property
    def _holds_by_job(self) -> bool:
        return self._coupling == "split" or (self._qpu.by_job and self._coupling != "exclusive")

    def _grant_hold(self) -> bool:
        """Let the first run that waits for the QPU have it, once it is free."""
        due = [hold for hold in self._holds if self._is_due(hold.since_s)]
        for hold in due:
            hold.is_queued = True
        if not due or self._holder is not None or self._running:
            return False
        first = min(due, key=PredictedHold.place)
        if any(task.place() < first.place() for task in self._tasks):
            return False
        self._holds.remove(first)
        first.granted_s, self._holder = self._now_s, first.run
        return True

    def _release(self, hold: PredictedHold) -> None:
        self._held_s += self._now_s - hold.granted_s
        self._qpu_node_s += self._qpu.nodes * (self._now_s - hold.granted_s)
        self._slurm_ended_s = max(self._slurm_ended_s, self._now_s)
        self._note(hold.run, "qpu", hold.stage.model.name, hold.granted_s)
        hold.run.hold = self._holder = None

    def _next_task(self) -> QueuedTask | None:
        """Return the first task that can start: of the holder if there is one."""
        able = [task for task in self._tasks if self._holder is None or self._is_of_holder(task)]
        task = min(able, key=QueuedTask.place, default=None)
        # The work of others is taken to need the whole QPU.
        is_full = len(self._running) >= (self._qpu.tasks_at_once or math.inf)
        alone = any(one.stage is None for one in self._running)
        if task is None or is_full or alone or (task.stage is None and self._running):
            return None
        return task

    def _start_task(self, task: QueuedTask) -> None:
        self._tasks.remove(task)
        self._running.append(task)
        task.until_s = self._now_s + task.seconds
        if task.stage is None:
            return
        self._used_s += task.stage.model.on_qpu_s / (
            1 if self._qpu.tasks_at_once is None else task.stage.model.tasks
        )
        if self._holder is None:
            self._held_s += max(task.until_s - max(self._held_until_s, self._now_s), 0.0)
            self._held_until_s = max(self._held_until_s, task.until_s)
            self._occupations.append(
                Occupation(
                    flow=task.stage.run.model.name,
                    what="qpu",
                    name=task.stage.model.name,
                    start_s=self._now_s,
                    end_s=task.until_s,
                )
            )

    # What comes next.

    def _advance(self) -> None:
        """Go to the next moment at which something happens."""
        next_s = min(self._coming(), default=math.inf)
        if next_s == math.inf:
            raise CouplingCannot("the flows wait for nodes or a QPU that nobody will give them")
        passed_s = next_s - self._now_s
        for stage in self._at_work():
            took_s = stage.model.seconds_on(stage.width)
            worked_s = max(passed_s - stage.cold_s, 0.0)
            stage.cold_s = max(stage.cold_s - passed_s, 0.0)
            stage.left = max(stage.left - worked_s / took_s, 0.0) if took_s else 0.0
            if stage.left * took_s <= EPSILON_S:
                stage.left = 0.0
        for run in self._runs:
            for sharing in self._in_process(run):
                for stage in sharing:
                    stage.own_left_s -= passed_s / len(sharing)
        self._now_s = next_s

    def _in_process(self, run: FlowRun) -> list[list[StageRun]]:
        """Return what the flow's process works at: quantum stages, and results beside them."""
        return [[s for s in stages if s.prepares] for stages in (run.active, run.receiving)]

    def _at_work(self) -> list[StageRun]:
        return [s for run in self._runs for s in run.active if s.is_classical and s.width]

    def _coming(self) -> Iterator[float]:
        moments = [run.model.begins_at_s for run in self._runs]
        moments += [at_s for run in self._runs for _, at_s in self._next_stages(run)]
        moments += [self._eligible_s(job) for job in self._waiting()]
        moments += [job.ready_s for job in self._jobs]
        moments += [at_s for at_s, _ in self._leaving]
        moments += [task.until_s for task in self._running]
        moments += [hold.since_s for hold in self._holds]
        for run in self._runs:
            moments += [stage.queued_s for stage in run.active]
            for sharing in self._in_process(run):
                moments += [self._now_s + one.own_left_s * len(sharing) for one in sharing]
            if self._coupling == "gated" and not run.released and run.gated_since_s is not None:
                moments.append(run.gated_since_s + LONGEST_GATE_S)
                moments.append(self._now_s + self._qpu_free_in_s() - (run.quantum_after_s or 0.0))
        moments += [
            self._now_s + stage.cold_s + stage.left * stage.model.seconds_on(stage.width)
            for stage in self._at_work()
        ]
        return (at_s for at_s in moments if self._now_s + EPSILON_S < at_s < math.inf)
