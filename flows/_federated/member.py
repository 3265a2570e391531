"""A site's part in sums that are masked: what it answers, and what it never does twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.links import Link
from backends.links.tls import names_of
from flows._federated.masking import (
    MaskingError,
    RoundKeys,
    canonical,
    checked_certificate,
    digest,
    encoded,
    identity_of,
    mask,
    new_seed,
    signature,
    text_of,
    verify,
)

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "PHASES",
    "Member",
    "agreement",
    "keys_statement",
    "masked_statement",
    "members_identity",
    "pair_context",
    "pair_mask",
    "sealed_statement",
    "survivors_statement",
]

_Words = NDArray[np.uint64]
# In this order: public keys, sealed secrets, the masked update, who is left, what unmasks the sum.
PHASES = ("keys", "seal", "update", "survivors", "unmask")
# Flows that train at the same time; of more, what was asked longest ago begins anew.
_MOST_FEDERATIONS = 8


@dataclass(eq=False)
class _Round:
    """What a site knows of a round it takes part in."""

    federation: str
    number: int
    keys: RoundKeys = field(default_factory=RoundKeys)
    own_seed: bytes = field(default_factory=new_seed)
    peers: dict[str, dict[str, str]] = field(default_factory=dict)  # public keys of all members
    certificates: dict[str, Any] = field(default_factory=dict)
    sealed: dict[str, bytes] = field(default_factory=dict)
    seeds: dict[str, bytes] = field(default_factory=dict)  # of each pair
    members: str = ""  # identity of all members' keys
    agreed: str = ""  # identity of the members' keys and the task
    survivors: tuple[str, ...] = ()
    answers: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def names(self) -> list[str]:
        return sorted(self.peers)


class Member:
    """Answers coordinators. work: what a task makes of the site's own data, a vector to be added.

    members: all sites of the federation, this one among them; with others it adds nothing. least: below
    so many sites it takes no part, for the others' sum would show its own. Each phase of a round is
    answered once: the same message again gets the same answer, another one is refused.
    """

    def __init__(
        self,
        link: Link,
        *,
        name: str,
        members: Collection[str],
        least: int,
        work: Callable[[Mapping[str, Any]], NDArray[np.float64]],
    ) -> None:
        """Read the site's key, certificate and authority.

        Raises `MaskingError` for no ECDSA key, and for a federation in which a sum could be of one
        site's update alone: less than two sites, or a coordinator that is one of them.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        _check_federation(link, name, members, least)
        key = load_pem_private_key(link.key.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise MaskingError(f"{link.key} is no ECDSA key, by which a site signs its updates")
        self._key, self._pem = key, Path(link.certificate).read_text(encoding="ascii")
        self._authorities = x509.load_pem_x509_certificates(link.authority.read_bytes())
        self._name, self._least, self._work = name, least, work
        self._members, self._coordinators = frozenset(members), frozenset(link.peers)
        self._rounds: dict[str, _Round] = {}  # by federation, the one asked last at the end
        self._lock, self._at_work = threading.Lock(), threading.Lock()

    def answer(self, phase: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one message. Raises `MaskingError` for one that does not belong here."""
        if phase not in PHASES:
            raise MaskingError(f"no phase {phase!r:.40}; there are: {', '.join(PHASES)}")
        current = self._current(phase, message)
        with current.lock:
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
        with self._lock:
            current = self._rounds.pop(federation, None)
            if current is not None:  # to the end, as what was asked last
                self._rounds[federation] = current
                if current.number == number:
                    return current
            if phase != PHASES[0]:
                raise MaskingError(f"round {number} is not the present one of this site")
            if current is not None and number < current.number:
                raise MaskingError(f"round {number} is over; this site is at {current.number}")
            self._rounds[federation] = found = _Round(federation, number)
            if len(self._rounds) > _MOST_FEDERATIONS:
                del self._rounds[next(iter(self._rounds))]
            return found

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
        self._check_members(members)
        if members[self._name].get("keys") != current.keys.public():
            raise MaskingError(f"the keys that are sent for {self._name} are not its own")
        now = datetime.now(UTC)
        peers, certificates = {}, {}
        for site, stated in members.items():
            keys = stated.get("keys") or {}
            certificate = checked_certificate(
                str(stated.get("certificate")), site, self._authorities, now
            )
            statement = keys_statement(current.federation, current.number, site, keys)
            verify(certificate, statement, str(stated.get("signature")))
            peers[site], certificates[site] = dict(keys), certificate
        self._check_holders(certificates)
        current.peers, current.certificates = peers, certificates
        current.members = members_identity(current.federation, current.number, peers)
        ciphertexts = {}
        for site in current.names:
            if site > self._name:  # of each pair, the first by name seals for the other
                current.sealed[site], sealed = current.keys.seal(current.peers[site])
                statement = sealed_statement(current.members, self._name, site, sealed)
                ciphertexts[site] = {
                    "sealed": sealed,
                    "signature": signature(self._key, statement),
                }
        return {"ciphertexts": ciphertexts}

    def _check_members(self, members: Mapping[str, Any]) -> None:
        strangers = sorted(set(members) - self._members)
        if strangers:
            raise MaskingError(
                f"{', '.join(strangers):.200} is no member of {self._name}'s federation, which is "
                f"{', '.join(sorted(self._members))}"
            )
        self._check_enough(members, "takes part in")

    def _check_enough(self, sites: Collection[str], does: str) -> None:
        if len(sites) < self._least or 2 * len(sites) <= len(self._members):
            # Of two halves each could be told that the other is gone.
            raise MaskingError(
                f"{len(sites)} of {len(self._members)} sites; {self._name} {does} sums of at least "
                f"{self._least} and more than half"
            )

    def _check_holders(self, certificates: Mapping[str, x509.Certificate]) -> None:
        """Refuse who is two of the members, or a coordinator: the sum would be of fewer sites."""
        holders: dict[Any, str] = {}
        for site, certificate in certificates.items():
            if self._coordinators & set(names_of(certificate)):
                raise MaskingError(f"the certificate of {site} is a coordinator's, too")
            same = holders.setdefault(identity_of(certificate), site)
            if same != site:
                raise MaskingError(f"{same} and {site} have the same key, so they are one site")

    def _update(self, current: _Round, message: Mapping[str, Any]) -> dict[str, Any]:
        task, ciphertexts = message.get("task"), message.get("ciphertexts")
        if not isinstance(task, Mapping) or not isinstance(ciphertexts, Mapping):
            raise MaskingError("an update needs a task and the secrets that peers sealed")
        sealed = dict(current.sealed)
        for site in current.names:
            if site < self._name:
                sealed[site] = self._opened(current, site, ciphertexts.get(site))
        seeds = {
            site: current.keys.pair_seed(
                current.peers[site],
                sealed[site],
                pair_context(current.federation, current.number, self._name, site),
            )
            for site in current.names
            if site != self._name
        }
        with self._at_work:
            words = encoded(self._work(task))
        current.seeds, current.agreed = seeds, agreement(current.members, task)
        words = words + mask(current.own_seed, words.size)
        for site, seed in seeds.items():
            words = words + pair_mask(seed, words.size, self._name, site)
        sent = text_of(words.astype("<u8").tobytes())
        statement = masked_statement(current.agreed, current.number, self._name, sent)
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
        statement = sealed_statement(current.members, site, self._name, sealed)
        verify(current.certificates[site], statement, str(stated.get("signature")))
        return current.keys.opened(sealed)

    def _survivors(self, current: _Round, message: Mapping[str, Any]) -> dict[str, Any]:
        survivors = _names(message.get("survivors"))
        strangers = sorted(set(survivors) - set(current.names))
        if strangers or self._name not in survivors:
            raise MaskingError("survivors are members of the round, this site among them")
        self._check_enough(survivors, "unmasks")
        current.survivors = survivors
        statement = survivors_statement(current.agreed, current.number, survivors)
        return {"signature": signature(self._key, statement)}

    def _unmask(self, current: _Round, message: Mapping[str, Any]) -> dict[str, Any]:
        signatures = message.get("signatures")
        if not isinstance(signatures, Mapping):
            raise MaskingError("survivors sign who is left before anything is unmasked")
        statement = survivors_statement(current.agreed, current.number, current.survivors)
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


def members_identity(federation: str, number: int, keys: Mapping[str, Any]) -> str:
    """Return the identity of who takes part in a round, and by which keys: no other has these."""
    return digest({"federation": federation, "round": number, "keys": dict(keys)})


def agreement(members: str, task: Mapping[str, Any]) -> str:
    """Return the identity of what all whose updates are added must have in common."""
    return digest({"members": members, "task": dict(task)})


def sealed_statement(members: str, site: str, peer: str, sealed: str) -> dict[str, Any]:
    """Return what a site signs of a secret that it seals for a peer."""
    return {"what": "sealed", "members": members, "site": site, "peer": peer, "sealed": sealed}


def masked_statement(agreed: str, number: int, site: str, masked: str) -> dict[str, Any]:
    """Return what a site signs of its masked update."""
    return {"what": "update", "agreed": agreed, "round": number, "site": site, "masked": masked}


def survivors_statement(agreed: str, number: int, survivors: Sequence[str]) -> dict[str, Any]:
    """Return what each site signs of whose updates are added, before any of them unmasks it."""
    return {"what": "survivors", "agreed": agreed, "round": number, "survivors": list(survivors)}


def _check_federation(link: Link, name: str, members: Collection[str], least: int) -> None:
    if not link.peers:
        raise MaskingError(
            f"[link.{link.name}] names no peers, so any site could coordinate; name the coordinators"
        )
    both = sorted(set(members) & set(link.peers))
    if both:
        raise MaskingError(
            f"{', '.join(both)} is a coordinator by peers and a member: it would know one update of "
            "each sum; let it have another certificate as coordinator"
        )
    if name not in members:
        raise MaskingError(f"members {', '.join(members)}: {name}, this site, is missing")
    if not 2 <= least <= len(members):
        raise MaskingError(
            f"least {least}; expected 2 to {len(members)}, the number of members: {', '.join(members)}"
        )


def _names(stated: Any) -> tuple[str, ...]:
    if not isinstance(stated, list) or not all(isinstance(one, str) for one in stated):
        raise MaskingError("survivors are a list of names")
    return tuple(sorted(set(stated)))
