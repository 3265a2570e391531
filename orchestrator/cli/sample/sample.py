"""``hpcqc sample``: one circuit from a file on one QPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from orchestrator.application.sample import SampleHooks, SampleRequest, SampleResult, take_sample
from orchestrator.cli.interrupts import end_after
from orchestrator.cli.output import print_json, say, tabulate
from orchestrator.provenance.markup import cell_text, duration_text
from orchestrator.wording import counted

__all__ = ["sample_and_tell"]


def sample_and_tell(request: SampleRequest, *, top: int, as_json: bool) -> None:
    """Sample a circuit and print its counts. Ends the process itself when it is interrupted."""
    hooks = SampleHooks(note=partial(say, stderr=True), interrupted=_end)
    _tell(take_sample(request, hooks), top=top, as_json=as_json)


def _end(interrupt: KeyboardInterrupt, close: Callable[[], None]) -> None:
    end_after(interrupt, "cancelling the quantum job", close)


def _tell(sampled: SampleResult, *, top: int, as_json: bool) -> None:
    """Print the counts, the most frequent first."""
    ordered = sorted(sampled.counts.items(), key=lambda item: (-item[1], item[0]))
    if as_json:
        print_json(
            {
                "qpu": sampled.qpu,
                "registers": list(sampled.registers),
                "counts": dict(ordered),
                "job": sampled.job,
            }
        )
        return
    shots = sum(sampled.counts.values())
    rows = [(bits, count, f"{count / shots:.2%}") for bits, count in ordered[:top]]
    names = f" ({' '.join(sampled.registers)})" if len(sampled.registers) > 1 else ""
    tabulate((f"outcome{names}", "counts", "share"), rows)
    left = len(ordered) - len(rows)
    if left > 0:
        say(f"… {counted(left, 'more outcome')}; --top shows more, --json all")
    job = sampled.job
    charges = ", ".join(f"{cell_text(a)} {u}" for u, a in job.usage.charges.items())
    method = ", ".join(map(str, job.methods))
    say(
        f"{counted(shots, 'shot')} on QPU {sampled.qpu} in {counted(job.slices, 'task')}"
        f"{f', method {method}' if method else ''}; "
        f"{duration_text(job.usage.qpu_seconds)} on the device, "
        f"charged {charges or 'nothing'}; job {job.id}",
        style="dim",
    )
