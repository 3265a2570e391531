"""The local agent: what a laptop or login node needs, kept running under one supervisor."""
