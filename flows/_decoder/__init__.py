"""Decoders of quantum memories: experiments, matching, networks, and what they are worth."""

__all__: list[str] = []
