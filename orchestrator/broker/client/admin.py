"""A broker service as the command line speaks to it: one question, one answer, no patience."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from pydantic import TypeAdapter

from orchestrator.broker.client.http import MOST_JOBS, Exchange, whole_id
from orchestrator.broker.core.statement import StatementLine
from orchestrator.identity import is_job_id

__all__ = ["OperatorClient"]

_PATIENCE_S = 3.0


class OperatorClient:
    """Asks a service; answers are JSON documents as the API describes them.

    Every call may raise ``BrokerUnreachable`` and ``BrokerRefused``. Use it as a context.
    """

    def __init__(self, url: str, *, token: str | None) -> None:
        """Take note of the arguments; the first call connects."""
        self.url = url
        self._exchange = Exchange(url, token=token, patience_s=_PATIENCE_S)

    def __enter__(self) -> OperatorClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exchange.close()

    def health(self) -> dict[str, Any]:
        """Return the health document, whatever it says."""
        answer = self._exchange.ask("GET", "/health", any_status=True, anonymous=True)
        found: dict[str, Any] = answer.json()
        return found

    def qpus(self) -> list[dict[str, Any]]:
        """Return how each QPU stands."""
        found: list[dict[str, Any]] = self._exchange.ask("GET", "/v1/qpus").json()
        return found

    def queue(self, qpu: str | None) -> list[dict[str, Any]]:
        """Return the jobs that have not ended, in order of submission."""
        found: list[dict[str, Any]] = []
        for state in ("queued", "running", "uncertain"):
            asked = {"limit": MOST_JOBS, "state": state} | ({} if qpu is None else {"qpu": qpu})
            found += self._exchange.ask("GET", "/v1/jobs", params=asked).json()
        latest = {job["id"]: job for job in found}  # one may have moved on between two questions
        return sorted(latest.values(), key=lambda job: str(job["submitted_at"]))

    def change_qpu(self, qpu: str, verb: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Drain or resume a QPU; return how it stands then."""
        found: dict[str, Any] = self._exchange.ask(
            "POST", f"/v1/qpus/{qpu}/{verb}", json=body
        ).json()
        return found

    def cancel_named(self, job: str) -> dict[str, Any]:
        """Cancel a job by its id or the unambiguous start of it."""
        found: dict[str, Any] = self._exchange.ask(
            "POST", f"/v1/jobs/{self._whole(job)}/cancel"
        ).json()
        return found

    def resolve(self, job: str, verdict: str, reason: str) -> dict[str, Any]:
        """Settle an uncertain job by its id or the unambiguous start of it."""
        found: dict[str, Any] = self._exchange.ask(
            "POST",
            f"/v1/jobs/{self._whole(job)}/resolve",
            json={"verdict": verdict, "reason": reason},
        ).json()
        return found

    def projects(self) -> list[dict[str, Any]]:
        """Return what each project used."""
        found: list[dict[str, Any]] = self._exchange.ask("GET", "/v1/projects").json()
        return found

    def limit_project(self, project: str, unit: str, amount: float | None) -> dict[str, Any]:
        """Set a project's budget, or lift it; return how the project stands then."""
        body = {"project": project, "unit": unit, "amount": amount}
        found: dict[str, Any] = self._exchange.ask("POST", "/v1/budgets/projects", json=body).json()
        return found

    def statement(self, project: str | None, month: str | None) -> list[StatementLine]:
        """Return what projects were charged in a month, as ``2026-11``; None is this one."""
        asked = {"project": project, "month": month}
        given = {name: value for name, value in asked.items() if value is not None}
        answer = self._exchange.ask("GET", "/v1/statement", params=given)
        return TypeAdapter(list[StatementLine]).validate_json(answer.content)

    def _whole(self, job: str) -> str:
        if is_job_id(job):
            return job
        jobs = self._exchange.ask("GET", "/v1/jobs", params={"limit": MOST_JOBS}).json()
        return whole_id(job, [known["id"] for known in jobs])
