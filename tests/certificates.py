"""Certificates that an authority signs although no `hpcqc links certificates` would make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, kw_only=True)
class Files:
    certificate: Path
    key: Path


def signed(
    folder: Path,
    stem: str,
    names: Sequence[str],
    *,
    usages: Sequence[x509.ObjectIdentifier] = (CLIENT, SERVER),
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Files:
    """Write a certificate for names, and its key, signed by the authority of a folder."""
    authority = x509.load_pem_x509_certificate((folder / "authority.pem").read_bytes())
    signing = serialization.load_pem_private_key((folder / "authority.key").read_bytes(), None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    own, now = key or ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
        .issuer_name(authority.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), False)
        .add_extension(x509.ExtendedKeyUsage(usages), False)
        .sign(signing, hashes.SHA256())
    )
    found = Files(certificate=folder / f"{stem}.pem", key=folder / f"{stem}.key")
    found.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    found.key.touch(mode=0o600)
    found.key.write_bytes(
        own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return found
