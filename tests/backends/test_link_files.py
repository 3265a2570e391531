"""Files of a link: whose they must be, and who may write them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("OpenSSL", reason="the links extra is not installed")

from backends.links import Link, LinkError
from backends.links.tls import tls_context
from orchestrator.links.certificates import certify
from tests.errors import naming

NOBODY = 65534


@pytest.fixture
def link(tmp_path: Path) -> Link:
    folder = tmp_path / "shared" / "links"
    folder.parent.mkdir()
    certify(folder, ["one"], days=1, now=datetime.now(UTC))
    return Link(
        name="one",
        certificate=folder / "one.pem",
        key=folder / "one.key",
        authority=folder / "authority.pem",
    )


def test_files_as_they_are_made_are_of_use_and_so_are_links_to_them(link: Link) -> None:
    tls_context(link)
    for path in (link.certificate, link.key, link.authority):
        path.symlink_to(path.rename(f"{path}.real"))
    tls_context(link)
    link.certificate.chmod(0o644)
    tls_context(link)


@pytest.mark.parametrize("role", ["certificate", "key", "authority"])
@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_refused(link: Link, role: str, mode: int) -> None:
    path: Path = getattr(link, role)
    path.chmod(mode)
    with pytest.raises(LinkError, match=naming(str(path), "chmod")):
        tls_context(link)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(link: Link, mode: int) -> None:
    link.key.chmod(mode)
    with pytest.raises(LinkError, match=naming("chmod 600")):
        tls_context(link)


def test_a_folder_in_which_others_can_replace_files_is_refused(link: Link) -> None:
    shared = link.key.parent.parent
    shared.chmod(0o777)
    with pytest.raises(LinkError, match=naming(str(shared), "chmod o-w")):
        tls_context(link)
    shared.chmod(0o1777)  # as /tmp is
    tls_context(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("role", ["certificate", "key", "authority"])
def test_a_file_of_another_user_is_refused(link: Link, role: str) -> None:
    path: Path = getattr(link, role)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(LinkError, match=naming(str(path), NOBODY)):
        tls_context(link)
