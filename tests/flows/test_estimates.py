"""`hpcqc estimate` on ready flows: nothing of others works for it."""

from __future__ import annotations

import pytest

from flows._inputs import InputError
from flows.federated import federated
from orchestrator import runs
from orchestrator.config.site import Site
from orchestrator.runs import Run
from tests.errors import naming


def test_sites_of_others_do_not_work_for_an_estimate(site: Site) -> None:
    runs.activate(Run(id="dry", site=site, dry=True))
    with pytest.raises(InputError, match=naming("sites", "estimate without sites")):
        federated.fn(sites="a,b,c")
