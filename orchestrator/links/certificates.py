"""Certificates of a federation: an authority of its own, and one certificate for each site."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from backends.links import LinkError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["AUTHORITY", "SITE_NAME", "SiteCertificate", "certify", "expiry_of"]

AUTHORITY = "authority"
SITE_NAME = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?"
# Clocks of sites differ by less.
_CLOCKS = timedelta(minutes=5)
_AUTHORITY_DAYS = 3650


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCertificate:
    """The files of one site. until: when its certificate ends."""

    site: str
    certificate: Path
    key: Path
    authority: Path
    until: datetime


def certify(
    folder: Path, sites: Sequence[str], *, days: int, now: datetime
) -> list[SiteCertificate]:
    """Make a certificate and a key for each site, by the authority of a folder, made if need be.

    All keys are ECDSA on P-256, and files of keys have mode 0600. Raises `LinkError`, before anything is
    written, for a name that is none or whose files exist, and for an authority without its key.
    """
    _check_names(sites)
    authority, authority_key = folder / f"{AUTHORITY}.pem", folder / f"{AUTHORITY}.key"
    in_the_way = [path for site in sites for path in _files(folder, site) if path.exists()]
    if in_the_way:
        raise LinkError(
            f"{', '.join(map(str, in_the_way))} exist already, and nothing is overwritten; remove "
            "them to renew a certificate, or name another folder"
        )
    if authority.exists() != authority_key.exists():
        missing = authority_key if authority.exists() else authority
        raise LinkError(
            f"{missing} is missing, so nobody can sign for the authority in {folder}; put it there, "
            "or name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if authority.exists():
        signer, signing = _loaded(authority, authority_key)
    else:
        signer, signing = _new_authority(now)
        _write(authority_key, _key_text(signing))
        _write(authority, _text(signer))
    return [_certified(folder, site, signer, signing, days, now) for site in sites]


def expiry_of(certificate: Path) -> datetime:
    """Return when the first certificate of a file ends. Raises `LinkError`."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise LinkError(f"{certificate} cannot be read as a certificate: {error}") from None


def _check_names(sites: Sequence[str]) -> None:
    if not sites:
        raise LinkError("no site is named; give at least one, such as 'hilltop'")
    for at, site in enumerate(sites):
        if not re.fullmatch(SITE_NAME, site) or site == AUTHORITY:
            raise LinkError(
                f"name of a site {site!r}; give letters, digits, dots and hyphens, at most 63, such as "
                f"'hilltop' ({AUTHORITY!r} is taken)"
            )
        if site in sites[:at]:
            raise LinkError(f"site {site!r} is named twice; name it once")


def _files(folder: Path, site: str) -> tuple[Path, Path]:
    return folder / f"{site}.pem", folder / f"{site}.key"


def _certified(
    folder: Path,
    site: str,
    signer: x509.Certificate,
    signing: ec.EllipticCurvePrivateKey,
    days: int,
    now: datetime,
) -> SiteCertificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + timedelta(days=days), signer.not_valid_after_utc)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = _signed(
        _draft(site, signer.subject, key, now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(site)]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()),
            critical=False,
        ),
        signing,
    )
    path, key_path = _files(folder, site)
    _write(key_path, _key_text(key))
    _write(path, _text(certificate))
    authority = folder / f"{AUTHORITY}.pem"
    return SiteCertificate(
        site=site, certificate=path, key=key_path, authority=authority, until=until
    )


def _new_authority(now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hpcqc federation")])
    draft = _draft("hpcqc federation", name, key, now, now + timedelta(days=_AUTHORITY_DAYS))
    draft = draft.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return _signed(draft.add_extension(_usage(signs=True), critical=True), key), key


def _draft(
    subject: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _signed(
    draft: x509.CertificateBuilder, signing: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return draft.sign(signing, hashes.SHA256())


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _loaded(certificate: Path, key: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise LinkError(f"the authority {certificate} cannot be read: {error}") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or (
        private.public_key() != found.public_key()
    ):
        raise LinkError(f"{key} is not the key of {certificate}; put the right one there")
    return found, private


def _key_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _text(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, text: bytes) -> None:
    """Write a new file, never over another, readable by its owner alone."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise LinkError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
