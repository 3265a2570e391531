"""Parts of `flows.entanglement`: random states, their circuits, judges, picture."""
