"""Prefect's page opens from the agent's link, and asks for the password without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from orchestrator.agent.plan import AgentSettings, planned

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Run the agent's Prefect server; return the addresses that the agent would print."""
    settings = AgentSettings(state_dir=tmp_path_factory.mktemp("s"))
    settings.folder.prepare()
    plan = planned(settings)
    child = next(child for child in plan.children if child.name == "prefect")
    process = subprocess.Popen(
        [sys.executable, "-m", child.module, *child.arguments],
        env={**os.environ, **plan.environment, **child.environment},
        pass_fds=tuple(child.sockets),
    )
    assert child.probe.answers(200)
    yield plan.addresses
    process.terminate()
    process.wait(30)
    for listening in plan.sockets:
        listening.socket.close()


def test_the_links_secret_is_not_in_what_the_server_is_asked_for(pages):
    shown, _, secret = pages["prefect_page"].partition("#")
    assert len(secret) > 30
    answer = httpx.get(shown, headers={"Host": "attacker.example"})
    assert answer.status_code == 400
    answer = httpx.get(shown)
    assert answer.status_code == 200
    assert secret not in answer.text
    assert httpx.post(f"{pages['prefect_api']}/flows/filter", json={}).status_code == 401


@pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no browser here: chromium and chromedriver are not both on the PATH",
)
def test_the_page_opens_from_its_link_and_else_asks_for_the_password(pages, tmp_path: Path):
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))

    def shows(text: str) -> None:
        WebDriverWait(driver, 100).until(
            lambda page: text in page.execute_script("return document.body?.innerText ?? ''")
        )

    try:
        driver.get(pages["prefect"] + "/runs")
        shows("Authentication failed")
        driver.get(pages["prefect_page"])
        WebDriverWait(driver, 100).until(lambda page: "/dashboard" in page.current_url)
        shows("Logout")
        assert pages["prefect_page"].partition("#")[2] not in driver.current_url
    finally:
        driver.quit()
