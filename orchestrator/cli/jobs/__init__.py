"""``hpcqc jobs``, ``why`` and ``simulate``."""
