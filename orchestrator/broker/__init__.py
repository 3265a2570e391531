"""The broker: queues, starts, meters and accounts for every quantum job, exactly once."""
