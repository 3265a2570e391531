"""A QPU behind a small server with a token, and the type of QRMI's resources that it is."""

import urllib.error
import urllib.request

from backends.api import QpuUnavailable
from backends.plugins import PluginUnusable
from backends.qrmi_types import QrmiType
from backends.registry import create as create_backend

LAB_SERVER = QrmiType(
    backend="lab-wire",
    options={"QRMI_LAB_ENDPOINT": "url"},
    secrets={"QRMI_LAB_TOKEN": "token"},
    resource="machine",
    resource_name=lambda name: name.replace("_", ":"),
)


def create(options, *, state_dir):
    """Return a backend whose target the server tells; this process simulates its tasks."""
    if set(options) != {"url", "token", "machine"}:
        raise PluginUnusable(f"lab-wire takes url, token and machine, not {sorted(options)}")
    asked = urllib.request.Request(
        f"{options['url']}/{options['machine']}",
        headers={"Authorization": f"Bearer {options['token']}"},
    )
    inner = create_backend("aer", {"processes": 1}, state_dir=state_dir)

    class Lab:
        def __getattr__(self, name):
            return getattr(inner, name)

        def target(self):
            try:
                with urllib.request.urlopen(asked, timeout=5) as answer:
                    answer.read()
            except (urllib.error.URLError, OSError) as error:
                raise QpuUnavailable(
                    f"{asked.full_url} does not answer: {getattr(error, 'reason', error)}"
                ) from None
            return inner.target()

    return Lab()
