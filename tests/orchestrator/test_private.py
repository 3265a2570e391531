"""The parent of a state folder: no other user may replace the folder."""

from __future__ import annotations

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
