"""Finding, reading, overriding and refusing a site's configuration."""

from __future__ import annotations

import os
import pickle
import tempfile
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.profiles import shipped
from backends.simulator import shipped_profiles
from orchestrator.cli.site.config import config_lines
from orchestrator.config.bounds import LeaseBounds, Rate
from orchestrator.config.broker_tables import BrokerLimits, BrokerSettings
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.environment import prefect_is_configured, state_dir
from orchestrator.config.errors import ConfigError
from orchestrator.config.link_tables import LinkTable
from orchestrator.config.loading import BUILT_IN, LAPTOP, load_site, lookup
from orchestrator.config.qpu_tables import QpuSettings, ScheduleSettings, WindowSettings
from orchestrator.config.secrets import SecretRef, resolve_secrets
from orchestrator.config.site import Site
from orchestrator.config.slurm_access import SlurmAccess
from tests.errors import naming

MINIMAL = '[qpu.mine]\nbackend = "aer"\n'


@pytest.fixture
def nowhere(tmp_path):
    """An environment and a folder in which no site file lies."""
    folder = tmp_path / "work"
    folder.mkdir()
    return {"environ": {"HOME": str(tmp_path / "home")}, "folder": folder}


def test_the_built_in_laptop_has_aer_and_every_profile_with_its_clock_stopped(nowhere) -> None:
    site = load_site(**nowhere)
    assert (site.name, site.default_qpu, site.default_compute) == ("laptop", "aer", "local")
    assert site.source == "built-in laptop"
    assert list(site.qpus) == ["aer", *shipped()]
    assert site.qpus["vlq"].options == {"profile": "vlq", "time_scale": 0}
    assert site.compute().workers is None
    assert pickle.loads(pickle.dumps(site)) == site  # it travels to Dask workers


def test_the_profiles_are_those_the_backends_ship() -> None:
    assert shipped_profiles() == shipped()


def test_the_first_file_that_is_named_counts(tmp_path, nowhere) -> None:
    environ, folder = nowhere["environ"], nowhere["folder"]
    user = tmp_path / "home" / ".config" / "hpcqc" / "hpcqc.toml"
    user.parent.mkdir(parents=True)
    here, variable, option = folder / "hpcqc.toml", tmp_path / "v.toml", tmp_path / "o.toml"
    found = [lookup(environ=environ, folder=folder)]
    for path in (user, here, variable, option):
        path.write_text(MINIMAL)
    found.append(lookup(environ=environ | {"HPCQC_SITE": ""}, folder=folder))
    here.unlink()
    found.append(lookup(environ=environ, folder=folder))
    named = environ | {"HPCQC_SITE": str(variable)}
    found.append(lookup(environ=named, folder=folder))
    found.append(lookup(option, environ=named, folder=folder))
    xdg = environ | {"XDG_CONFIG_HOME": str(tmp_path / "empty")}
    found.append(lookup(environ=xdg, folder=folder))
    assert found == [None, here, user, variable, option, None]


def test_a_file_of_another_user_in_the_working_folder_is_used_only_if_it_is_named(nowhere) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: only root can make a file of another user")
    folder, mine = nowhere["folder"], nowhere["folder"] / "mine.toml"
    mine.write_text(MINIMAL)
    here = folder / "hpcqc.toml"
    here.write_text(MINIMAL)
    os.chown(here, 65534, 65534)
    with pytest.raises(ConfigError, match=naming("65534", "--site")):
        lookup(**nowhere)
    assert lookup(here, **nowhere) == here
    here.unlink()
    here.symlink_to(mine)
    os.chown(here, 65534, 65534, follow_symlinks=False)
    with pytest.raises(ConfigError, match="65534"):
        lookup(**nowhere)


def test_a_file_says_everything(tmp_path, nowhere) -> None:
    path = tmp_path / "hpc.toml"
    path.write_text(MINIMAL)
    site = load_site(path, **nowhere)
    assert list(site.qpus) == [site.default_qpu] == ["mine"]
    assert (site.name, site.default_compute, site.source) == ("hpc", "local", str(path))


def test_profile_and_clock_are_options_like_others(tmp_path, nowhere) -> None:
    path = tmp_path / "hpc.toml"
    path.write_text(
        '[qpu.a]\nbackend = "aer"\nprofile = "own/dev.toml"\ntime_scale = 1\n'
        "options = { seed = 3, deep = { list = [1, 2] } }\n"
    )
    (qpu,) = load_site(path, **nowhere).qpus.values()
    assert qpu.options == {
        "seed": 3,
        "deep": {"list": [1, 2]},
        "profile": str(tmp_path / "own/dev.toml"),
        "time_scale": 1,
    }


def test_overrides_change_one_setting_each(tmp_path, nowhere) -> None:
    changes = [
        "qpu.vlq.time_scale=0.5",
        "qpu.vlq.options.note = plain text",
        'qpu.new.backend="fake"',
        "qpu.aer.profile=./my.toml",
        "compute.local.workers=3",
    ]
    site = load_site(overrides=changes, **nowhere)
    assert site.qpus["vlq"].options["time_scale"] == 0.5
    assert site.qpus["vlq"].options["note"] == "plain text"
    assert site.qpus["new"].backend == "fake"
    assert site.qpus["aer"].options["profile"] == str(nowhere["folder"] / "my.toml")
    assert site.compute().workers == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[qpu.a]\nbackand = "aer"', ["[qpu.a] lacks the key 'backend'", "mean 'backend'"]),
        ('[qpu.a]\nbackend = "aer"\nproflie = "vlq"', ["'proflie' in [qpu.a]", "'profile'"]),
        ("[sites]", ["unknown key 'sites' in the file", "mean 'site'"]),
        ("[compute.local]\nworker = 2", ["unknown key 'worker' in [compute.local]", "'workers'"]),
        ('[compute.c]\nkind = "lsf"', ["[compute.c] kind = 'lsf'", "installed are: local"]),
        ("[compute.c]\nworkers = 0", ["[compute.c] workers = 0", "greater than or equal to 1"]),
        ("[compute.c]\nworkers = true", ["workers = true", "valid integer"]),
        ('[compute.c]\nmemory_per_worker = "4 gigs"', ["'4 gigs'", "'4 GiB'"]),
        ('[qpu.a]\nbackend = "aer"\ntime_scale = -1', ["time_scale = -1", "or equal to 0"]),
        ('[qpu.a]\nbackend = "aer"\ntime_scale = nan', ["time_scale", "finite"]),
        ('[qpu.a]\nbackend = "aer"\nprofile="v"\noptions={profile="w"}', ["'profile' twice"]),
        ('[site]\ndefault_qpu = "b"\n' + MINIMAL, ["default_qpu = 'b'", "one of: mine"]),
        (MINIMAL + '[qpu.b]\nbackend = "aer"', ["lacks default_qpu", "mine, b"]),
        ("[site]\nname = 'x'", ["states no QPU", "[qpu.aer]"]),
        ('[qpu."a\\nb"]\nbackend = "aer"', ["invalid name", "1-100 characters"]),
        (f'[qpu.{"q" * 101}]\nbackend = "aer"', ["invalid name", "1-100 characters"]),
        ("site = 1", ["site = 1"]),
        ("[qpu]\na = 1", ["[qpu] a = 1"]),
        ("[qpu.a\n", ["not valid TOML", "line 1, column 7"]),
        ("[qpu.a]\nbackend = aer\n", ["not valid TOML", "line 2, column 11"]),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_remedy(tmp_path, nowhere, text, words) -> None:
    path = tmp_path / "hpcqc.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_site(path, **nowhere)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("override", ["workers", "=1", "a=1", "qpu..x=1", "site.name.deep=1"])
def test_an_override_of_another_form_is_refused(nowhere, override) -> None:
    with pytest.raises(ConfigError, match=naming("--set", override)):
        load_site(overrides=[override], **nowhere)


def test_files_that_cannot_be_read(tmp_path, nowhere) -> None:
    with pytest.raises(ConfigError, match=naming(tmp_path / "none.toml", LAPTOP)):
        load_site(tmp_path / "none.toml", **nowhere)
    environ = nowhere["environ"] | {"HPCQC_SITE": str(tmp_path)}
    with pytest.raises(ConfigError, match=naming("HPCQC_SITE", tmp_path)):
        load_site(environ=environ, folder=tmp_path)
    latin = tmp_path / "l.toml"
    latin.write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_site(latin, **nowhere)


def test_unknown_names_list_those_there_are(nowhere) -> None:
    site = load_site(**nowhere)
    with pytest.raises(ConfigError, match=naming("vql", "aer", "vlq")):
        site.qpu("vql")
    with pytest.raises(ConfigError, match=naming("slurm", "local")):
        site.compute("slurm")


def test_secrets_are_read_late_and_never_shown(tmp_path, nowhere) -> None:
    (tmp_path / "token").write_text("s3cret-file\n")
    path = tmp_path / "hpcqc.toml"
    path.write_text(
        '[qpu.a]\nbackend = "aer"\n[qpu.a.options]\na = { env = "TOKEN" }\n'
        'b = { file = "token" }\nc = [{ env = "TOKEN" }]\nd = { env = "x", file = "y" }\n'
    )
    options = load_site(path, **nowhere).qpu().options
    assert options["b"] == SecretRef(source="file", where=str(tmp_path / "token"))
    assert options["d"] == {"env": "x", "file": "y"}
    resolved = resolve_secrets(options, {"TOKEN": "s3cret-env"})
    assert resolved == {
        "a": "s3cret-env",
        "b": "s3cret-file",
        "c": ["s3cret-env"],
        "d": {"env": "x", "file": "y"},
    }
    assert "s3cret" not in repr(options)


@pytest.mark.parametrize("reference", [SecretRef(source="env", where="NO_SUCH_TOKEN")])
def test_a_secret_that_is_not_there(reference, tmp_path) -> None:
    with pytest.raises(ConfigError, match=naming("NO_SUCH_TOKEN")):
        reference.resolve({})
    missing = SecretRef(source="file", where=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=naming(tmp_path / "none")):
        missing.resolve()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HPCQC_STATE_DIR": "/var/s", "XDG_STATE_HOME": "/xdg"}, "/var/s"),
        ({"XDG_STATE_HOME": "/xdg"}, "/xdg/hpcqc"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/hpcqc"),
        ({"HPCQC_STATE_DIR": "", "HOME": "/h"}, "/h/.local/state/hpcqc"),
    ],
)
def test_where_state_is_kept(environ, expected) -> None:
    assert str(state_dir(environ)) == expected


def test_prefect_is_asked_only_where_files_speak_of_it(tmp_path) -> None:
    environ = {"HOME": str(tmp_path)}
    assert not prefect_is_configured(environ, tmp_path)
    (tmp_path / "pyproject.toml").write_text('dependencies = ["prefect>=3"]')
    assert not prefect_is_configured(environ, tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.prefect]\napi.url = "x"')
    assert prefect_is_configured(environ, tmp_path)
    assert prefect_is_configured({**environ, "PREFECT_PROFILE": "local"}, tmp_path / "none")


names = st.text("abcxyz-_0189", min_size=1, max_size=8)
values = st.one_of(
    st.integers(-(2**40), 2**40),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12),
)


positive = st.floats(1e-6, 1e6)
zones = st.sampled_from([UTC, timezone(timedelta(hours=1)), timezone(-timedelta(minutes=90))])
once = st.builds(
    lambda start, seconds, kind: WindowSettings(
        start=start, end=start + timedelta(seconds=seconds), kind=kind
    ),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=zones),  # noqa: DTZ001
    st.integers(1, 100_000),
    st.sampled_from(["maintenance", "calibration", "quality"]),
)
daily = st.builds(
    WindowSettings,
    title=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=9),
    daily=st.just("23:30-01:15"),
    weekdays=st.sampled_from([[], ["mon", "fri"]]),
    zone=st.sampled_from(["UTC", "Europe/Prague"]),
)
schedules = st.builds(
    ScheduleSettings,
    policy=st.sampled_from(["fifo", "weighted"]),
    parameters=st.dictionaries(names, positive, max_size=2),
    slice_s=st.just(0.0) | positive,
    rate=st.none() | st.builds(Rate, starts=st.integers(1, 1000), per_s=positive),
    lease=st.none() | positive.map(lambda s: LeaseBounds(longest_s=s, idle_s=s / 2)),
    shares=st.dictionaries(names, positive, max_size=2),
    window=st.lists(once | daily, max_size=3),
    calendar=st.none() | st.just(Path("/site/star.ics")),
)


LINK_FILES = {role: Path(f"/links/{role}.pem") for role in ("certificate", "key", "authority")}


@given(st.dictionaries(names, values, max_size=4), st.integers(1, 64) | st.none(), schedules)
def test_what_is_shown_reads_back_as_the_same_site(options, workers, schedule) -> None:
    """`hpcqc config show` prints a file that loads as the current settings."""
    site = Site(
        name='a "site" \\',
        default_qpu="c",
        default_compute="w",
        qpus={
            "a b": QpuSettings(
                name="a b",
                backend="aer",
                options={"profile": "vlq"},
                uncertain="fail",
                longest_task_s=90.0,
                schedule=schedule,
                slurm=SlurmAccess(gres="qpu:1", walltime=timedelta(seconds=90), maintenance=False),
            ),
            "c": QpuSettings(name="c", backend="x", options=options),
        },
        computes={"w": ComputeSettings(name="w", workers=workers)},
        state_dir=state_dir(),
        source="",
        broker=BrokerSettings(
            url="unix:/run/broker.sock",
            token=SecretRef(source="env", where="TOKEN"),
            project="p",
            priority=-5,
            ledger="sqlite:////ledger.sqlite",
            share_results=["p", "q"],
            limits=BrokerLimits(open_jobs_per_user=3, reserve=1_500_000),
        ),
        links={
            "hilltop": LinkTable(address="b.site:8443", peers=[], groups=[], **LINK_FILES),
            "valley": LinkTable(listen="[::1]:0", service="unix:/run/b.sock", **LINK_FILES),
        },
    )
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".toml") as file:
        file.write("\n".join(config_lines(site)))
        file.flush()
        again = load_site(Path(file.name))
    assert again == site.model_copy(update={"source": file.name})


def test_the_built_in_laptop_may_be_asked_for_beside_a_site_file(tmp_path: Path) -> None:
    (tmp_path / "hpcqc.toml").write_text("[qpu.one]\nbackend = 'aer'\n")
    assert load_site(folder=tmp_path, environ={}).default_qpu == "one"
    for site in (
        load_site(LAPTOP, folder=tmp_path, environ={}),
        load_site(folder=tmp_path, environ={"HPCQC_SITE": "built-in"}),
    ):
        assert site.default_qpu == "aer"
        assert site.source == BUILT_IN


LINKED = """
[qpu.q]
backend = "hpcqc"
options = {{ url = "link:hill", qpu = "vlq", token = {{ env = "T" }} }}
[link.hill]
{link}
certificate = "a.pem"
key = "/keys/a.key"
authority = "links/ca.pem"
"""


def test_a_link_s_files_are_beside_its_site_file_and_its_qpus_know_it(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(LINKED.format(link='address = "b.site:8443"'))
    options = load_site(file).qpu().options["link"]
    assert options["certificate"] == str(tmp_path / "a.pem")
    assert options["key"] == "/keys/a.key"
    assert (options["peers"], options["groups"]) == (["hill"], ["X25519MLKEM768"])


@pytest.mark.parametrize(
    ("link", "named"),
    [
        ("", ("address", "listen")),
        ('address = "b:1"\nlisten = "a:1"', ("address", "listen")),
        ('address = "b.site"', ("b.site", "broker.hilltop.example:8443")),
        ('listen = "b.site:8443"', ("hill", "address")),
        ('address = "b:1"\nservice = "a:1"', ("service", "listens")),
    ],
)
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, link: str, named) -> None:
    file = tmp_path / "site.toml"
    file.write_text(LINKED.format(link=link))
    with pytest.raises(ConfigError, match=naming(*named)):
        load_site(file)


def test_a_broker_s_link_must_be_there(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[qpu.q]\nbackend = "aer"\n[broker]\nurl = "link:hil"\n')
    with pytest.raises(ConfigError, match=naming("hil", "none")):
        load_site(file)
