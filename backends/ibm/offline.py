"""IBM's fake devices: snapshots of real ones, simulated in this process by IBM's local mode."""

from __future__ import annotations

import resource
import time
import warnings
from functools import cached_property
from typing import Any

from qiskit.primitives import PrimitiveResult, SamplerPubResult
from qiskit_aer import AerSimulator
from qiskit_ibm_runtime import fake_provider
from qiskit_ibm_runtime.executor_sampler import Sampler

from backends.api import QpuTaskId, Result, SessionId, Target, TaskState, Usage
from backends.devices.local import LocalTasks, Stopping
from backends.ibm.description import calibration_of, described
from backends.ibm.factory import OfflineOptions
from backends.ibm.pubs import PubForm, separate
from backends.payloads import FrozenSamplerPub, Payload, SamplerPayload
from backends.payloads.sampler import SEED_STRIDE
from backends.plugins import PluginUnusable
from backends.sessions import Sessions
from backends.suggestions import did_you_mean
from backends.validate import check, check_tag

__all__ = ["OfflineIbmBackend", "open_offline"]

_LARGEST_SEED = 2**31 - 1


def open_offline(options: OfflineOptions) -> OfflineIbmBackend:
    """Return a fake device. Raises `PluginUnusable` for an unknown one."""
    device = _fake_device(options.device)
    configuration = device.configuration()
    target = described(
        device.name,
        device.target,
        calibration_of(device.name, device.properties().last_update_date),
        max_shots=getattr(configuration, "max_shots", None),
        max_circuits=getattr(configuration, "max_experiments", None),
        coupling_class="interactive",
    )
    return OfflineIbmBackend(device, target, noise=options.noise)


class OfflineIbmBackend:
    """A fake device; see ``backends.api.Backend``. A running simulation cannot be interrupted."""

    def __init__(self, device: Any, target: Target, *, noise: bool) -> None:
        self._device, self._target, self._noise = device, target, noise
        self._sessions = Sessions()
        self._tasks: LocalTasks[SamplerPayload, Result] = LocalTasks(
            target.name, self._run, most=target.max_concurrent_tasks or 1
        )

    def target(self) -> Target:
        """Describe the device as its snapshot does."""
        return self._target

    def acquire(self) -> SessionId:
        """Open a session; as many as are asked for."""
        return self._sessions.open()

    def release(self, session: SessionId) -> None:
        """Close a session."""
        self._sessions.close(session)

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Start a task; see ``Backend.start``."""
        self._sessions.check(session)
        check_tag(tag)
        check(payload, self._target)
        assert isinstance(payload, SamplerPayload)  # as is all that its target takes
        return QpuTaskId(self._tasks.start(payload, tag))

    def find(self, tag: str) -> QpuTaskId | None:
        """Return the task of a tag."""
        check_tag(tag)
        task = self._tasks.find(tag)
        return None if task is None else QpuTaskId(task)

    def status(self, task: QpuTaskId) -> TaskState:
        """Return a task's state."""
        return TaskState(self._tasks.status(task))

    def wait(self, task: QpuTaskId, timeout_s: float) -> TaskState:
        """Block until the task is final or the time is up; see ``Waitable``."""
        return TaskState(self._tasks.wait(task, timeout_s))

    def result(self, task: QpuTaskId) -> Result:
        """Return a completed task's result; see ``Backend.result``."""
        return self._tasks.result(task)

    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task."""
        self._tasks.stop(task)

    def close(self) -> None:
        """Stop all tasks."""
        self._tasks.close()

    @cached_property
    def _simulator(self) -> AerSimulator:
        """The noise model of a large device takes seconds to make, so it is made once."""
        return AerSimulator.from_backend(self._device) if self._noise else AerSimulator()

    def _run(self, payload: SamplerPayload, stopping: Stopping) -> Result:
        started = time.monotonic()
        pubs = []
        for pub in payload.pubs:
            stopping.check()
            pubs.append(self._sampled(pub))
        stopping.check()
        seconds = time.monotonic() - started
        target = self._target
        charge = target.metering.charge(
            qpu_seconds=seconds, shots=payload.shots, num_qubits=payload.num_qubits
        )
        return Result(
            native=PrimitiveResult(pubs, metadata={"version": 2}),
            usage=Usage(
                qpu_seconds=seconds,
                shots=payload.shots,
                circuits=payload.circuits,
                tasks=1,
                charges=(charge,),
            ),
            metadata={
                "device": target.name,
                "calibration_id": target.calibration.id,
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            },
        )

    def _sampled(self, pub: FrozenSamplerPub) -> SamplerPubResult:
        """Sample one PUB: those of one run share their seed, and their number of shots."""
        results = []
        for number, part in enumerate(separate(pub)):
            seed = None if pub.seed is None else (pub.seed + SEED_STRIDE * number) % _LARGEST_SEED
            sampler = Sampler(mode=self._simulator, options={"simulator": {"seed_simulator": seed}})
            results += sampler.run([part]).result()
        return PubForm.of(pub).joined(results)


def _fake_device(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of all of them warns that its values are made up
        known = {
            device.name: device for device in fake_provider.FakeProviderForBackendV2().backends()
        }
    if name not in known:
        raise PluginUnusable(
            f"no fake device {name!r} of IBM's; there are: {', '.join(sorted(known))}"
            f"{did_you_mean(name, known)}"
        )
    return known[name]
