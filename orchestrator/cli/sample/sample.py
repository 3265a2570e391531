"""``hpcqc sample``: one circuit from a file on one QPU."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.api import PayloadRejected
from orchestrator import runs
from orchestrator.application.circuit_files import read_circuit
from orchestrator.application.jobs import JobsOfRun
from orchestrator.cli.interrupts import end_after
from orchestrator.cli.output import print_json, say, tabulate
from orchestrator.config import Site, load_site
from orchestrator.identity import sample_run_id
from orchestrator.provenance.markup import cell_text, duration_text
from orchestrator.provenance.record import recorded_job
from orchestrator.wording import counted

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.circuit import ClassicalRegister

    from orchestrator.provenance.schema import RecordedJob

__all__ = ["CircuitRefused", "SampleRequest", "Sampled", "sample_file", "tell_sample"]


class CircuitRefused(ValueError):
    """The circuit was read, and cannot run on this QPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """What the user asked for."""

    file: Path
    qpu: str | None = None
    shots: int = 1024
    seed: int | None = None
    site_file: Path | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Counts by bit string, Qiskit's way: the last register first, its last bit leftmost.

    registers: names of the parts of a bit string, as they stand.
    """

    counts: Mapping[str, int]
    registers: Sequence[str]
    qpu: str
    job: RecordedJob


def sample_file(request: SampleRequest) -> Sampled:
    """Read, check and run the circuit. Raises ``ValueError`` subclasses for what can never run."""
    site = load_site(request.site_file, request.overrides)
    settings = site.qpu(request.qpu)
    circuit = read_circuit(request.file)
    circuit.name = request.file.stem
    if request.shots < 1:
        raise CircuitRefused(f"--shots {request.shots}; give a whole number of at least 1")
    if request.seed is not None and not 0 <= request.seed < 2**63:
        raise CircuitRefused(f"--seed {request.seed}; give a whole number from 0 to 2^63 - 1")
    if circuit.num_parameters:
        names = ", ".join(parameter.name for parameter in circuit.parameters)
        raise CircuitRefused(f"{request.file} has free parameters ({names}); bind them first")
    return _sample(circuit, settings.name, request, site)


def _sample(circuit: QuantumCircuit, qpu: str, request: SampleRequest, site: Site) -> Sampled:
    from qiskit.exceptions import QiskitError

    from orchestrator.primitives import open_qpu
    from orchestrator.resources import shutdown

    run_id = sample_run_id(uuid.uuid4().hex[:12])
    run = runs.Run(id=run_id, site=site, qpu=qpu, resumable=False)
    runs.activate(run)
    try:
        sampler = open_qpu(qpu).sampler(seed=request.seed)
        try:
            job = sampler.run([circuit], shots=request.shots)
        except PayloadRejected as error:
            told = str(error).removeprefix("PUB 0: ")  # there is but one
            raise CircuitRefused(f"{request.file}: {told}") from None
        except RecursionError:
            raise CircuitRefused(
                f"{request.file}: its gates are defined by one another in too many levels"
            ) from None
        except QiskitError as error:  # from transpilation: no such gate, not enough qubits, ...
            raise CircuitRefused(f"{request.file} cannot run on {qpu!r}: {error.message}") from None
        with closing(JobsOfRun(site, run_id)) as looked:
            for words in looked.standstills([qpu]):
                say(words, stderr=True)
        (result,) = job.result()
        return Sampled(
            counts=_counts(circuit, result),
            registers=[register.name for register in _registers(circuit)],
            qpu=qpu,
            job=recorded_job(job.view()),
        )
    except KeyboardInterrupt as interrupt:
        run.closing = True
        end_after(interrupt, "cancelling the quantum job", shutdown)
        raise  # not reached: the process has ended
    finally:
        shutdown()
        runs.activate(None)


def tell_sample(sampled: Sampled, *, top: int, as_json: bool) -> None:
    """Write the counts, the most frequent first."""
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


def _registers(circuit: QuantumCircuit) -> list[ClassicalRegister]:
    return [register for register in reversed(circuit.cregs) if register.size]


def _counts(circuit: QuantumCircuit, result: Any) -> dict[str, int]:
    """Join the registers' bits shot by shot, the last register first, with spaces between.

    Takes time by the shot only where NumPy does; what is written is written by the outcome.
    """
    import numpy as np

    registers = _registers(circuit)
    columns = [result.data[register.name].array for register in registers]
    rows = np.ascontiguousarray(np.hstack(columns))
    # As one string of bytes each, rows are sorted several times as fast as by their columns.
    keys = rows.view(np.dtype((np.void, rows.shape[1]))).ravel()
    outcomes, tally = np.unique(keys, return_counts=True)
    counts = {}
    for outcome, count in zip(outcomes, tally.tolist(), strict=True):
        rest, bits = outcome.tobytes(), []
        for register, column in zip(registers, columns, strict=True):
            width = column.shape[1]
            bits.append(f"{int.from_bytes(rest[:width], 'big'):0{register.size}b}")
            rest = rest[width:]
        counts[" ".join(bits)] = count
    return counts
