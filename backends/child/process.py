"""One child process: started, opened, asked, watched, killed, its end explained."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any

from backends.child.environment import Environment, child_command, child_variables
from backends.child.wire import PROTOCOL, Line, LineClosed, LineGarbled, LineStuck, Message
from backends.plugins import PluginUnusable
from backends.secret_text import SecretText

__all__ = ["ChildDied", "ChildProcess", "ChildSilent", "Opening"]

_log = logging.getLogger(__name__)
_END_S = 2.0
_SHOWN_LINES = 40
# A healthy child answers a ping at once, whatever its calls wait for; a loaded machine takes longer.
_PING_S = 10.0
# So many calls that never returned, and the child is replaced.
_MOST_LOST = 16


class ChildDied(Exception):
    """The process ended, or wrote something else than answers; the message says how."""


class ChildSilent(Exception):
    """A call was not answered in time; whether it took effect is unknown."""


class Opening:
    """What a child is to open. variables: names of environment variables that it gets, too."""

    def __init__(
        self,
        *,
        backend: str,
        factory: str,
        options: Mapping[str, Any],
        state_dir: Path,
        variables: Sequence[str] = (),
    ) -> None:
        self.backend = backend
        self.variables = tuple(variables)
        self._header = {
            "factory": factory,
            "options": dict(options),
            # JSON takes a secret for its text alone; with its file it can be read again.
            "secret_files": {
                name: str(Path(value.path).absolute())
                for name, value in options.items()
                if isinstance(value, SecretText)
            },
            "state_dir": str(state_dir),
        }

    def message(self, environment: Environment) -> dict[str, Any]:
        """Return the first message to the child."""
        return {
            "call": "open",
            "protocol": PROTOCOL,
            "memory_bytes": environment.memory_bytes,
            **self._header,
        }


class ChildProcess:
    """A running child. about: what it said of its backend when it opened it."""

    def __init__(self, opening: Opening, environment: Environment) -> None:
        """Start and open; blocks while the SDK is imported. Raises `PluginUnusable`."""
        self._opening, self._environment = opening, environment
        self._pending: dict[int, Future[Message]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._reason = ""
        self._lost = 0
        self._said: deque[str] = deque(maxlen=_SHOWN_LINES)
        self._process, self._line = self._launched()
        assert self._process.stderr is not None
        self._listener = threading.Thread(
            target=self._collect,
            args=(self._process.stderr,),
            name="hpcqc-child-errors",
            daemon=True,
        )
        self._listener.start()
        try:
            self.about = self._open(time.monotonic() + environment.open_s)
        except BaseException:
            self.kill()
            self._line.close()
            raise
        threading.Thread(target=self._receive, name="hpcqc-child", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def dead(self) -> str:
        """How it ended; empty while it lives."""
        return self._reason

    def ask(
        self,
        call: str,
        header: Mapping[str, Any],
        frames: Sequence[bytes] = (),
        *,
        timeout_s: float,
        patient: bool = True,
    ) -> Message:
        """Make a call and return the answer.

        patient: after a call that was not answered, find out whether the child lives, which may
        take as long again.

        Raises:
            ChildDied: The process ended before it answered.
            ChildSilent: It did not answer in time. It lives on if it still answers pings.
        """
        try:
            return self._ask(call, header, frames, timeout_s)
        except TimeoutError:
            if patient:
                self._judge(call)
            raise ChildSilent(f"{call} was not answered within {timeout_s:g} s") from None

    def memory(self) -> dict[str, int]:
        """Return ``memory_bytes`` and ``peak_memory_bytes``. Raises as `ask`."""
        answer, _ = self.ask("ping", {}, timeout_s=_PING_S)
        return {name: int(answer[name]) for name in ("memory_bytes", "peak_memory_bytes")}

    def close(self) -> None:
        """Let it close its backend, then end it."""
        with contextlib.suppress(LineClosed, LineStuck):
            self._line.send({"call": "close", "id": 0}, timeout_s=_END_S)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        self._end("it was closed")

    def kill(self, reason: str = "it was killed") -> None:
        """Kill it and all that it started in its process group."""
        self._end(reason)

    def _launched(self) -> tuple[subprocess.Popen[bytes], Line]:
        command = child_command(self._environment)
        child_in, ours_out = os.pipe()
        ours_in, child_out = os.pipe()
        try:
            process = subprocess.Popen(
                command,
                stdin=child_in,
                stdout=child_out,
                stderr=subprocess.PIPE,
                env=child_variables(self._opening.variables),
                start_new_session=True,
            )
        except OSError as error:
            os.close(ours_in)
            os.close(ours_out)
            raise PluginUnusable(
                f"{self._name}: cannot start {command[0]!r}: {error.strerror}; give the path of a "
                "Python 3.11 or newer, or a container's command, in `environment`"
            ) from error
        finally:
            os.close(child_in)
            os.close(child_out)
        return process, Line(ours_in, ours_out)

    @property
    def _name(self) -> str:
        return f"backend {self._opening.backend!r} in a process of its own"

    def _open(self, deadline: float) -> Mapping[str, Any]:
        greeting = self._first(deadline)
        spoken = greeting.get("protocols")
        if not isinstance(spoken, list) or PROTOCOL not in spoken:
            raise PluginUnusable(
                f"{self._name} speaks version {spoken} of the protocol, this hpcqc version "
                f"{PROTOCOL}; install the same version of hpcqc in the environment"
            )
        self._line.send(self._opening.message(self._environment), timeout_s=_PING_S)
        answer = self._first(deadline)
        if "refused" in answer:
            raise PluginUnusable(self._refusal(answer, greeting))
        return answer

    def _refusal(self, answer: Mapping[str, Any], greeting: Mapping[str, Any]) -> str:
        if answer["refused"] == "import":
            command = self._environment.interpreter or " ".join(self._environment.command)
            return (
                f"{self._name} cannot be imported by {command} (Python {greeting.get('python')}): "
                f"{answer['message']}. Install what it needs there, or make an environment with "
                f"'hpcqc backends install {self._opening.backend}' and write "
                'environment = "managed"'
            )
        return f"{self._name}: {answer['message']}"

    def _first(self, deadline: float) -> dict[str, Any]:
        """Return the next message while there is no other thread that reads."""
        try:
            if not self._line.readable(deadline - time.monotonic()):
                raise PluginUnusable(
                    f"{self._name} did not answer within {self._environment.open_s:g} s"
                    f"{self._last_words()}"
                )
            return self._line.receive()[0]
        except LineClosed:
            raise PluginUnusable(f"{self._name}: {self._explained()}") from None
        except LineGarbled as error:
            raise PluginUnusable(
                f"{self._name} printed {error} where an answer was expected; give a Python "
                "interpreter, or a command that serves 'python -m backends.child'"
            ) from None

    def _ask(
        self, call: str, header: Mapping[str, Any], frames: Sequence[bytes], timeout_s: float
    ) -> Message:
        answer: Future[Message] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._reason:
                raise ChildDied(self._reason)
            self._pending[number] = answer
        try:
            self._line.send({**header, "call": call, "id": number}, frames, timeout_s=timeout_s)
            return answer.result(timeout_s)
        except LineClosed:
            return answer.result(_END_S)  # the reader says how it ended
        except LineStuck:
            self._end(f"it did not read {call} within {timeout_s:g} s, and was killed")
            raise ChildDied(self._reason) from None
        finally:
            with self._lock:
                self._pending.pop(number, None)

    def _judge(self, call: str) -> None:
        """Kill a child that answers nothing any more, or in which too many calls hang."""
        with self._lock:
            self._lost += 1
            lost = self._lost
        if lost < _MOST_LOST:
            try:
                self._ask("ping", {}, (), _PING_S)
            except TimeoutError:
                self._end(f"it hung in {call}, and was killed")
            except ChildDied:
                pass
        else:
            self._end(f"{lost} calls hung in it, {call} the last, and it was killed")

    def _receive(self) -> None:
        reason = ""
        try:
            while True:
                header, frames = self._line.receive()
                number = header.get("id")
                with self._lock:
                    pending = self._pending.pop(number, None) if type(number) is int else None
                    self._lost -= pending is None and self._lost > 0  # late, but not lost
                if pending is not None:
                    pending.set_result((header, frames))
        except LineClosed:
            reason = self._explained()
        except LineGarbled as error:
            reason = f"it wrote {error} where an answer was expected, and was killed"
        self._end(reason)
        self._line.close()  # by the thread that reads it: no other may have the number meanwhile

    def _end(self, reason: str) -> None:
        with self._lock:
            first = not self._reason
            self._reason = self._reason or reason
            pending, self._pending = self._pending, {}
        for answer in pending.values():
            answer.set_exception(ChildDied(self._reason))
        if not first:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)

    def _explained(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._listener.join(_END_S)
        code = self._process.poll()
        if code is None:
            how = "it closed its pipe"
        elif code < 0:
            hint = " (out of memory?)" if -code in (signal.SIGKILL, signal.SIGABRT) else ""
            how = f"it was ended by signal {-code} {signal.Signals(-code).name}{hint}"
        else:
            how = f"it ended with exit code {code}"
        return f"{how}{self._last_words()}"

    def _last_words(self) -> str:
        lines = [line for line in self._said if line.strip()]
        return f"; its last words: {lines[-1].strip()[:500]}" if lines else ""

    def _collect(self, errors: IO[bytes]) -> None:
        """Read what it prints, so that it never blocks on a full pipe."""
        with errors:
            for line in iter(lambda: errors.readline(4096), b""):
                text = line.decode(errors="replace").rstrip("\n")
                self._said.append(text)
                _log.debug("%s: %s", self._opening.backend, text)
