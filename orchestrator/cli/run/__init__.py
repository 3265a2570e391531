"""``hpcqc run``, ``hpcqc runs`` and ``hpcqc clean``."""
