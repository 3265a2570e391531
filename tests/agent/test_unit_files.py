"""The unit files on the systemd page: systemd reads them, and their commands exist."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from orchestrator.cli.app import app
from tests.patience import PATIENCE_S

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "operate-under-systemd.md"
UNITS = dict(re.findall(r"```ini file=(\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL))

SERVICES = ("hpcqc-agent.service", "hpcqc-broker.service")
SOCKETS = ("hpcqc-broker-proxy.socket", "hpcqc-broker.socket")


def test_there_are_services_for_broker_and_agent_and_sockets_for_the_broker():
    assert sorted(UNITS) == sorted((*SERVICES, *SOCKETS))


@pytest.mark.parametrize("name", SERVICES)
def test_its_command_and_options_exist(name):
    program, *words = shlex.split(service_of(name)["ExecStart"])
    assert program.endswith("/bin/hpcqc")
    command = get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    context = command.make_context(command.name, words)
    assert context.params["site"] == Path("/etc/hpcqc/site.toml")


def service_of(name):
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(UNITS[name])
    return unit["Service"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_it_writes_is_closed_to_other_users(name):
    service = service_of(name)
    assert service["UMask"] == "0077"
    assert service["StateDirectoryMode"] == "0700"


def test_flows_and_broker_have_different_users_and_folders():
    broker, agent = service_of("hpcqc-broker.service"), service_of("hpcqc-agent.service")
    assert broker["User"] != agent["User"]
    assert broker["StateDirectory"] != agent["StateDirectory"]


@pytest.mark.parametrize("name", sorted(UNITS))
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_reads_it(name, tmp_path):
    unit = UNITS[name].replace("/opt/hpcqc/bin/hpcqc", sys.executable)
    (tmp_path / name).write_text(unit)
    for other in set(UNITS) - {name}:
        (tmp_path / other).write_text(UNITS[other].replace("/opt/hpcqc/bin/hpcqc", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    about_it = [line for line in done.stderr.splitlines() if line.startswith(str(tmp_path))]
    assert not about_it, done.stderr
    assert "is not executable" not in done.stderr
