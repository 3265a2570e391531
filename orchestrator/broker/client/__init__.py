"""How a process reaches a broker: the protocol, HTTP, administration."""
