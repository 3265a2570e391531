"""``hpcqc qpu`` and ``hpcqc config``."""
