"""``hpcqc why``: why a job waits, why it went when it did, and when it will probably run."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.application.jobs import job_of, ledger_path, service_of
from orchestrator.cli.output import facts, print_json, say, tabulate
from orchestrator.config import ConfigError, Site, load_site
from orchestrator.identity import Tag
from orchestrator.provenance.markup import duration_text

__all__ = ["tell_why"]

_ELSEWHERE = (
    "its place in the queue and its likely start are known only to the process that its broker "
    "lives in, while that runs; here is only what was recorded"
)


def tell_why(job: str, site_file: Path | None, *, as_json: bool) -> None:
    """Write what can be said of a job. Raises ``LedgerError``, or what a service answers."""
    site = load_site(site_file)
    document = _of_service(site, site.broker.url, job) if site.broker.url else _recorded(site, job)
    if as_json:
        print_json(document)
        return
    start = document["expected_start"]
    facts(
        {
            "QPU": document["qpu"],
            "state": document["state"],
            "jobs before it": document["ahead"],
            "probably starts": start and str(start)[:19].replace("T", " ") + " UTC",
            "predicted on the QPU": duration_text(document["predicted_s"]),
            "later jobs that went before it": document["overtaken_by"] or None,
        },
        title=f"job {document['job']}",
    )
    for reason in document["waits_for"]:
        say(f"waits: {reason}")
    rows = [_row(task) for task in document["tasks"]]
    if rows:
        tabulate(("task", "planned", "policy", "predicted", "took", "why then"), rows)


def _row(task: dict[str, Any]) -> list[Any]:
    return [
        str(Tag.parse(task["tag"]).number),
        str(task["planned_at"])[:19].replace("T", " "),
        task["policy"],
        duration_text(task["predicted_s"]),
        duration_text(task["actual_s"]),
        task["text"],
    ]


def _of_service(site: Site, url: str, job: str) -> dict[str, Any]:
    with closing(service_of(site, url)) as service:
        return service.why(job)


def _recorded(site: Site, job: str) -> dict[str, Any]:
    """Explain from the ledger on this machine: decisions are recorded, the queue is elsewhere."""
    from pydantic import TypeAdapter

    from orchestrator.broker.core.explain import Explanation, explain
    from orchestrator.broker.ledger import Ledger
    from orchestrator.broker.runtime.site_broker import SERVICE_SCOPE

    view = job_of(site, job)
    with closing(Ledger.open(ledger_path(site.state_dir))) as ledger:
        scopes = [s for s in ledger.runs() if s.partition("~")[0] == view.run]
        for scope in [*scopes, SERVICE_SCOPE]:
            state = ledger.restore(scope)
            if view.id in state.jobs or ledger.recall(scope, state, view.id):
                found = explain(state, view.id, datetime.now(UTC), _ELSEWHERE)
                document: dict[str, Any] = TypeAdapter(Explanation).dump_python(found, mode="json")
                return document
    raise ConfigError(f"job {view.id} is not in the ledger any more")
