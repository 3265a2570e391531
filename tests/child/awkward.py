"""A fake QPU in a child that misbehaves when its options say so."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import sys
import time
from pathlib import Path

from backends.api import QpuBusy, UnknownSession
from backends.child.backend import open_child
from backends.child.environment import Environment
from backends.child.process import Opening
from backends.fake import create as fake

ROOT = Path(__file__).resolve().parents[2]
# -c puts the working folder first: this serves what is beside these tests, too.
SERVE = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from backends.child.server import main; main()"
)


def environment(**changes) -> Environment:
    """Return an environment whose child can import this module."""
    return Environment(command=(sys.executable, "-c", SERVE), **changes)


def opened(state_dir, environment_=None, **options):
    """Return an awkward backend. options: what happens in a call, once: ``status="exit"``."""
    opening = Opening(
        backend="awkward",
        factory="tests.child.awkward:create",
        options=options,
        state_dir=state_dir,
        variables=("WANTED",),
    )
    return open_child(opening, environment_ or environment())


def create(options, *, state_dir):
    """Build the backend in the child."""
    if "import" in options:
        __import__(options["import"])
    if options.get("open") == "hang":
        time.sleep(3600)
    if options.get("open") == "print":
        print("hello from Python", flush=True)
        ctypes.CDLL(None).puts(b"hello from C")
        os.write(1, b"hello from the system\n")
        os.system("echo hello from a program")
    fake_options = {"durable": bool(options.get("durable")), **options.get("fake", {})}
    if options.get("leases"):
        return LeasingAwkward(fake(fake_options, state_dir=state_dir), options, state_dir)
    kind = ForwardingAwkward if options.get("forwards") else Awkward
    return kind(fake(fake_options, state_dir=state_dir), options, state_dir)


class Awkward:
    """Forwards to a fake; each awkwardness happens once on a state folder, unless ``always``."""

    def __init__(self, inner, options, state_dir) -> None:
        self._inner, self._options, self._state_dir = inner, options, Path(state_dir)

    def __getattr__(self, name):
        method = getattr(self._inner, name)

        def call(*arguments):
            done = self._state_dir / f"{name}-went-wrong"
            if name in self._options and (self._options.get("always") or not done.exists()):
                done.touch()
                misbehave(self._options[name], method, arguments)
            return method(*arguments)

        return call

    def target(self):
        variables = self._options.get("variables")
        if variables:
            (self._state_dir / "variables").write_text("\n".join(sorted(os.environ)))
        return self._inner.target()


class ForwardingAwkward(Awkward):
    """Hands tasks on, and writes the labels of their data down."""

    def start_labelled(self, session, payload, tag, labels):
        (self._state_dir / "labels").write_text(" ".join(labels))
        return self._inner.start(session, payload, tag)


def misbehave(how, method, arguments) -> None:
    if how == "exit after":  # what was asked is done, and the answer is lost
        method(*arguments)
    MISDEEDS[how]()


def write_garbage() -> None:
    for descriptor in range(3, 64):  # the pipe is one of them
        with contextlib.suppress(OSError):
            os.write(descriptor, b"Segmentation fault, or so\n" * 3)


def say_and_exit() -> None:
    print("the licence server is on fire", flush=True)
    os._exit(1)


def fail() -> None:
    raise KeyError("qubit 7")


def ask_to_come_back_never() -> None:
    raise QpuBusy("later", retry_after_s=math.nan)


def know_no_session() -> None:
    error = UnknownSession("no session")
    error.retry_after_s = 1.0  # which no such error has
    raise error


def freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)  # this thread may go on for a moment, until another one takes the signal


MISDEEDS = {
    "busy": ask_to_come_back_never,
    "no session": know_no_session,
    "exit": lambda: os._exit(7),
    "exit after": lambda: os._exit(7),
    "say and exit": say_and_exit,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(3600),
    "freeze": freeze,
    "garbage": write_garbage,
    "raise": fail,
    "memory": lambda: bytearray(4 << 30),
}


class LeasingAwkward(Awkward):
    """One that keeps its device for leases, and writes down each that it is asked for."""

    def acquire_lease(self, lease, longest_s):
        with (self._state_dir / "leases").open("a") as noted:
            noted.write(f"{lease} {longest_s > 0}\n")
        return self._inner.acquire()
