"""Quantum-safe links between sites: TLS 1.3 with a hybrid key exchange and certificates of both sides."""

from backends.links.link import Link, LinkError, LinkFacts, LinkRefused

__all__ = ["Link", "LinkError", "LinkFacts", "LinkRefused"]
