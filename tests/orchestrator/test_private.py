"""The parent of a state folder: no other user may replace the folder."""

from __future__ import annotations

import os

import pytest

from orchestrator.config.errors import ConfigError
from orchestrator.config.private import close_to_others
from tests.errors import naming


@pytest.mark.parametrize("depth", ["state", "between/state"])
def test_a_state_folder_whose_place_others_can_take_is_refused(tmp_path, depth) -> None:
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)
    with pytest.raises(ConfigError, match=naming(f"chmod o-w {parent}")):
        close_to_others(parent / depth)
    assert not any(parent.iterdir())
    link = tmp_path / "link"
    link.symlink_to(parent)
    with pytest.raises(ConfigError, match=naming(f"chmod o-w {link}")):
        close_to_others(link / depth)
    parent.chmod(0o1777)  # as /tmp is: only the owner of a folder can move it away
    close_to_others(parent / depth)
    assert (parent / depth).stat().st_mode & 0o777 == 0o700


def test_a_state_folder_of_another_user_is_refused(tmp_path, monkeypatch) -> None:
    folder, link = tmp_path / "state", tmp_path / "link"
    folder.mkdir(mode=0o700)
    link.symlink_to(folder)
    owner, other = os.geteuid(), os.geteuid() + 1
    close_to_others(link)
    monkeypatch.setattr(os, "geteuid", lambda: other)
    if owner == 0:  # whose folders nobody else can replace
        close_to_others(folder)
    else:
        with pytest.raises(ConfigError, match=naming(folder, f"user id {owner}")):
            close_to_others(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_root_uses_neither_a_folder_nor_a_link_of_another_user(tmp_path) -> None:
    folder, link = tmp_path / "state", tmp_path / "link"
    folder.mkdir(mode=0o700)
    link.symlink_to(folder)
    os.chown(link, 12345, 12345, follow_symlinks=False)
    with pytest.raises(ConfigError, match=naming(f"the link {link}", "user id 12345")):
        close_to_others(link)
    close_to_others(folder)
    os.chown(folder, 12345, 12345)
    with pytest.raises(ConfigError, match=naming(folder, "user id 12345")):
        close_to_others(folder)
    assert not any(folder.iterdir())


def test_a_sticky_folder_of_another_user_is_no_place_for_a_state_folder(
    tmp_path, monkeypatch
) -> None:
    planted = tmp_path / "hpcqc-demo"
    planted.mkdir()
    planted.chmod(0o1777)
    owner = 12345 if os.geteuid() == 0 else os.geteuid()
    if os.geteuid() == 0:
        os.chown(planted, owner, owner)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match=naming(planted, f"user id {owner}")):
        close_to_others(planted / "state")
    assert not any(planted.iterdir())
