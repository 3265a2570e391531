"""The broker's decisions: events, state, scheduling and accounting, pure."""
