"""``hpcqc jobs`` and ``hpcqc why``."""
