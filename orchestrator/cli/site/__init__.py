"""``hpcqc config``, ``qpu``, ``backends`` and ``doctor``."""
