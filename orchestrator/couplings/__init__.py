"""How a run's classical and quantum stages share nodes and the QPU in time."""
