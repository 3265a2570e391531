"""``hpcqc sample``: one circuit from a file on one QPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import (
    Json,
    Labels,
    Qpu,
    Settings,
    SiteFile,
    path,
    whole,
)
from orchestrator.cli.output import print_json, say, tabulate
from orchestrator.provenance.markup import cell_text, duration_text
from orchestrator.wording import counted

if TYPE_CHECKING:
    from orchestrator.application.sample import SampleResult

__all__ = ["sample"]


def sample(
    circuit: Annotated[
        Path,
        typer.Argument(
            parser=path, metavar="CIRCUIT", help="OpenQASM 2 or 3 (.qasm), or QPY (.qpy)."
        ),
    ],
    qpu: Qpu = None,
    shots: Annotated[int, typer.Option(parser=whole(), metavar="N", help="Shots.")] = 1024,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=whole(), metavar="S", help="Seed of a simulator; equal seeds, equal counts."
        ),
    ] = None,
    top: Annotated[int, typer.Option(parser=whole(), metavar="N", help="Rows of the table.")] = 16,
    site: SiteFile = None,
    setting: Settings = None,
    label: Labels = None,
    as_json: Json = False,
) -> None:
    """Sample one circuit from a file and show the counts."""
    from orchestrator.application.qpus import load_ahead

    load_ahead(site, setting or (), qpu)
    from orchestrator.application.sample import SampleHooks, SampleRequest, take_sample

    request = SampleRequest(
        circuit=circuit,
        qpu=qpu,
        shots=shots,
        seed=seed,
        site=site,
        settings=setting or (),
        labels=label or (),
    )
    hooks = SampleHooks(note=partial(say, stderr=True), interrupted=_end)
    _print_counts(take_sample(request, hooks), top=top, as_json=as_json)


def _end(interrupt: KeyboardInterrupt, close: Callable[[], None]) -> None:
    from orchestrator.cli.interrupts import end_after

    end_after(interrupt, "cancelling the quantum job", close)


def _print_counts(sampled: SampleResult, *, top: int, as_json: bool) -> None:
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
