"""A site's part in sums that are masked: what it answers, and what it never does twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.links import Link
from flows._federated.masking import (
    MaskingError,
    RoundKeys,
    checked_certificate,
    digest,
    encoded,
    mask,
    new_seed,
    signature,
    text_of,
    verify,
)

__all__ = ["PHASES", "Member", "keys_statement", "masked_statement", "pair_context", "pair_mask"]

_Words = NDArray[np.uint64]
# In this order: public keys, sealed secrets, the masked update, who is left, what unmasks the sum.
PHASES = ("keys", "seal", "update", "survivors", "unmask")


@dataclass(eq=False)
class _Round:
    """What a site knows of the round it takes part in."""

    federation: str
    number: int
    keys: RoundKeys = field(default_factory=RoundKeys)
    own_seed: bytes = field(default_factory=new_seed)
    peers: dict[str, dict[str, str]] = field(default_factory=dict)  # public keys of the others
    certificates: dict[str, Any] = field(default_factory=dict)
    sealed: dict[str, bytes] = field(default_factory=dict)
    seeds: dict[str, bytes] = field(default_factory=dict)  # of each pair
    survivors: tuple[str, ...] = ()
    answers: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return sorted(self.peers)


class Member:
    """Answers a coordinator. work: what a task makes of the site's own data, a vector to be added.

    Each phase of a round is answered once: the same message again gets the same answer, another one is
    refused. least: below so many sites this one takes no part, for the others' sum would show its own.
    """

    def __init__(
        self,
        link: Link,
        *,
        name: str,
        least: int,
        work: Callable[[Mapping[str, Any]], NDArray[np.float64]],
    ) -> None:
        """Read the site's key, certificate and authority. Raises `MaskingError` for no ECDSA key."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key = load_pem_private_key(link.key.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise MaskingError(f"{link.key} is no ECDSA key, by which a site signs its updates")
        self._key, self._pem = key, Path(link.certificate).read_text(encoding="ascii")
        self._authority = x509.load_pem_x509_certificate(link.authority.read_bytes())
        self._name, self._least, self._work = name, least, work
        self._round: _Round | None = None
        self._lock = threading.Lock()

    def answer(self, phase: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one message. Raises `MaskingError` for one that does not belong here."""
        if phase not in PHASES:
            raise MaskingError(f"no phase {phase!r:.40}; there are: {', '.join(PHASES)}")
        with self._lock:
            current = self._current(phase, message)
            asked = digest({**message})
            known = current.answers.get(phase)
            if known is not None:
                if known[0] != asked:
                    raise MaskingError(
                        f"round {current.number}: {phase} was answered already, to another message"
                    )
                return known[1]
            before = PHASES[: PHASES.index(phase)]
            if any(one not in current.answers for one in before):
                raise MaskingError(
                    f"round {current.number}: {phase} comes before {before[-1]}; this site has begun anew"
                )
            answered: dict[str, Any] = getattr(self, f"_{phase}")(current, message)
            current.answers[phase] = (asked, answered)
            return answered

    def _current(self, phase: str, message: Mapping[str, Any]) -> _Round:
        federation, number = message.get("federation"), message.get("round")
        if not isinstance(federation, str) or type(number) is not int or number < 0:
            raise MaskingError("a message names its federation and its round")
        current = self._round
        if current is not None and (current.federation, current.number) == (federation, number):
            return current
        if phase != PHASES[0]:
            raise MaskingError(f"round {number} is not the present one of this site")
        if current is not None and current.federation == federation and number < current.number:
            raise MaskingError(f"round {number} is over; this site is at {current.number}")
        self._round = _Round(federation, number)
        return self._round

    def _keys(self, current: _Round, _message: Mapping[str, Any]) -> dict[str, Any]:
        public = current.keys.public()
        statement = keys_statement(current.federation, current.number, self._name, public)
        return {
            "site": self._name,
            "round": current.number,
            "keys": public,
            "certificate": self._pem,
            "signature": signature(self._key, statement),
        }

    def _seal(self, current: _Round, message: Mapping[str, Any]) -> dict[str, Any]:
        members = message.get("members")
        if not isinstance(members, Mapping) or self._name not in members:
            raise MaskingError("the members of the round are named, this site among them")
        if len(members) < self._least:
            raise MaskingError(
                f"{len(members)} sites; {self._name} takes part in sums of at least {self._least}"
            )
        if members[self._name].get("keys") != current.keys.public():
            raise MaskingError(f"the keys that are sent for {self._name} are not its own")
        now = datetime.now(UTC)
        for site, stated in members.items():
            certificate = checked_certificate(
                str(stated.get("certificate")), site, self._authority, now
            )
            keys = stated.get("keys") or {}
            statement = keys_statement(current.federation, current.number, site, keys)
            verify(certificate, statement, str(stated.get("signature")))
            current.peers[site], current.certificates[site] = dict(keys), certificate
        ciphertexts = {}
        for site in current.names:
            if site > self._name:  # of each pair, the first by name seals for the other
                current.sealed[site], sealed = current.keys.seal(current.peers[site])
                statement = _sealed_statement(current, self._name, site, sealed)
                ciphertexts[site] = {
                    "sealed": sealed,
                    "signature": signature(self._key, statement),
                }
        return {"ciphertexts": ciphertexts}

    def _update(self, current: _Round, message: Mapping[str, Any]) -> dict[str, Any]:
        task, ciphertexts = message.get("task"), message.get("ciphertexts")
        if not isinstance(task, Mapping) or not isinstance(ciphertexts, Mapping):
            raise MaskingError("an update needs a task and the secrets that peers sealed")
        for site in current.names:
            if site < self._name:
                current.sealed[site] = self._opened(current, site, ciphertexts.get(site))
        for site in current.names:
            if site != self._name:
                context = pair_context(current.federation, current.number, self._name, site)
                current.seeds[site] = current.keys.pair_seed(
                    current.peers[site], current.sealed[site], context
                )
        words = encoded(self._work(task))
        words = words + mask(current.own_seed, words.size)
        for site, seed in current.seeds.items():
            words = words + pair_mask(seed, words.size, self._name, site)
        sent = text_of(words.astype("<u8").tobytes())
        statement = masked_statement(current.federation, current.number, self._name, sent)
        return {
            "round": current.number,
            "masked": sent,
            "signature": signature(self._key, statement),
        }

    def _opened(self, current: _Round, site: str, stated: Any) -> bytes:
        """Return the secret that a site sealed: signed, or the coordinator could seal one of its own."""
        if not isinstance(stated, Mapping):
            raise MaskingError(f"no secret that {site} sealed")
        sealed = str(stated.get("sealed"))
        statement = _sealed_statement(current, site, self._name, sealed)
        verify(current.certificates[site], statement, str(stated.get("signature")))
        return current.keys.opened(sealed)

    def _survivors(self, current: _Round, message: Mapping[str, Any]) -> dict[str, Any]:
        survivors = _names(message.get("survivors"))
        strangers = sorted(set(survivors) - set(current.names))
        if strangers or self._name not in survivors:
            raise MaskingError("survivors are members of the round, this site among them")
        if len(survivors) < self._least or 2 * len(survivors) <= len(current.names):
            # Two halves could each be told that the other is gone.
            raise MaskingError(
                f"{len(survivors)} of {len(current.names)} sites are left; {self._name} unmasks sums of "
                f"at least {self._least} and more than half"
            )
        current.survivors = survivors
        statement = _survivors_statement(current.federation, current.number, survivors)
        return {"signature": signature(self._key, statement)}

    def _unmask(self, current: _Round, message: Mapping[str, Any]) -> dict[str, Any]:
        signatures = message.get("signatures")
        if not isinstance(signatures, Mapping):
            raise MaskingError("survivors sign who is left before anything is unmasked")
        statement = _survivors_statement(current.federation, current.number, current.survivors)
        for site in current.survivors:
            verify(current.certificates[site], statement, str(signatures.get(site)))
        gone = [site for site in current.names if site not in current.survivors]
        return {
            "own": text_of(current.own_seed),
            "gone": {site: text_of(current.seeds[site]) for site in gone},
        }


def pair_mask(seed: bytes, size: int, own: str, peer: str) -> _Words:
    """Return the mask of a pair as one of the two adds it; the other adds its opposite."""
    words = mask(seed, size)
    return words if own < peer else np.uint64(0) - words


def pair_context(federation: str, number: int, one: str, other: str) -> bytes:
    """Return what a pair's seed is for: no seed serves two rounds or two pairs."""
    from flows._federated.masking import canonical

    return canonical(["hpcqc pair", federation, number, *sorted((one, other))])


def keys_statement(
    federation: str, number: int, site: str, keys: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a site signs of its keys."""
    return {
        "what": "keys",
        "federation": federation,
        "round": number,
        "site": site,
        "keys": dict(keys),
    }


def masked_statement(federation: str, number: int, site: str, masked: str) -> dict[str, Any]:
    """Return what a site signs of its masked update."""
    return {
        "what": "update",
        "federation": federation,
        "round": number,
        "site": site,
        "masked": masked,
    }


def _sealed_statement(current: _Round, site: str, peer: str, sealed: str) -> dict[str, Any]:
    return {
        "what": "sealed",
        "federation": current.federation,
        "round": current.number,
        "site": site,
        "peer": peer,
        "sealed": sealed,
    }


def _survivors_statement(federation: str, number: int, survivors: Sequence[str]) -> dict[str, Any]:
    return {
        "what": "survivors",
        "federation": federation,
        "round": number,
        "survivors": list(survivors),
    }


def _names(stated: Any) -> tuple[str, ...]:
    if not isinstance(stated, list) or not all(isinstance(one, str) for one in stated):
        raise MaskingError("survivors are a list of names")
    return tuple(sorted(set(stated)))
