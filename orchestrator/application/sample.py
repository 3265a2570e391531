"""One circuit on one QPU."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.api import PayloadRejected
from orchestrator import runs
from orchestrator.application.circuit_files import read_circuit
from orchestrator.application.jobs import JobsOfRun
from orchestrator.arguments import expect, expect_texts
from orchestrator.config.environment import variable
from orchestrator.config.loading import label_settings, load_site
from orchestrator.config.site import Site
from orchestrator.identity import sample_run_id
from orchestrator.provenance.record import recorded_job

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.circuit import ClassicalRegister

    from orchestrator.provenance.schema import RecordedJob

__all__ = [
    "CircuitRefused",
    "SampleHooks",
    "SampleRequest",
    "SampleResult",
    "sample",
    "take_sample",
]


class CircuitRefused(ValueError):
    """The circuit was read, and cannot run on this QPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult:
    """Counts by bit string, Qiskit's way: the last register first, its last bit leftmost.

    registers: names of the parts of a bit string, as they stand. job: what it took and cost.
    """

    counts: Mapping[str, int]
    registers: Sequence[str]
    qpu: str
    job: RecordedJob


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """What to sample, and where. circuit: or the file that holds it."""

    circuit: QuantumCircuit | Path
    qpu: str | None = None
    shots: int = 1024
    seed: int | None = None
    site: Path | str | None = None
    settings: Sequence[str] = ()
    labels: Sequence[str] = ()


def _ignore(_words: str) -> None: ...


def _raise_again(_interrupt: KeyboardInterrupt, close: Callable[[], None]) -> None:
    close()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleHooks:
    """What the process does meanwhile."""

    # Takes why the broker chose this QPU, and why nothing starts on it now.
    note: Callable[[str], None] = _ignore
    # It may call its second argument, which cancels the job; the interrupt is raised again.
    interrupted: Callable[[KeyboardInterrupt, Callable[[], None]], None] = _raise_again


def sample(
    circuit: QuantumCircuit | Path | str,
    *,
    qpu: str | None = None,
    shots: int = 1024,
    seed: int | None = None,
    site: Path | str | None = None,
    settings: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> SampleResult:
    """Sample one circuit on one QPU.

    Args:
        circuit: A circuit, or the path of an OpenQASM 2 or 3 or QPY file that holds one.
        qpu: QPU of the site; None for ``HPCQC_QPU`` or the site's default.
        shots: How often the circuit is run.
        seed: Of a simulator; equal seeds give equal counts.
        site: Path of a site file; None for the one that the usual lookup finds.
        settings: Changes to the site, such as ``"qpu.vlq.longest_task_s=60"``.
        labels: Of the data, such as ``"embargoed"`` or ``"jurisdiction:EU"``; a QPU that does not
            accept each of them never gets it.

    Returns:
        The counts by bit string, and the quantum job that gave them.

    Raises:
        CircuitFileError: The file holds no circuit that can be read.
        CircuitRefused: The circuit, or so many shots of it, cannot run on this QPU.
        ConfigError: The site file, or a label, is wrong.
        DataRefused: The QPU does not accept the labels; nothing was sent.
        RunBusy: This process is running a flow.
        TypeError: The circuit, the shots or the seed is of another type.
        KeyboardInterrupt: It was interrupted; the job is cancelled.
    """
    request = SampleRequest(
        circuit=Path(circuit).expanduser() if isinstance(circuit, str) else circuit,
        qpu=qpu or variable("HPCQC_QPU"),
        shots=shots,
        seed=seed,
        site=site,
        settings=settings,
        labels=labels,
    )
    return take_sample(request, SampleHooks())


def take_sample(request: SampleRequest, hooks: SampleHooks) -> SampleResult:
    """Read, check and run the circuit. Raises as `sample` does."""
    _check_types(request)
    site = load_site(request.site, [*request.settings, *label_settings(request.labels)])
    qpu = site.qpu_name(request.qpu)
    circuit, name = request.circuit, "the circuit"
    if isinstance(circuit, Path):
        name = str(circuit)
        file, circuit = circuit, read_circuit(circuit)
        circuit.name = file.stem
    if request.shots < 1:
        raise CircuitRefused(f"shots {request.shots}: give a whole number of at least 1")
    if request.seed is not None and not 0 <= request.seed < 2**63:
        raise CircuitRefused(f"seed {request.seed}: give a whole number from 0 to 2^63 - 1")
    if circuit.num_parameters:
        names = ", ".join(parameter.name for parameter in circuit.parameters)
        raise CircuitRefused(f"{name} has free parameters ({names}); bind them first")
    with runs.one_run():
        return _sample(circuit, name, qpu, request, site, hooks)


def _check_types(request: SampleRequest) -> None:
    if not isinstance(request.circuit, Path):
        from qiskit import QuantumCircuit

        expect("circuit", request.circuit, QuantumCircuit, "a QuantumCircuit or a file's path")
    expect_texts("settings", request.settings, "qpu.vlq.longest_task_s=60")
    expect_texts("labels", request.labels, "embargoed")
    expect("shots", request.shots, Integral, "a whole number of at least 1")
    expect("seed", request.seed, (Integral, type(None)), "a whole number, or None")


def _sample(
    circuit: QuantumCircuit,
    name: str,
    qpu: str,
    request: SampleRequest,
    site: Site,
    hooks: SampleHooks,
) -> SampleResult:
    from qiskit.exceptions import QiskitError

    from orchestrator.primitives import Sampler
    from orchestrator.resources import shutdown

    run_id = sample_run_id(uuid.uuid4().hex[:12])
    run = runs.Run(id=run_id, site=site, qpu=qpu, resumable=False)
    runs.activate(run)
    try:
        sampler = Sampler(qpu, seed=request.seed)
        try:
            job = sampler.run([circuit], shots=request.shots)
        except PayloadRejected as error:
            told = str(error).replace("PUB 0: ", "", 1)  # there is but one
            raise CircuitRefused(f"{name}: {told}") from None
        except RecursionError:
            raise CircuitRefused(
                f"{name}: its gates are defined by one another in too many levels"
            ) from None
        except QiskitError as error:  # from transpilation: no such gate, not enough qubits, ...
            raise CircuitRefused(f"{name} cannot run on {qpu!r}: {error.message}") from None
        if sampler.choice is not None:
            hooks.note(sampler.choice.reason)
        with closing(JobsOfRun(site, run_id)) as looked:
            for words in looked.standstills([job.qpu]):
                hooks.note(words)
        (result,) = job.result()
        return SampleResult(
            counts=_counts(circuit, result),
            registers=[register.name for register in _registers(circuit)],
            qpu=job.qpu,
            job=recorded_job(job.view()),
        )
    except KeyboardInterrupt as interrupt:
        run.closing = True
        hooks.interrupted(interrupt, shutdown)
        raise
    finally:
        shutdown()
        runs.activate(None)


def _registers(circuit: QuantumCircuit) -> list[ClassicalRegister]:
    return [register for register in reversed(circuit.cregs) if register.size]


def _counts(circuit: QuantumCircuit, result: Any) -> dict[str, int]:
    """Join the registers' bits shot by shot, the last register first, with spaces between."""
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
