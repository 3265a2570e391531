"""``hpcqc sample``."""
