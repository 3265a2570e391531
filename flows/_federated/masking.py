"""Sums of vectors of which nobody sees one: pairwise masks from hybrid keys, in whole numbers."""

from __future__ import annotations

import hashlib
import json
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.links.tls import names_of

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = [
    "MaskingError",
    "RoundKeys",
    "bytes_of",
    "canonical",
    "checked_certificate",
    "decoded",
    "digest",
    "encoded",
    "identity_of",
    "mask",
    "new_seed",
    "signature",
    "text_of",
    "verify",
]

_Words = NDArray[np.uint64]

# Fractions are kept to 2⁻²⁴. A sum of updates stays below 2²⁴, and a word with a mask in it does so with
# probability 2⁻¹⁵, the two words of the smallest sum with 2⁻³⁰.
_SCALE = float(1 << 24)
_LARGEST = float(1 << 24)
_BOUND = _LARGEST / 64  # of one site


class MaskingError(ValueError):
    """What a site or the coordinator sent does not belong to this round, or is not of who it says."""


class RoundKeys:
    """The keys of one site for one round: X25519, and ML-KEM-768 by which a peer adds a secret."""

    def __init__(self) -> None:
        """Make new keys, which are used in one round alone."""
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        self._x25519 = X25519PrivateKey.generate()
        self._mlkem = MLKEM768PrivateKey.generate()

    def public(self) -> dict[str, str]:
        """Return the public halves."""
        return {
            "x25519": text_of(self._x25519.public_key().public_bytes_raw()),
            "mlkem768": text_of(self._mlkem.public_key().public_bytes_raw()),
        }

    def seal(self, peer: Mapping[str, str]) -> tuple[bytes, str]:
        """Return a secret for a peer, and the ciphertext from which the peer gets it."""
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

        try:
            key = MLKEM768PublicKey.from_public_bytes(bytes_of(peer["mlkem768"]))
        except (KeyError, ValueError):
            raise MaskingError("a peer's ML-KEM key is none") from None
        secret, ciphertext = key.encapsulate()
        return secret, text_of(ciphertext)

    def opened(self, ciphertext: str) -> bytes:
        """Return the secret that a peer sealed."""
        try:
            return bytes(self._mlkem.decapsulate(bytes_of(ciphertext)))
        except ValueError:
            raise MaskingError("a sealed secret is none") from None

    def pair_seed(self, peer: Mapping[str, str], sealed: bytes, context: bytes) -> bytes:
        """Return the seed that this site and a peer share: of both kinds of key, and of the context."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        try:
            other = X25519PublicKey.from_public_bytes(bytes_of(peer["x25519"]))
            exchanged = self._x25519.exchange(other)
        except (KeyError, ValueError):
            raise MaskingError("a peer's X25519 key is none") from None
        return HKDF(SHA256(), 32, None, context).derive(exchanged + sealed)


def new_seed() -> bytes:
    """Return a seed that nobody can guess."""
    return secrets.token_bytes(32)


def mask(seed: bytes, size: int) -> _Words:
    """Return ``size`` words that look random to whoever lacks the seed: AES-256 in counter mode."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if len(seed) != 32:
        raise MaskingError("a seed has 32 bytes")
    # Each seed serves one mask, so the counter may begin at 0.
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(8 * size)), dtype="<u8").astype(np.uint64)


def encoded(values: NDArray[np.float64]) -> _Words:
    """Return numbers as words whose sums wrap around; those that are too large are bounded.

    To refuse them would tell about one site's update, which its masks hide.
    """
    finite = np.nan_to_num(values, nan=0.0, posinf=_BOUND, neginf=-_BOUND)
    return np.rint(np.clip(finite, -_BOUND, _BOUND) * _SCALE).astype(np.int64).astype(np.uint64)


def decoded(words: _Words) -> NDArray[np.float64]:
    """Return a sum as numbers. Raises `MaskingError` where a mask is left in it."""
    signed = words.astype(np.int64).astype(np.float64) / _SCALE
    if np.any(np.abs(signed) >= _LARGEST):
        raise MaskingError(
            "the sum is no sum of updates: the masks of some site belong to another round"
        )
    return signed


def canonical(value: Any) -> bytes:
    """Return JSON types as bytes, the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def signature(key: ec.EllipticCurvePrivateKey, statement: Mapping[str, Any]) -> str:
    """Sign a statement with a site's key."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    return text_of(key.sign(canonical(statement), ec.ECDSA(SHA256())))


def verify(certificate: x509.Certificate, statement: Mapping[str, Any], signed: str) -> None:
    """Raise `MaskingError` unless the holder of a certificate signed a statement."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    key = certificate.public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(bytes_of(signed), canonical(statement), ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise MaskingError(
            f"round {statement.get('round')!r:.20}: not signed by the site that it is said to be of"
        ) from None


def checked_certificate(
    pem: str, site: str, authorities: Iterable[x509.Certificate], now: datetime
) -> x509.Certificate:
    """Return a site's certificate. Raises `MaskingError` unless an authority made it for this name."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        found = None
    if found is None or not any(_issued(found, one) for one in authorities):
        raise MaskingError(f"the certificate of {site!r:.80} is not of this federation") from None
    if site not in names_of(found):
        raise MaskingError(f"a certificate that is sent for {site!r:.80} is of another site")
    if not found.not_valid_before_utc <= now <= found.not_valid_after_utc:
        raise MaskingError(f"the certificate of {site!r:.80} is not valid now")
    return found


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def identity_of(certificate: x509.Certificate) -> bytes:
    """Return what is the same for certificates of one key, whoever they name."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def text_of(data: bytes) -> str:
    """Return bytes as text."""
    return b64encode(data).decode()


def bytes_of(text: str) -> bytes:
    """Return the bytes of a text. Raises `MaskingError`."""
    try:
        return b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise MaskingError("a text that should be base64 is not") from None


def digest(value: Any) -> str:
    """Return the identity of a message."""
    return hashlib.sha256(canonical(value)).hexdigest()
