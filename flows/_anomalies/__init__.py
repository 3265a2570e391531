"""Parts of `flows.anomalies`: signals, encoding circuits, learners, picture."""
