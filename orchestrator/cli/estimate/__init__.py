"""``hpcqc estimate``."""
