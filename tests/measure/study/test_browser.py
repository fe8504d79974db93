"""A real browser ranks by mouse, keyboard and dragging, reloads, and the report says what was clicked."""

import json
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
from ddmd.measure.study.votes import Votes

from .conftest import PROMPTS

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on this machine (Debian: chromium-driver)"),
]


FLAGS = (
    "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
LAPTOP, PHONE = (1366, 768), (390, 844)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(running):
    resize(running, LAPTOP)
    yield running
    running.get("about:blank")


def resize(browser, size):
    """A laptop's window, or a phone's screen with touch."""
    phone = size == PHONE
    screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})


@pytest.fixture
def served(tmp_path, sources):
    """A function that makes a study, serves it, and returns its folder and an annotator's address."""
    import uvicorn

    from ddmd.measure.study.server import make_app

    servers = []

    def serve(given=None, empty_handed=False, **wishes):
        images, prompts = given or sources
        folder = tmp_path / "study"
        new_study(folder, images, prompts, Wish(**{"kind": "ranking", "annotators": 1, **wishes}), lambda done, total: None)
        server = uvicorn.Server(uvicorn.Config(make_app(folder), host="127.0.0.1", port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        (port,) = (sock.getsockname()[1] for s in server.servers for sock in s.sockets)
        token = next(token for token, hand in Plan.load(folder).annotators.items() if bool(hand) != empty_handed)
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


SEEN = """
const shown = (node) => node.getClientRects().length > 0;
const buttons = [...document.querySelectorAll("button, textarea")].filter(shown), bar = buttons.filter((b) => b.closest("#bar"));
const box = (node) => node.getBoundingClientRect();
const over = (a, b) => box(a).left < box(b).right && box(b).left < box(a).right && box(a).top < box(b).bottom && box(b).top < box(a).bottom;
return {
  wide: document.documentElement.scrollWidth > arguments[0],
  hidden: [...document.querySelectorAll("[hidden]")].filter(shown).map((node) => node.id),
  small: buttons.filter((b) => box(b).width < 44 || box(b).height < 44).map((b) => b.id),
  outside: bar.filter((b) => box(b).bottom > innerHeight || box(b).right > arguments[0]).map((b) => b.id),
  overlapping: bar.flatMap((a, i) => bar.slice(i + 1).filter((b) => over(a, b)).map((b) => [a.id, b.id])),
  shown: bar.map((b) => b.id),
};
"""


def seen(browser, size):
    """The buttons of the bar that are there to be seen. All buttons must be large, apart from one another and on the screen."""
    resize(browser, size)
    found = browser.execute_script(SEEN, size[0])
    shown = found.pop("shown")
    assert found == {"wide": False, "hidden": [], "small": [], "outside": [], "overlapping": []}
    return shown


def press(browser, *keys):
    chain = ActionChains(browser)
    for key in keys:
        chain.send_keys(key)
    chain.perform()


def test_ranking_by_mouse_keyboard_and_dragging(served, browser):
    folder, address = served()
    browser.get(address)
    until(browser, lambda b: count(b) == "0 of 4")
    for size in (PHONE, LAPTOP):
        assert seen(browser, size) == ["undo", "zoom", "next"]
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
    for size in (PHONE, LAPTOP):
        assert seen(browser, size) == ["undo"]
    press(browser, "1", "2", Keys.ENTER)  # there is nothing left to answer
    assert len(Votes(folder).all()) == 4 and browser.find_element(By.ID, "rows").text == ""
    press(browser, Keys.BACKSPACE)
    until(browser, lambda b: prompt() == last and b.find_element(By.ID, "next").is_enabled())
    press(browser, Keys.ENTER)
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
    resize(browser, PHONE)
    browser.get(address)
    until(browser, lambda b: count(b) == "0 of 2")
    for size in (LAPTOP, PHONE):
        assert seen(browser, size) == ["left", "right", "undo", "zoom", "next"]
    assert len(choices(browser)) == 6
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


def two_models(sources):
    images, prompts = sources
    return {name: images[name] for name in list(images)[:2]}, prompts


def test_a_key_pressed_once_too_often_ranks_nothing(served, sources, browser):
    """Of two pictures one choice makes a whole ranking: Enter must make none, also with the focus on a picture."""
    folder, address = served(two_models(sources))
    browser.get(address)
    until(browser, lambda b: count(b) == "0 of 4")
    press(browser, Keys.ENTER, Keys.ENTER, Keys.SPACE, Keys.TAB, Keys.ENTER, Keys.ENTER)
    assert browser.execute_script("return document.activeElement.className") == "choice"
    assert not browser.find_element(By.ID, "next").is_enabled()
    assert browser.execute_script(DROP_TEXT) == 0  # nor does a text that is dropped on a place
    press(browser, Keys.SPACE)
    until(browser, lambda b: b.find_element(By.ID, "next").is_enabled())
    press(browser, "2")  # a change of mind: the other is better
    assert browser.find_element(By.CSS_SELECTOR, ".choice:nth-child(2) .badge").text == "Best"
    held = "for (let i = 0; i < 5; i++) dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', repeat: i > 0}))"
    browser.execute_script(held)
    until(browser, lambda b: count(b) == "1 of 4")
    press(browser, Keys.ENTER)
    assert count(browser) == "1 of 4" and len(Votes(folder).all()) == 1


DROP_TEXT = """
document.querySelector("#ranks li").dispatchEvent(new DragEvent("drop", {dataTransfer: new DataTransfer(), bubbles: true, cancelable: true}));
return document.querySelectorAll("#ranks img").length;
"""
SLOW = """
window.asked = [];
const real = window.fetch;
window.fetch = async (path, options) => {
  if (options.body) { asked.push(options.body); await new Promise((go) => { window.go = go; }); if (window.broken) throw new TypeError("offline"); }
  return real(path, options);
};
"""


def test_while_an_answer_is_under_way_nothing_else_happens_and_a_lost_one_is_told(served, browser):
    folder, address = served()
    browser.get(address)
    until(browser, lambda b: count(b) == "0 of 4")
    names = sources_of(browser)
    browser.execute_script(SLOW)
    press(browser, "1", "2", Keys.ENTER)
    until(browser, lambda b: b.execute_script("return asked.length") == 1)
    assert browser.find_element(By.ID, "next").text.endswith("Saving …")
    press(browser, Keys.ENTER, "3", Keys.BACKSPACE, "2", Keys.ENTER)
    browser.find_element(By.CSS_SELECTOR, ".choice").click()
    browser.execute_script("broken = true; go()")
    until(browser, lambda b: "Not saved" in b.find_element(By.ID, "error").text)
    assert Votes(folder).all() == [] and sources_of(browser) == names
    assert browser.find_element(By.ID, "next").is_enabled()  # the ranking is still there
    press(browser, Keys.ENTER)
    until(browser, lambda b: b.execute_script("return asked.length") == 2)
    browser.execute_script("broken = false; go()")
    until(browser, lambda b: count(b) == "1 of 4")
    first, again = map(json.loads, browser.execute_script("return asked"))
    assert first["ranking"] == again["ranking"] == [0, 1, 2] and len(Votes(folder).all()) == 1
    # The server is gone: the page says so, and comes back to the same place.
    browser.execute_script("window.fetch = () => Promise.reject(new TypeError('offline'))")
    press(browser, Keys.BACKSPACE)
    until(browser, lambda b: "does not answer" in b.find_element(By.ID, "error").text)
    browser.find_element(By.ID, "retry").click()
    until(browser, lambda b: count(b) == "1 of 4" and not b.find_element(By.ID, "error").is_displayed())


def test_nothing_to_judge_and_a_wrong_link(served, browser):
    _, address = served(n=1, annotators=2, empty_handed=True)
    browser.get(address)
    until(browser, lambda b: "nothing to judge" in b.find_element(By.ID, "task").text)
    assert seen(browser, PHONE) == []
    browser.get(address.replace("/a/", "/a/x"))
    assert "not known" in browser.find_element(By.TAG_NAME, "h1").text


def test_small_pictures_stay_sharp_and_nothing_comes_from_elsewhere(served, browser):
    _, address = served()
    browser.get(address)
    until(browser, lambda b: count(b) == "0 of 4")
    assert browser.execute_script("return getComputedStyle(document.querySelector('.frame img')).imageRendering") == "pixelated"
    urls = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert urls and all(url.startswith(address.partition("/a/")[0]) for url in urls)
    alts = browser.execute_script("return [...document.images].map((image) => image.alt)")
    assert alts == ["Picture 1", "Picture 2", "Picture 3"]
