"""``hpcqc broker``."""
