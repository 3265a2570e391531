"""The coordinator's part: it asks sites over their links, and adds what it cannot read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from backends.links import Link, LinkFacts
from flows._federated.asking import QUICK_S, Sites
from flows._federated.masking import (
    MaskingError,
    bytes_of,
    checked_certificate,
    decoded,
    mask,
    verify,
)
from flows._federated.member import (
    PHASES,
    agreement,
    keys_statement,
    masked_statement,
    members_identity,
    pair_mask,
    sealed_statement,
    survivors_statement,
)
from flows._inputs import InputError

__all__ = ["Coordinator", "FederationStopped", "Sum"]

_CONTINUE = (
    "Start the sites again that others started, and the run with the --run-id that it had: it continues"
    " after its last training"
)


class FederationStopped(InputError):
    """Fewer sites are left than the rule asks for, or a sum is none; no single update was unmasked."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sum:
    """What sites added up. sites: whose updates are in it. gone: who vanished in this round, and why."""

    values: NDArray[np.float64]
    sites: tuple[str, ...]
    gone: Mapping[str, str]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Known:
    """A site's keys in a round: what it sent, and the certificate in it."""

    stated: dict[str, Any]
    certificate: Any


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Revealed:
    own: bytes
    gone: Mapping[str, bytes]


@dataclass(eq=False)
class Coordinator:
    """Asks sites for sums. patience_s: how long a site may work on a task before it counts as gone.

    on_phase: called with the round and the name of each phase before it begins.
    """

    links: Mapping[str, Link]
    federation: str
    least: int
    patience_s: float = 300.0
    on_phase: Callable[[int, str], None] = lambda _number, _phase: None
    sites: Sites = field(init=False)
    _number: int = 0

    def __enter__(self) -> Self:
        """Prepare the clients."""
        self.sites = Sites(self.links)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.sites.close()

    def facts(self) -> dict[str, LinkFacts]:
        """Return what the links agreed on, by site."""
        return self.sites.facts()

    def total(self, task: Mapping[str, Any], size: int) -> Sum:
        """Return the sum of what sites make of a task, vectors of a size, in a round of its own.

        A site that vanishes before it has sent its update is left out: the others reveal the masks that
        they shared with it, by which nothing can be read, for its update never came. So is one whose
        messages are not what they should be. Raises `FederationStopped` if fewer than ``least`` sites
        are left, if one vanishes after that, or if what they add up is no sum of updates.
        """
        gone: dict[str, str] = {}
        while True:
            self._number += 1
            asked = _Asked(self, self._number, task, size, gone)
            try:
                return asked.sum()
            except _Again:  # with fewer sites each time, until too few are left
                continue


class _Asked:
    """One round."""

    def __init__(
        self,
        coordinator: Coordinator,
        number: int,
        task: Mapping[str, Any],
        size: int,
        gone: dict[str, str],
    ) -> None:
        self._all, self._number, self._task, self._size = coordinator, number, dict(task), size
        self._gone = gone
        self._head = {"federation": coordinator.federation, "round": number}
        self._known: dict[str, _Known] = {}
        self._members = self._agreed = ""

    def sum(self) -> Sum:
        present = {site: self._head for site in self._all.links if site not in self._gone}
        self._known = self._ask("keys", present, self._keys)
        self._check_enough(self._known)
        keys = {site: one.stated["keys"] for site, one in self._known.items()}
        self._members = members_identity(self._all.federation, self._number, keys)
        self._agreed = agreement(self._members, self._task)
        members = {site: one.stated for site, one in self._known.items()}
        seal = {**self._head, "members": members}
        sealed = self._ask("seal", dict.fromkeys(members, seal), self._sealed)
        self._check_enough(sealed)
        if len(sealed) < len(members):
            # Masks of a pair need both, and nothing was sent yet: the next round has new keys.
            raise _Again
        asked = {
            site: {
                **self._head,
                "task": self._task,
                "ciphertexts": {other: sealed[other][site] for other in sealed if other < site},
            }
            for site in sealed
        }
        words = self._ask("update", asked, self._update, self._all.patience_s)
        self._check_enough(words)
        return Sum(values=self._unmasked(words), sites=tuple(sorted(words)), gone=self._gone)

    def _unmasked(self, words: Mapping[str, NDArray[np.uint64]]) -> NDArray[np.float64]:
        left = sorted(words)
        survivors = {**self._head, "survivors": left}

        def signed(site: str, answer: Mapping[str, Any]) -> str:
            statement = survivors_statement(self._agreed, self._number, left)
            return self._signed(site, answer, statement)

        signatures = self._ask("survivors", dict.fromkeys(left, survivors), signed)
        self._check_all(left, signatures)
        vanished = [site for site in self._known if site not in words]

        def seeds(site: str, answer: Mapping[str, Any]) -> _Revealed:
            stated = _part(site, answer, "gone", dict)
            return _Revealed(
                own=_seed(site, answer.get("own")),
                gone={other: _seed(site, stated.get(other)) for other in vanished},
            )

        unmask = {**self._head, "signatures": signatures}
        revealed = self._ask("unmask", dict.fromkeys(left, unmask), seeds)
        self._check_all(left, revealed)
        total = np.zeros(self._size, dtype=np.uint64)
        for site in left:
            total = total + words[site] - mask(revealed[site].own, self._size)
            for other, seed in revealed[site].gone.items():
                total = total - pair_mask(seed, self._size, site, other)
        try:
            return decoded(total)
        except MaskingError as error:
            raise FederationStopped(
                f"round {self._number}: {error}; nobody can tell which of {', '.join(left)}"
            ) from None

    def _ask(
        self,
        phase: str,
        messages: Mapping[str, Mapping[str, Any]],
        check: Callable[[str, Mapping[str, Any]], Any],
        patience_s: float = QUICK_S,
    ) -> dict[str, Any]:
        if phase not in PHASES:
            raise ValueError(f"no phase {phase!r}")
        self._all.on_phase(self._number, phase)
        return self._all.sites.ask(phase, messages, check, self._gone, patience_s)

    def _keys(self, site: str, answer: Mapping[str, Any]) -> _Known:
        """Return keys that are a site's own and of this round."""
        keys = _part(site, answer, "keys", dict)
        stated = {
            "keys": {kind: _part(site, keys, kind, str) for kind in ("x25519", "mlkem768")},
            "certificate": _part(site, answer, "certificate", str),
            "signature": _part(site, answer, "signature", str),
        }
        certificate = self._certificate(site, stated["certificate"])
        statement = keys_statement(self._all.federation, self._number, site, stated["keys"])
        verify(certificate, statement, stated["signature"])
        return _Known(stated=stated, certificate=certificate)

    def _sealed(self, site: str, answer: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """Return a site's secrets for the peers after it: signed, or a peer would refuse, not it."""
        stated = _part(site, answer, "ciphertexts", dict)
        found = {}
        for peer in (other for other in self._known if other > site):
            one = _part(site, stated, peer, dict)
            sealed = _part(site, one, "sealed", str)
            statement = sealed_statement(self._members, site, peer, sealed)
            found[peer] = {"sealed": sealed, "signature": self._signed(site, one, statement)}
        return found

    def _update(self, site: str, answer: Mapping[str, Any]) -> NDArray[np.uint64]:
        """Return a masked update that is a site's own, of this round and of its task."""
        if answer.get("round") != self._number:
            raise MaskingError(
                f"{site} sent masks of round {answer.get('round')!r:.20}; this is round {self._number}"
            )
        sent = _part(site, answer, "masked", str)
        self._signed(site, answer, masked_statement(self._agreed, self._number, site, sent))
        data = bytes_of(sent)
        if len(data) != 8 * self._size:
            raise MaskingError(f"{site} sent {len(data)} bytes; expected {8 * self._size}")
        return np.frombuffer(data, dtype="<u8").astype(np.uint64)

    def _signed(self, site: str, answer: Mapping[str, Any], statement: Mapping[str, Any]) -> str:
        signature: str = _part(site, answer, "signature", str)
        verify(self._known[site].certificate, statement, signature)
        return signature

    def _certificate(self, site: str, pem: str) -> Any:
        from cryptography import x509

        authorities = x509.load_pem_x509_certificates(self._all.links[site].authority.read_bytes())
        return checked_certificate(pem, site, authorities, datetime.now(UTC))

    def _check_enough(self, left: Mapping[str, Any]) -> None:
        links, least = self._all.links, self._all.least
        if len(left) < least or 2 * len(left) <= len(links):
            raise FederationStopped(
                f"round {self._number}: {len(left)} of {len(links)} sites are left, and the rule asks for "
                f"at least {least} and more than half; nothing was unmasked. {_told(self._gone)}. {_CONTINUE}"
            )

    def _check_all(self, wanted: Sequence[str], answered: Mapping[str, Any]) -> None:
        if len(answered) < len(wanted):
            raise FederationStopped(
                f"round {self._number}: a site vanished after it was settled whose updates are added; "
                f"the sum stays masked. {_told(self._gone)}. {_CONTINUE}"
            )


class _Again(Exception):
    """A site vanished before any update was sent."""


def _part(site: str, stated: Mapping[str, Any], name: str, kind: type) -> Any:
    found = stated.get(name)
    if not isinstance(found, kind):
        raise MaskingError(f"{site} sent a message without {name}")
    return found


def _seed(site: str, stated: Any) -> bytes:
    found = bytes_of(stated) if isinstance(stated, str) else b""
    if len(found) != 32:
        raise MaskingError(f"{site} sent a seed that is none")
    return found


def _told(gone: Mapping[str, str]) -> str:
    return "; ".join(f"{site}: {reason}" for site, reason in sorted(gone.items()))
