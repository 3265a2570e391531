"""Qiskit imported on a thread that ends must not crash later."""

from __future__ import annotations

import subprocess
import sys

import pytest

# With Qiskit 2.5 or 2.6 and without the guard it is killed by a segmentation fault, every time.
IMPORTED_ON_A_THREAD_THAT_ENDS = """
import threading
{guard}
numbers = []

def load():
    import qiskit
    numbers.append(threading.get_ident())

def use():
    from qiskit import QuantumCircuit
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.measure_all()
    assert len(list(circuit.data)) == 4
    numbers.append(threading.get_ident())

for work in (load, *[use] * 50):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(numbers.count(numbers[0]))
"""


@pytest.mark.parametrize("guard", ["import backends", "import orchestrator"])
def test_qiskit_may_be_imported_on_a_thread_that_ends(guard: str) -> None:
    program = IMPORTED_ON_A_THREAD_THAT_ENDS.format(guard=guard)
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        # The danger is a later thread with the number of the one that had loaded Qiskit. The
        # system gives a number again nearly always, not always.
        if int(done.stdout) > 1:
            return
    pytest.fail("no thread had the number of the one that had loaded Qiskit")


def test_a_forked_child_may_use_threads_and_qiskit() -> None:
    program = """
import os, threading
import backends

def use():
    from qiskit import QuantumCircuit
    circuit = QuantumCircuit(2)
    circuit.h(0)
    assert len(list(circuit.data)) == 1

def fork():
    import qiskit
    child = os.fork()
    if child == 0:
        for _ in range(100):
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

codes = []
thread = threading.Thread(target=fork)
thread.start()
thread.join()
fork()
print(codes)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[0, 0]", (done.stdout, done.stderr)
