"""Federated learning between sites whose data stay where they are."""
