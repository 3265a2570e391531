"""``hpcqc simulate``."""
