"""The coordinator's part: it asks sites over their links, and adds what it cannot read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from backends.links import Link, LinkError, LinkFacts
from backends.links.streams import BASE_URL, LinkDialer, link_transport
from flows._federated.masking import (
    MaskingError,
    bytes_of,
    checked_certificate,
    decoded,
    mask,
    verify,
)
from flows._federated.member import PHASES, keys_statement, masked_statement, pair_mask
from flows._inputs import InputError

__all__ = ["Coordinator", "FederationStopped", "Sum"]

_QUICK_S = 20.0
_MOST_BYTES = 1 << 20


class FederationStopped(InputError):
    """Fewer sites are left than the rule asks for; nothing of the round was unmasked."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sum:
    """What sites added up. sites: whose updates are in it. gone: who vanished in this round, and why."""

    values: NDArray[np.float64]
    sites: tuple[str, ...]
    gone: Mapping[str, str]


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
    _clients: dict[str, httpx.Client] = field(default_factory=dict)
    _dialers: dict[str, LinkDialer] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _number: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        """Prepare the clients; they connect when they ask."""
        limits = httpx.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=60.0)
        for name, link in self.links.items():
            self._dialers[name] = LinkDialer(link)
            client = httpx.Client(
                base_url=BASE_URL,
                transport=link_transport(self._dialers[name], limits),
                trust_env=False,
            )
            self._clients[name] = self._stack.enter_context(client)
        self._pool = self._stack.enter_context(ThreadPoolExecutor(max(1, len(self.links))))
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._stack.close()

    def facts(self) -> dict[str, LinkFacts]:
        """Return what the links agreed on, by site."""
        found = {name: dialer.facts for name, dialer in self._dialers.items()}
        return {name: facts for name, facts in found.items() if facts is not None}

    def total(self, task: Mapping[str, Any]) -> Sum:
        """Return the sum of what sites make of a task, in a round of its own.

        A site that vanishes before it has sent its update is left out: the others reveal the masks that
        they shared with it, by which nothing can be read, for its update never came. Raises
        `FederationStopped` if fewer than ``least`` sites are left, or one vanishes after that.
        """
        gone: dict[str, str] = {}
        while True:
            self._number += 1
            try:
                return self._round(self._number, task, gone)
            except _Again:  # with fewer sites each time, until too few are left
                continue

    def _round(self, number: int, task: Mapping[str, Any], gone: dict[str, str]) -> Sum:
        head = {"federation": self.federation, "round": number}
        present = {site: head for site in self.links if site not in gone}
        keys = self._ask(number, "keys", present, gone, _QUICK_S)
        keys = {site: one for site, one in keys.items() if self._knows(number, site, one, gone)}
        self._check_enough(number, keys, gone)
        members = {
            site: {part: one[part] for part in ("keys", "certificate", "signature")}
            for site, one in keys.items()
        }
        seal = {**head, "members": members}
        sealed = self._ask(number, "seal", dict.fromkeys(keys, seal), gone, _QUICK_S)
        self._check_enough(number, sealed, gone)
        if len(sealed) < len(keys):
            # Masks of a pair need both, and nothing was sent yet: the next round has new keys.
            raise _Again
        asked = {
            site: {
                **head,
                "task": dict(task),
                "ciphertexts": {
                    other: sealed[other]["ciphertexts"].get(site)
                    for other in sealed
                    if other < site
                },
            }
            for site in sealed
        }
        updates = self._ask(number, "update", asked, gone, self.patience_s)
        words = {
            site: found
            for site, one in updates.items()
            if (found := self._checked(number, site, one, keys[site], gone)) is not None
        }
        self._check_enough(number, words, gone)
        values = self._unmasked(number, words, sorted(keys), gone)
        return Sum(values=values, sites=tuple(sorted(words)), gone=gone)

    def _unmasked(
        self,
        number: int,
        words: Mapping[str, NDArray[np.uint64]],
        members: Sequence[str],
        gone: dict[str, str],
    ) -> NDArray[np.float64]:
        head = {"federation": self.federation, "round": number}
        left = sorted(words)
        survivors = {site: {**head, "survivors": left} for site in left}
        signed = self._ask(number, "survivors", survivors, gone, _QUICK_S)
        self._check_all(number, left, signed, gone)
        signatures = {site: one.get("signature") for site, one in signed.items()}
        asked = {site: {**head, "signatures": signatures} for site in left}
        revealed = self._ask(number, "unmask", asked, gone, _QUICK_S)
        self._check_all(number, left, revealed, gone)
        sizes = {found.size for found in words.values()}
        if len(sizes) != 1:
            raise MaskingError(f"round {number}: updates of different lengths, {sorted(sizes)}")
        (size,) = sizes
        total = np.zeros(size, dtype=np.uint64)
        for site in left:
            total = total + words[site] - mask(bytes_of(str(revealed[site].get("own"))), size)
            for other in members:
                if other not in words:
                    seed = bytes_of(str(revealed[site].get("gone", {}).get(other)))
                    total = total - pair_mask(seed, size, site, other)
        return decoded(total)

    def _ask(
        self,
        number: int,
        phase: str,
        messages: Mapping[str, Mapping[str, Any]],
        gone: dict[str, str],
        patience_s: float,
    ) -> dict[str, dict[str, Any]]:
        """Ask sites at the same time; return who answered, and note why others did not."""
        if phase not in PHASES:
            raise ValueError(f"no phase {phase!r}")
        self.on_phase(number, phase)

        def ask(site: str) -> dict[str, Any] | None:
            try:
                return self._asked(site, phase, messages[site], patience_s)
            except (httpx.RequestError, LinkError, MaskingError) as error:
                with self._lock:
                    gone[site] = " ".join(str(error).split())[:300] or type(error).__name__
                return None

        found = dict(zip(messages, self._pool.map(ask, messages), strict=True))
        return {site: answer for site, answer in found.items() if answer is not None}

    def _asked(
        self, site: str, phase: str, message: Mapping[str, Any], patience_s: float
    ) -> dict[str, Any]:
        timeout = httpx.Timeout(patience_s, connect=min(patience_s, _QUICK_S))
        client = self._clients[site]
        with client.stream("POST", f"/{phase}", json=dict(message), timeout=timeout) as answer:
            content = bytearray()
            for piece in answer.iter_raw():
                content += piece
                if len(content) > _MOST_BYTES:
                    raise MaskingError(f"{site} answers with more than {_MOST_BYTES} bytes")
        try:
            found = httpx.Response(200, content=bytes(content)).json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise MaskingError(f"{site} answers {phase} with what is no JSON object")
        if answer.status_code != 200:
            raise MaskingError(f"{site} refuses: {found.get('detail', answer.status_code)}")
        return found

    def _knows(
        self, number: int, site: str, stated: Mapping[str, Any], gone: dict[str, str]
    ) -> bool:
        """Whether keys are a site's own and of this round."""
        try:
            certificate = self._certificate(site, stated)
            statement = keys_statement(self.federation, number, site, stated.get("keys") or {})
            verify(certificate, statement, str(stated.get("signature")))
        except MaskingError as error:
            gone[site] = str(error)
            return False
        return True

    def _checked(
        self,
        number: int,
        site: str,
        stated: Mapping[str, Any],
        keys: Mapping[str, Any],
        gone: dict[str, str],
    ) -> NDArray[np.uint64] | None:
        """Return a masked update, None if it is not the site's own of this round."""
        try:
            if stated.get("round") != number:
                raise MaskingError(
                    f"{site} sent masks of round {stated.get('round')!r:.20}; this is round {number}"
                )
            sent = str(stated.get("masked"))
            statement = masked_statement(self.federation, number, site, sent)
            verify(self._certificate(site, keys), statement, str(stated.get("signature")))
            data = bytes_of(sent)
            if not data or len(data) % 8:
                raise MaskingError(f"{site} sent {len(data)} bytes; expected words of 8")
            return np.frombuffer(data, dtype="<u8").astype(np.uint64)
        except MaskingError as error:
            gone[site] = str(error)
            return None

    def _certificate(self, site: str, stated: Mapping[str, Any]) -> Any:
        from cryptography import x509

        authority = x509.load_pem_x509_certificate(self.links[site].authority.read_bytes())
        pem = str(stated.get("certificate"))
        return checked_certificate(pem, site, authority, datetime.now(UTC))

    def _check_enough(self, number: int, left: Mapping[str, Any], gone: Mapping[str, str]) -> None:
        if len(left) < self.least or 2 * len(left) <= len(self.links):
            raise FederationStopped(
                f"round {number}: {len(left)} of {len(self.links)} sites are left, and the rule asks for "
                f"at least {self.least} and more than half; nothing was unmasked. {_told(gone)}"
            )

    def _check_all(
        self,
        number: int,
        wanted: Sequence[str],
        answered: Mapping[str, Any],
        gone: Mapping[str, str],
    ) -> None:
        if len(answered) < len(wanted):
            raise FederationStopped(
                f"round {number}: a site vanished after it was settled whose updates are added; the sum "
                f"stays masked. {_told(gone)}"
            )


class _Again(Exception):
    """A site vanished before any update was sent."""


def _told(gone: Mapping[str, str]) -> str:
    return "; ".join(f"{site}: {reason}" for site, reason in sorted(gone.items()))
