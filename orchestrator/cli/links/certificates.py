"""``hpcqc links certificates``: the certificates of a test federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Json, path, whole
from orchestrator.cli.output import print_json, say

if TYPE_CHECKING:
    from orchestrator.links.certificates import SiteCertificate

__all__ = ["certificates"]


def certificates(
    folder: Annotated[
        Path, typer.Argument(parser=path, metavar="FOLDER", help="Where the files go.")
    ],
    sites: Annotated[
        list[str], typer.Argument(metavar="SITE...", help="Names of the sites of the federation.")
    ],
    days: Annotated[
        int, typer.Option(parser=whole(1, 3650), metavar="N", help="Valid so long.")
    ] = 90,
    as_json: Json = False,
) -> None:
    """Make an authority, and a certificate and a private key for each site.

    Each site needs SITE.pem, SITE.key and authority.pem; keep authority.key where no site runs. Run
    it again with other names to add sites: the authority of the folder signs them. Existing files are
    never overwritten; remove SITE.pem and SITE.key to renew them. Keys have mode 0600. They are ECDSA
    keys, which a quantum computer could forge while it attacks a connection, but not afterwards: what
    was recorded stays secret by ML-KEM in the key exchange. Lines for the site files are printed.
    """
    from orchestrator.application.links import make_certificates

    made = make_certificates(folder, sites, days=days)
    if as_json:
        print_json(
            [
                {
                    "site": one.site,
                    "certificate": str(one.certificate),
                    "key": str(one.key),
                    "authority": str(one.authority),
                    "until": one.until.isoformat(timespec="seconds"),
                }
                for one in made
            ]
        )
        return
    for one in made:
        say(f"# {one.site}, until {one.until:%Y-%m-%d}: where others connect to it")
        say(f'[link.{one.site}]\nlisten = "0.0.0.0:8443"\nservice = "127.0.0.1:8765"')
        _say_files(one)
        other = next((site for site in sites if site != one.site), "OTHER")
        say(f"# {one.site}: where it connects to another, such as {other}")
        say(f'[link.{other}]\naddress = "{other}:8443"')
        _say_files(one)


def _say_files(made: SiteCertificate) -> None:
    say(f'certificate = "{made.certificate}"\nkey = "{made.key}"')
    say(f'authority = "{made.authority}"\n')
