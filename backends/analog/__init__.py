"""Neutral atoms driven by analog pulses: devices, sequences, and how they evolve."""
