"""``hpcqc agent``, ``deploy``, ``submit`` and ``runs``."""
