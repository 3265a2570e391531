"""A stand-in for `Slurm` that fails as often as a test says."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.slurm.states import JobDetails, SlurmJob, SlurmState


class ForgetfulSlurm:
    """Stands for a Slurm whose calls fail as often as a test says. faults: by the call's name."""

    timeout_s = 5.0

    def __init__(self) -> None:
        self.queue: dict[int, SlurmJob] = {}
        self.faults: dict[str, list[Exception]] = {}
        self.tags: list[str] = []
        self.tries = 0
        self.ended: dict[int, JobDetails] = {}

    def jobs(self, ids=None) -> dict[int, SlurmJob]:
        self._fault("jobs")
        return {id_: job for id_, job in self.queue.items() if ids is None or id_ in ids}

    def find(self, tag):
        return next((job for job in self.queue.values() if job.comment == tag), None)

    def submit(self, script) -> int:
        self.tries += 1
        self._fault("submit")
        self.tags.append(script.tag)
        return self.put(script.tag, held=script.held)

    def put(self, tag: str, *, held: bool = False) -> int:
        number = 100 + len(self.queue)
        self.queue[number] = SlurmJob(
            id=number, name="n", user="u", state=SlurmState.PENDING, comment=tag, held=held
        )
        return number

    def details(self, job: int) -> JobDetails:
        return self.ended.get(job, JobDetails())

    def hurry(self, seconds: float) -> None:
        """Nothing takes time here."""

    def cancel(self, ids, *, patient: bool = True) -> None:
        self._fault("cancel")
        for id_ in ids:
            self.change(id_, state=SlurmState.CANCELLED)

    def hold(self, ids) -> None:
        self._fault("hold")
        for id_ in ids:
            self.change(id_, held=True)

    def release(self, ids) -> None:
        self._fault("release")
        for id_ in ids:
            self.change(id_, held=False)

    def waiting(self) -> list[int]:
        return [id_ for id_, job in self.queue.items() if job.state is SlurmState.PENDING]

    def change(self, id_: int, **changed) -> None:
        self.queue[id_] = replace(self.queue[id_], **changed)

    def _fault(self, name: str) -> None:
        if self.faults.get(name):
            raise self.faults[name].pop(0)
