"""One story for each role, in a real browser against a real server, on usage that came through the
real SDK.
"""

import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import People, RunningSandbox
from usage.books import verify_books
from usage.langfuse.tracer import LangfuseTracer
from usage.langfuse.tracing_client import TracingClient
from usage.models import LangfuseConnection
from usage.sync.runner import sync_connection

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no Chromium: install the packages chromium and chromium-driver",
    ),
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
]
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --disable-dev-shm-usage --window-size=1360,1400"
)


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ARGUMENTS.split():
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def _no_day_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stories begin at the next noon: what ran two minutes ago ran today, in the zone of every
    tenant, and it stays the same day to the last click. Not at one that is over: what is entered
    now, by columns' own defaults, was then not known.
    """
    real = timezone.now
    until_noon = real().replace(hour=12, minute=0, second=0) - real()
    if until_noon < timedelta(0):
        until_noon += timedelta(days=1)
    monkeypatch.setattr(timezone, "now", lambda: real() + until_noon)


@pytest.fixture
def site(live_server: Any, people: People, tracing: TracingClient, sandbox: RunningSandbox) -> str:
    """The server, after one run of Ann and two of Gus came through tracer, sandbox and sync."""
    connection = LangfuseConnection(name="test", host=sandbox.url, public_key=tracing.public_key)
    connection.secret_key = sandbox.sandbox.secret_key
    connection.save()
    start = timezone.now() - timedelta(minutes=2)
    for number, user in enumerate((people.acme_user, people.globex_user, people.globex_user)):
        tracer = LangfuseTracer(
            "flow",
            "chain",
            "Kanvas",
            f"run {number}",
            user_id=str(user.pk),
            kluisz_flow_id=str(people.flow.pk),
            start_time=start,
            client=tracing,
        )
        tracer.add_generation(
            "Model",
            "gpt-4o",
            {"input": 20_000, "output": 1_000},
            start_time=start,
            end_time=start + timedelta(seconds=2),
        )
        tracer.end(end_time=start + timedelta(seconds=2))
    tracing.flush()
    result = sync_connection(connection)
    assert (result.error, result.traces_changed) == ("", 3)
    assert verify_books() == []
    return str(live_server.url)


def log_in(browser: webdriver.Chrome, site: str, username: str) -> None:
    browser.get(site)
    browser.find_element(By.NAME, "username").send_keys(username)
    browser.find_element(By.NAME, "password").send_keys("right")
    follow(browser, By.CSS_SELECTOR, "button.kz-primary")


def follow(browser: webdriver.Chrome, by: str, value: str) -> None:
    """Click what leads to another page, and wait for that."""
    page = browser.find_element(By.TAG_NAME, "html")
    browser.find_element(by, value).click()
    # While the page is being exchanged, Chromium's driver may say so by an error of its own.
    WebDriverWait(browser, 10, ignored_exceptions=[WebDriverException]).until(staleness_of(page))


def text(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "body").text


def card(browser: webdriver.Chrome, title: str) -> str:
    """The figure of a summary card."""
    found = browser.find_element(By.XPATH, f"//div[@class='kz-card'][h3='{title}']/p")
    return found.text


def drawn_charts(browser: webdriver.Chrome) -> int:
    WebDriverWait(browser, 10).until(
        lambda one: one.find_elements(By.CSS_SELECTOR, ".kz-chart .main-svg")
    )
    return len(browser.find_elements(By.CSS_SELECTOR, ".kz-chart .plot-container"))


def errors(browser: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_platform_admin_sees_everything_and_goes_down_to_a_user(
    browser: webdriver.Chrome, site: str, people: People
) -> None:
    log_in(browser, site, "root")
    assert browser.current_url == f"{site}/platform/"
    assert (
        card(browser, "Runs"),
        card(browser, "Provider cost"),
        card(browser, "Active users"),
    ) == ("3", "$0.18", "2")
    assert drawn_charts(browser) == 2
    follow(browser, By.LINK_TEXT, "Globex")
    assert (card(browser, "Runs"), card(browser, "Credits used")) == ("2", "22.80")
    follow(browser, By.LINK_TEXT, "gus")
    assert card(browser, "Runs") == "2"
    assert "Professional" in text(browser)
    follow(browser, By.LINK_TEXT, "Admin")
    assert card(browser, "Runs") == "3"
    assert drawn_charts(browser) == 2
    follow(browser, By.CSS_SELECTOR, "a[href='/admin/usage/trace/']")
    assert re.search(r"\b3 traces\b", text(browser))
    assert errors(browser) == []


def test_a_name_is_found_by_the_keyboard_and_kept_on_the_way_to_what_grew_and_to_a_run(
    browser: webdriver.Chrome, site: str, people: People
) -> None:
    log_in(browser, site, "root")
    found = browser.find_element(By.CSS_SELECTOR, "input[role=combobox]")
    WebDriverWait(browser, 10).until(
        lambda one: found.click() or "Acme" in one.find_element(By.ID, "kz-found").text
    )
    page = browser.find_element(By.TAG_NAME, "html")
    found.send_keys("glo", Keys.ENTER)  # At once: the list is of another text still.
    WebDriverWait(browser, 10, ignored_exceptions=[WebDriverException]).until(staleness_of(page))
    assert card(browser, "Runs") == "2"
    assert f"tenant_id={people.globex.pk}" in browser.current_url
    assert "Globex" in browser.find_element(By.CLASS_NAME, "kz-chip").text
    browser.get(f"{site}/what-changed/?days=7")
    follow(browser, By.LINK_TEXT, "Globex")
    follow(browser, By.LINK_TEXT, "Triage")
    assert "gpt-4o" in text(browser)
    follow(browser, By.LINK_TEXT, "Runs")
    assert len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 2
    assert errors(browser) == []


def test_a_tenant_admin_sees_its_tenant_and_no_other(
    browser: webdriver.Chrome, site: str, people: People
) -> None:
    log_in(browser, site, "acme-admin")
    assert browser.current_url == f"{site}/tenants/acme/"
    assert (card(browser, "Runs"), card(browser, "Credits used")) == ("1", "11.40")
    assert "Triage" in text(browser)
    for button, runs in (("7 days", "1"), ("Today", "1")):
        follow(browser, By.XPATH, f"//a[text()='{button}']")
        assert card(browser, "Runs") == runs
    follow(browser, By.LINK_TEXT, "ann")
    assert card(browser, "Runs") == "1"
    browser.get(f"{site}/tenants/globex/")
    assert "Nothing here" in text(browser)
    browser.get(f"{site}/platform/")
    assert "Not yours to see" in text(browser)


def test_a_user_sees_its_own_usage_and_credits_and_logs_out(
    browser: webdriver.Chrome, site: str, people: People
) -> None:
    log_in(browser, site, "ann")
    assert browser.current_url == f"{site}/users/{people.acme_user.pk}/"
    assert card(browser, "Runs") == "1"
    assert "Out of credits" in text(browser), "nobody granted Ann any"
    assert drawn_charts(browser) == 2
    assert errors(browser) == []
    browser.get(f"{site}/users/{people.globex_user.pk}/")
    assert "Nothing here" in text(browser)
    browser.get(site)
    follow(browser, By.XPATH, "//button[text()='Log out']")
    assert "/login/" in browser.current_url


def test_a_wrong_password_is_refused_in_words(browser: webdriver.Chrome, site: str) -> None:
    browser.get(site)
    browser.find_element(By.NAME, "username").send_keys("ann")
    browser.find_element(By.NAME, "password").send_keys("wrong")
    follow(browser, By.CSS_SELECTOR, "button.kz-primary")
    assert "don't match" in text(browser)
