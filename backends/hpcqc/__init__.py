"""QPUs behind the broker of another site: its HTTP API, spoken as an ordinary user of it."""

from backends.hpcqc.factory import BrokerOptions, create

__all__ = ["BrokerOptions", "create"]
