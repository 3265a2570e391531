"""The status page in a real browser: what it shows, to whom, and that it asks nobody else.

With STATUS_PAGE_IMAGES=FOLDER the pictures of the documentation are written there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.broker.client.http import RemoteBroker
from orchestrator.broker.core.job_request import JobRequest
from tests.patience import until
from tests.service.calls import bell
from tests.service.conftest import Service, Start
from tests.service.recorded_day import write_history

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
IMAGES = "STATUS_PAGE_IMAGES"
HOSTILE = "<img src=x onerror=document.title='hit'>"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1100,1500",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no browser here: chromium and chromedriver are not both on the PATH",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A service with work in it. tokens, clients, running and queued jobs: by user."""

    service: Service
    tokens: dict[str, str]
    clients: dict[str, RemoteBroker]
    running: dict[str, str]
    queued: dict[str, str]


@pytest.fixture
def site(start_service: Start, tmp_path: Path) -> Iterator[Site]:
    """Yield a site: a day of history, two projects, running and queued work, a drained and a closed QPU."""
    (tmp_path / "service").mkdir()
    write_history(tmp_path / "service" / "ledger.sqlite")
    now = datetime.now(UTC).replace(microsecond=0)
    start, end = (now + timedelta(hours=hours) for hours in (-1, 5))
    closed = f"title = 'new cables'\nstart = {start.isoformat()}\nend = {end.isoformat()}"
    service = start_service(
        options="run_s = 900.0, coalesces = false, max_concurrent_tasks = 2",
        rules=f"longest_task_s = 1e6\n[[qpu.aer.schedule.window]]\n{closed}",
    )
    people = {"alice": "chemistry", "bob": "optimization"}
    tokens = {
        user: service.tokens.add(user, "user", [project], now=datetime.now(UTC))[1]
        for user, project in people.items()
    }
    tokens["olga"] = service.tokens.add("olga", "operator", ["site"], now=datetime.now(UTC))[1]
    drain = httpx.post(
        f"{service.url}/v1/qpus/vlq/drain",
        json={"reason": "calibration until 14:00"},
        headers={"Authorization": f"Bearer {tokens['olga']}"},
    )
    assert drain.status_code == 200
    with ExitStack() as open_clients:
        clients = {
            user: RemoteBroker(service.url, token=tokens[user], project=project).open()
            for user, project in people.items()
        }
        for client in clients.values():
            open_clients.callback(client.close)
        running = {user: submit(clients[user], f"{user}-scan", 0) for user in people}
        until(lambda: len(service.starts()) == 2)
        queued = {user: submit(clients[user], f"{user}-scan", 1) for user in people}
        for occurrence in (2, 3):
            submit(clients["alice"], "alice-angles", occurrence)
        yield Site(service=service, tokens=tokens, clients=clients, running=running, queued=queued)


def submit(client: RemoteBroker, run: str, occurrence: int, stage: str = "ground_state-0") -> str:
    call = JobRequest(run=run, stage=stage, call=occurrence, qpu="fake")
    return str(client.submit(call, bell(2000)))


class Page:
    """The page in a browser of its own."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self, fragment: str = "", scheme: str = "light") -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.get("about:blank")  # a fragment alone would load nothing
        self.driver.get(f"{self.url}/{fragment}")

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def wait(self, condition: Callable[[], Any]) -> None:
        until(condition)

    def ready(self) -> None:
        self.wait(lambda: self.one("#overview").is_displayed() and self.all("#gantt svg"))

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def asked(self) -> list[str]:
        """Return every address that this load of the page fetched anything from."""
        found = self.run("return performance.getEntriesByType('resource').map(e => e.name)")
        return [str(name) for name in found]

    def complaints(self) -> list[str]:
        """Return what the console holds; a 401 that the page answers with a form is none."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if "401 (Unauthorized)" not in entry["message"]
        ]

    def save(self, path: Path) -> None:
        height = self.run("return document.documentElement.scrollHeight")
        self.driver.set_window_size(1100, height + 150)
        self.driver.save_screenshot(str(path))


@pytest.fixture
def page(site: Site, tmp_path: Path) -> Iterator[Page]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield Page(driver, site.service.url)
    finally:
        driver.quit()


def test_an_operator_sees_all_that_goes_on(site: Site, page: Page, tmp_path: Path) -> None:
    folder = Path(os.environ.get(IMAGES, tmp_path))
    papers = set()
    for scheme in ("light", "dark"):
        page.open(f"#token={site.tokens['olga']}", scheme)
        page.ready()
        assert site.tokens["olga"] not in page.driver.current_url
        page.wait(lambda: len(page.all("#queue tbody tr")) == 4)
        assert page.text("#health").startswith("Working · 4 jobs wait")
        qpus = [row.text for row in page.all("#qpus tbody tr")]
        assert qpus[0].startswith("fake online 4 2")
        assert qpus[1].startswith("aer closed until 20")
        assert qpus[1].endswith("maintenance (new cables)")
        assert "drained" in qpus[2]
        assert "calibration until 14:00" in qpus[2]
        running = page.text("#running tbody")
        for user, project in (("alice", "chemistry"), ("bob", "optimization")):
            assert f"{site.running[user][:11]} fake {project} {user} {user}-scan" in running
            assert site.queued[user][:11] in page.text("#queue tbody")
            assert project in page.text("#projects tbody")
        assert page.text("#legend").split("\n")[:2] == ["chemistry", "optimization"]
        assert len(page.all("#gantt a rect.p0, #gantt a rect.p1")) > 50
        assert not page.all("#gantt .grey")
        papers.add(page.run("return getComputedStyle(document.body).backgroundColor"))
        page.save(folder / f"broker-status-{scheme}.png")
        assert all(name.startswith((page.url, "data:")) for name in page.asked())
    assert len(papers) == 2
    assert page.complaints() == []


def test_what_users_write_is_text(site: Site, page: Page) -> None:
    submit(site.clients["alice"], "alice-hostile", 9, HOSTILE)  # a run's name holds no such signs
    page.open(f"#token={site.tokens['alice']}")
    page.ready()
    page.all("#queue tbody a")[-1].click()
    page.wait(lambda: HOSTILE in page.text("#job-facts"))
    assert page.driver.title == "hpcqc broker"
    assert page.complaints() == []


def test_a_user_sees_others_only_as_grey_tasks(site: Site, page: Page) -> None:
    page.open(f"#token={site.tokens['alice']}")
    page.ready()
    page.wait(lambda: page.all("#running tbody tr.other"))
    assert len(page.all("#running tbody tr")) == 2
    assert page.text("#running tr.other").startswith("another project’s fake")
    assert page.all("#gantt rect.grey")
    assert not page.all("#gantt a .grey")
    assert "other projects" in page.text("#legend")
    assert page.text("#queue-rest") == "1 more in the queue, not shown."
    source = page.run("return document.documentElement.outerHTML")
    for secret in ("bob", "optimization", site.running["bob"][:11], site.queued["bob"][:11]):
        assert secret not in source
    page.open(f"#job={site.running['bob']}")
    page.wait(lambda: "no job" in page.text("#job-problem"))


def test_a_stranger_is_asked_for_a_token_that_stays_in_the_tab(site: Site, page: Page) -> None:
    page.open()
    page.wait(lambda: page.one("#sign-in").is_displayed())
    assert page.run("return document.activeElement.id") == "token"
    page.one("#token").send_keys("hpcqc_wrong\n")
    page.wait(lambda: "Not accepted" in page.text("#refusal"))
    page.one("#token").send_keys(site.tokens["alice"] + "\n")
    page.ready()
    assert page.text("#who").startswith("alice, user · chemistry")
    assert page.run("return localStorage.length + document.cookie.length") == 0
    page.open()
    page.ready()
    page.one("#forget").click()
    page.wait(lambda: page.one("#sign-in").is_displayed())
    assert page.run("return sessionStorage.length") == 0
    assert page.complaints() == []


def test_budgets_are_shown_to_whose_they_are_and_to_operators(site: Site, page: Page) -> None:
    for project, limit in (("chemistry", 1e6), ("optimization", 2e6)):
        answer = httpx.post(
            f"{site.service.url}/v1/budgets/projects",
            json={"project": project, "unit": "credits", "amount": limit},
            headers={"Authorization": f"Bearer {site.tokens['olga']}"},
        )
        assert answer.status_code == 200
    budgets = {one["unit"]: one for one in answer.json()["budgets"]}
    spent, left = (f"{budgets['credits'][key]:,.3f}".rstrip("0") for key in ("spent", "left"))
    page.open(f"#token={site.tokens['olga']}")
    page.ready()
    rows = [row.text for row in page.all("#budgets tbody tr")]
    assert f"optimization credits 2,000,000 {spent} 0 {left}" in rows
    assert any(row.startswith("chemistry credits 1,000,000 ") for row in rows)
    page.open(f"#token={site.tokens['alice']}")
    page.ready()
    rows = [row.text for row in page.all("#budgets tbody tr")]
    assert rows
    assert all(row.startswith("chemistry ") for row in rows)
    unlimited = [row for row in rows if not row.startswith("chemistry credits")]
    assert all(" none " in row for row in unlimited)
    assert page.complaints() == []


def test_a_job_that_waits_says_why_and_until_when(site: Site, page: Page) -> None:
    page.open(f"#token={site.tokens['alice']}")
    page.ready()
    page.open(f"#job={site.queued['alice']}")
    page.wait(lambda: "Waits for" in page.text("#job-facts"))
    told = page.text("#job-facts")
    assert "the QPU is busy with 2 tasks" in told
    assert "Probably starts" in told
    page.open(f"#job={site.running['alice']}")
    page.wait(lambda: site.running["alice"] in page.text("#job-title"))
    page.wait(lambda: "nobody else waited" in page.text("#tasks"))


def test_a_job_has_a_page_of_its_own_and_pages_stay_as_they_are_while_refreshed(
    site: Site, page: Page
) -> None:
    page.open(f"#token={site.tokens['alice']}")
    page.ready()
    page.run("window.kept = document.querySelector('#queue tbody tr')")
    asked = len(page.asked())
    page.wait(lambda: len(page.asked()) > asked + 10)
    assert page.run("return window.kept === document.querySelector('#queue tbody tr')")
    page.one("#running tbody a").click()
    page.wait(lambda: page.text("#job-title") == f"Job {site.running['alice']}")
    facts = page.text("#job-facts")
    assert "running" in facts
    assert "chemistry" in facts
    assert "2000 shots" in facts
    assert f"{site.running['alice']}.0 running" in page.text("#tasks tbody")
    page.driver.back()
    page.ready()
    page.one("#spans input[value='1']").click()
    page.wait(lambda: "last hour" in str(page.one("#gantt svg").get_attribute("aria-label")))
    assert page.complaints() == []


def test_the_page_fits_a_phone(site: Site, page: Page) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.open(f"#token={site.tokens['olga']}")
    page.ready()
    assert page.run("return document.documentElement.scrollWidth") <= 390
    if IMAGES in os.environ:
        page.driver.save_screenshot(str(Path(os.environ[IMAGES]) / "phone.png"))


def test_a_hidden_page_asks_nothing(site: Site, page: Page) -> None:
    page.open(f"#token={site.tokens['olga']}")
    page.ready()
    page.driver.switch_to.new_window("tab")
    page.driver.switch_to.window(page.driver.window_handles[0])
    page.run(
        "Object.defineProperty(document, 'hidden', {get: () => window.away, configurable: true});"
        "window.away = true; document.dispatchEvent(new Event('visibilitychange'))"
    )
    asked = len(page.asked())
    page.driver.execute_async_script("setTimeout(arguments[0], 3000)")
    assert len(page.asked()) == asked
    page.run("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait(lambda: len(page.asked()) > asked)


def test_the_description_of_the_api_is_shown_without_a_network(site: Site, page: Page) -> None:
    page.driver.get(f"{site.service.url}/docs")
    page.wait(lambda: page.all(".opblock"))
    assert page.complaints() == []


def test_pages_carry_a_strict_policy(site: Site) -> None:
    for path in ("/", "/docs"):
        headers = httpx.get(f"{site.service.url}{path}").headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';")
        assert "script-src" not in policy
        assert headers["Referrer-Policy"] == "no-referrer"
