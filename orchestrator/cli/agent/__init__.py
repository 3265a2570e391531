"""``hpcqc agent``."""
