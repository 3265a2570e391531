"""TLS of a link: its settings, and what a peer must be before a byte of it counts."""

from __future__ import annotations

import importlib.util
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from backends.links.link import Link, LinkError, LinkFacts, LinkRefused

if TYPE_CHECKING:
    from cryptography import x509
    from OpenSSL import SSL

__all__ = ["checked_peer", "names_of", "refusal", "require_links", "tls_context"]

# X509_V_ERR_… of OpenSSL that tell an operator what to do.
_VERIFY_WORDS = {
    9: "is not valid yet; compare the clocks",
    10: "has expired; renew it",
    18: "is signed by itself alone",
    19: "comes from an authority that this side does not know",
    20: "comes from an authority that this side does not know",
    21: "comes from an authority that this side does not know",
    26: "is for another purpose than a link",
}
# OpenSSL's words for an alert of the other side, or for its lack of anything in common.
_ALERTS = {
    "certificate required": "it asks for a certificate, and got none",
    "unknown ca": "it does not know the authority of this side's certificate",
    "certificate expired": "it finds this side's certificate expired",
    "bad certificate": "it does not accept this side's certificate",
    "certificate unknown": "it does not accept this side's certificate",
    "unsupported certificate": "this side's certificate is for another purpose",
    "handshake failure": "it shares no key exchange with this side",
    "protocol version": "it does not speak TLS 1.3",
    "unsupported protocol": "it does not speak TLS 1.3",
    "access denied": "it refuses this side",
}


def require_links() -> None:
    """Raise `LinkError` where pyOpenSSL is not installed. Imports nothing."""
    if importlib.util.find_spec("OpenSSL") is None:
        raise LinkError(
            'pyOpenSSL is not installed, and a link needs the extra: pip install "hpcqc[links]"'
        )


def tls_context(link: Link) -> SSL.Context:
    """Return the settings of a link, for either side, with its files read anew. Raises `LinkError`.

    TLS 1.3 alone, a certificate of both sides, no resumption: each connection is checked whole.
    """
    require_links()
    from OpenSSL import SSL

    _check_files(link)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    try:
        context.use_certificate_chain_file(str(link.certificate))
    except SSL.Error as error:
        raise LinkError(
            f"link {link.name!r}: {link.certificate} is not a certificate in PEM ({_words(error)})"
        ) from None
    try:
        context.use_privatekey_file(str(link.key))
        context.check_privatekey()
    except SSL.Error as error:
        raise LinkError(
            f"link {link.name!r}: {link.key} is not the private key of {link.certificate} "
            f"({_words(error)})"
        ) from None
    try:
        context.load_verify_locations(str(link.authority))
    except SSL.Error as error:
        raise LinkError(
            f"link {link.name!r}: {link.authority} holds no certificates in PEM ({_words(error)})"
        ) from None
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    return context


def checked_peer(connection: SSL.Connection, link: Link) -> LinkFacts:
    """Return what a handshake agreed on. Raises `LinkRefused` for another name or key exchange."""
    certificate = connection.get_peer_certificate(as_cryptography=True)
    group = connection.get_group_name() or "none"
    if certificate is None:
        raise LinkRefused(f"link {link.name!r}: the other side sent no certificate")
    names = names_of(certificate)
    if link.groups and group.lower() not in {one.lower() for one in link.groups}:
        raise LinkRefused(
            f"link {link.name!r}: {' or '.join(names) or 'the other side'} agrees on the key exchange "
            f"{group} alone, and this side accepts {', '.join(link.groups)}; update its OpenSSL to 3.5 "
            "or later, or add the group to `groups`"
        )
    accepted = [name for name in names if not link.peers or name in link.peers]
    if not accepted:
        raise LinkRefused(
            f"link {link.name!r}: the certificate is of {' and '.join(names) or 'nobody'}, and "
            f"this side accepts {', '.join(link.peers) or 'named ones'}; correct `peers`, or the address"
        )
    return LinkFacts(
        link=link.name,
        peer=accepted[0],
        group=group,
        protocol=connection.get_protocol_version_name(),
        cipher=connection.get_cipher_name() or "",
        valid_until=certificate.not_valid_after_utc.isoformat(timespec="seconds"),
    )


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the names of sites that a certificate bears: its DNS names, as they are written."""
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return tuple(found.value.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, ValueError):
        return ()


def refusal(connection: SSL.Connection, error: SSL.Error) -> str | None:
    """Return why one side did not accept the other, None for an error of another kind."""
    verified = connection.get_app_data()
    if isinstance(verified, int):
        found = _VERIFY_WORDS.get(verified, f"is not accepted (OpenSSL's error {verified})")
        return f"the other side's certificate {found}"
    words = _words(error)
    for alert, meaning in _ALERTS.items():
        if alert in words:
            return f"{meaning} ({words})"
    if "peer did not return a certificate" in words:
        return "the other side sent no certificate"
    return words if "alert" in words or "no suitable" in words else None


def _verify(
    connection: SSL.Connection, _certificate: object, error: int, _depth: int, ok: int
) -> bool:
    if not ok and connection.get_app_data() is None:
        connection.set_app_data(error)  # the first; OpenSSL's own error does not say which
    return bool(ok)


def _check_files(link: Link) -> None:
    stated = (("certificate", link.certificate), ("key", link.key), ("authority", link.authority))
    for role, path in stated:
        try:
            found = path.stat()
            path.open("rb").close()
        except OSError as error:
            raise LinkError(
                f"link {link.name!r}: {role} = {str(path)!r} cannot be read: {error.strerror}; "
                "'hpcqc links certificates' makes the files of a federation"
            ) from None
        if role == "key" and _is_open_to_others(path, found.st_mode):
            raise LinkError(
                f"link {link.name!r}: other users can read the private key {path}; close it with "
                f"'chmod 600 {path}'"
            )
        _check_replaceable(link, role, path, found)


def _check_replaceable(link: Link, role: str, path: Path, found: os.stat_result) -> None:
    """Refuse a file that another user may replace: by an authority of theirs they would get in."""
    if path.is_char_device():  # a pipe of a shell, or a terminal
        return
    if found.st_uid not in (os.geteuid(), 0):
        raise LinkError(
            f"link {link.name!r}: {role} {path} belongs to user id {found.st_uid}, who can replace it; "
            f"copy it to a file of user id {os.geteuid()}"
        )
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise LinkError(
            f"link {link.name!r}: other users can write the {role} {path}; close it with "
            f"'chmod go-w {path}'"
        )
    for place in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):  # noqa: PTH100
        for folder in place.parents:
            mode = stat.S_IMODE(folder.stat().st_mode)
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise LinkError(
                    f"link {link.name!r}: all users can write the folder {folder} (mode {mode:04o}), "
                    f"and replace the {role} {path}; close it with 'chmod o-w {folder}'"
                )


def _is_open_to_others(path: Path, mode: int) -> bool:
    return bool(stat.S_IMODE(mode) & 0o077) and not path.is_char_device()


def _words(error: SSL.Error) -> str:
    """Return OpenSSL's reasons, without names of its functions."""
    stated = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(str(one[-1]) for one in stated) or type(error).__name__
