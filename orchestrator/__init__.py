"""How hybrid work is placed, run, recovered and accounted; flows import ``hpcqc``."""

import backends  # noqa: F401  # before anybody imports Qiskit, see backends.permanent_thread
