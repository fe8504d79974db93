"""A real browser ranks by mouse, keyboard and dragging, reloads, and the report says what was clicked."""

import os
import shutil
import threading
import time

import pytest

pytest.importorskip("selenium")
pytest.importorskip("starlette")
pytest.importorskip("choix")

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from ddmd.measure.study.plan import Key, Plan, Wish, new_study
from ddmd.measure.study.report import find, read_study

from .conftest import PROMPTS

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on this machine (Debian: chromium-driver)"),
]


@pytest.fixture
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def served(tmp_path, sources):
    """A function that makes a study, serves it, and returns its folder and an annotator's address."""
    import uvicorn

    from ddmd.measure.study.server import make_app

    servers = []

    def serve(**wishes):
        images, prompts = sources
        folder = tmp_path / "study"
        new_study(folder, images, prompts, Wish(**{"kind": "ranking", "annotators": 1, **wishes}), lambda done, total: None)
        server = uvicorn.Server(uvicorn.Config(make_app(folder), host="127.0.0.1", port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        (port,) = (sock.getsockname()[1] for s in server.servers for sock in s.sockets)
        (token,) = Plan.load(folder).annotators
        return folder, f"http://127.0.0.1:{port}/a/{token}/"

    yield serve
    for server, thread in servers:
        server.should_exit = True
        thread.join()


def until(browser, condition):
    return WebDriverWait(browser, 20).until(condition)


def count(browser):
    return browser.find_element(By.ID, "count").text


def choices(browser):
    return until(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".choice"))


def sources_of(browser):
    return [image.get_attribute("src").rpartition("/")[2] for image in browser.find_elements(By.CSS_SELECTOR, ".choice img")]


def press(browser, *keys):
    chain = ActionChains(browser)
    for key in keys:
        chain.send_keys(key)
    chain.perform()


def snapshot(browser, name):
    """Pictures for the docs, where DDMD_SCREENSHOTS names a folder."""
    if os.environ.get("DDMD_SCREENSHOTS"):
        browser.save_screenshot(f"{os.environ['DDMD_SCREENSHOTS']}/{name}.png")


def test_ranking_by_mouse_keyboard_and_dragging(served, browser):
    folder, address = served()
    browser.get(address)
    until(browser, lambda b: count(b) == "0 of 4")
    wanted = {}  # prompt -> images, best first

    def done(n):
        until(browser, lambda b: count(b) == f"{n} of 4")

    def prompt():
        return browser.find_element(By.ID, "prompt").text

    # By mouse: the third, then the first; the last place follows.
    pictures = choices(browser)
    names = sources_of(browser)
    assert not browser.find_element(By.ID, "next").is_enabled()
    pictures[2].click()
    pictures[0].click()
    snapshot(browser, "study-ranking")
    wanted[prompt()] = [names[2], names[0], names[1]]
    browser.find_element(By.ID, "next").click()
    done(1)

    # By keyboard, with a change of mind.
    names, second = sources_of(browser), prompt()
    press(browser, "1", "2", Keys.BACKSPACE, Keys.BACKSPACE, "2", "3", Keys.ENTER)
    done(2)
    wanted[second] = [names[1], names[2], names[0]]

    # A reload comes back to the same place.
    third = prompt()
    browser.refresh()
    done(2)
    until(browser, lambda b: prompt() == third)

    # By dragging the second picture to the last place, then the first to the best.
    names = sources_of(browser)
    _drag(browser, 1, 0)
    _drag(browser, 0, 0)
    until(browser, lambda b: b.find_element(By.ID, "next").is_enabled())
    wanted[third] = [names[0], names[1], names[2]]
    browser.find_element(By.ID, "next").click()
    done(3)

    # Zoom keeps the pictures in step.
    press(browser, "z")
    frames = browser.find_elements(By.CSS_SELECTOR, ".frame")
    ActionChains(browser).move_to_element_with_offset(frames[0], 30, 30).perform()
    styles = {image.get_attribute("style") for image in browser.find_elements(By.CSS_SELECTOR, ".choice img")}
    assert len(styles) == 1 and "scale(3)" in styles.pop()

    # Back to an earlier item: its answer is there.
    last = prompt()
    press(browser, Keys.BACKSPACE)
    until(browser, lambda b: prompt() == third)
    assert browser.find_element(By.ID, "next").is_enabled()
    press(browser, Keys.ENTER)
    until(browser, lambda b: prompt() == last)
    names = sources_of(browser)
    press(browser, "3", "2", Keys.ENTER)
    wanted[last] = [names[2], names[1], names[0]]
    done(4)
    until(browser, lambda b: "Thank you" in b.find_element(By.ID, "task").text)

    assert set(wanted) == set(PROMPTS)  # the hostile one was shown as text, to the letter
    key, plan = Key.load(folder), Plan.load(folder)
    owner = {name: model for item in plan.items for name, model in zip(item.rows[0].images, key.items[item.id])}
    kind, rankings, _, _ = read_study(folder)
    prompts = {item.id: item.rows[0].prompt for item in plan.items}
    assert {prompts[r.item]: r.models for r in rankings} == {p: tuple(owner[name] for name in names) for p, names in wanted.items()}
    found = find(kind, rankings, key.models)
    for model in key.models:
        clicked = [[owner[name] for name in names].index(model) + 1 for names in wanted.values()]
        assert found.ranks[model]["average"] == pytest.approx(sum(clicked) / 4)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in entry["message"]]


def _drag(browser, picture, rank):
    """HTML5 drag and drop, by the events that a browser sends: its driver cannot start one in a headless window."""
    script = """
    const data = new DataTransfer();
    const from = document.querySelectorAll('.choice')[arguments[0]], to = document.querySelectorAll('#ranks li')[arguments[1]];
    from.dispatchEvent(new DragEvent('dragstart', {dataTransfer: data, bubbles: true}));
    to.dispatchEvent(new DragEvent('dragover', {dataTransfer: data, bubbles: true, cancelable: true}));
    to.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
    """
    browser.execute_script(script, picture, rank)


def test_side_by_side_asks_for_a_reason_and_works_on_a_phone(served, browser):
    folder, address = served(kind="sidebyside", n=3)
    browser.set_window_size(400, 800)
    browser.get(address)
    until(browser, lambda b: count(b) == "0 of 2")
    assert len(choices(browser)) == 6
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    snapshot(browser, "study-sidebyside-phone")
    for n, (key, words) in enumerate((("1", "sharper"), ("2", "<b>truer</b> colours")), 1):
        press(browser, key)
        assert not browser.find_element(By.ID, "next").is_enabled()
        browser.find_element(By.ID, "reason").send_keys(words)
        browser.find_element(By.ID, "next").click()
        until(browser, lambda b, n=n: count(b) == f"{n} of 2")
    _, rankings, _, _ = read_study(folder)
    assert sorted(r.reason for r in rankings) == ["<b>truer</b> colours", "sharper"]
    plan, owners = Plan.load(folder), Key.load(folder).items
    (token,) = plan.annotators
    items = {item.id: item for item in plan.items}
    for ranking in rankings:
        shown = [owners[ranking.item][i] for i in plan.shuffled(token, items[ranking.item])]
        assert ranking.models[0] == shown[0 if ranking.reason == "sharper" else 1]
