"""``hpcqc run``, ``estimate``, ``sample``, ``report`` and ``clean``."""
