"""The page of `quantlab-report --html` as a person uses it: in Chromium, from disk, wide and narrow."""

import shutil

import pytest

pytest.importorskip("plotly", reason="plotly, of the extra `report`, is not installed")
pytest.importorskip("selenium", reason="selenium, of the extra `test`, is not installed")

from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from test_html_page import ATTACK, page_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no Chromium with its driver (apt-get install chromium chromium-driver)"
    ),
]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser):
    """opened(file, width): that page in a window so wide, ready; the console is empty when the test ends."""

    def show(file, width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(file.as_uri())
        until(browser, lambda: browser.execute_script("return document.documentElement.dataset.ready"))
        return browser

    browser.get_log("browser")
    yield show
    assert browser.get_log("browser") == []


def until(browser, holds):
    return WebDriverWait(browser, 20, 0.05).until(lambda _: holds())


def rows(browser):
    """What the rows of runs say, as the first table shows them."""
    return browser.execute_script(
        "return [...document.querySelector('table').querySelectorAll('tr.run')]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )


def heading(browser, word):
    return next(head for head in browser.find_elements(By.TAG_NAME, "th") if head.text.startswith(word))


def overflow(browser):
    """Pixels by which the page is wider than its window."""
    return browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")


def range_of_x(browser):
    return browser.execute_script("return document.querySelector('.chart')._fullLayout.xaxis.range")


@pytest.mark.parametrize("width", [1280, 400])
def test_five_hundred_runs_are_sorted_filtered_opened_and_zoomed(opened, many_runs, tmp_path, capsys, width):
    many_runs(500)
    file = page_of(tmp_path)
    browser = opened(file, width)
    ready = int(browser.execute_script("return document.documentElement.dataset.ready"))
    assert len(rows(browser)) == 500 and overflow(browser) <= 0
    browser.save_screenshot(str(tmp_path / f"table_{width}.png"))

    place = [head.text for head in browser.find_elements(By.TAG_NAME, "th")].index("fid ↓")
    for backwards in (False, True):
        sorting = browser.execute_async_script(
            "const [head, done] = arguments, start = performance.now(); head.click();"
            "requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)))",
            heading(browser, "fid"),
        )
        values = [float(row[place]) for row in rows(browser)]
        assert values == sorted(values, reverse=backwards)

    search = browser.find_element(By.CSS_SELECTOR, "input[type=search]")
    empty = browser.find_element(By.XPATH, "//p[starts-with(., 'No run of this table')]")
    for typed, count in (("group_size<10", 50), ("nothing of it", 0), ("group_size=7", 5)):
        search.clear()
        search.send_keys(typed)
        said = f"{count} of 500 completed runs"
        until(browser, lambda: browser.find_element(By.CSS_SELECTOR, "header span").text == said)
        assert len(rows(browser)) == count and empty.is_displayed() == (count == 0)

    chart = browser.find_element(By.CSS_SELECTOR, ".chart")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    until(browser, lambda: len(chart.find_elements(By.CSS_SELECTOR, ".trace.scatter")) == 5)
    buttons = [one.get_attribute("data-title") for one in chart.find_elements(By.CSS_SELECTOR, ".modebar-btn")]
    assert "Reset axes" in buttons and not [title for title in buttons if "cloud" in title.lower()]
    browser.save_screenshot(str(tmp_path / f"curves_{width}.png"))
    whole, plot = range_of_x(browser), chart.find_element(By.CSS_SELECTOR, ".nsewdrag")
    drag = ActionChains(browser).move_to_element_with_offset(plot, -40, -40).click_and_hold()
    drag.move_by_offset(80, 80).release().perform()
    until(browser, lambda: range_of_x(browser)[1] - range_of_x(browser)[0] < 0.9 * (whole[1] - whole[0]))
    ActionChains(browser).double_click(plot).perform()
    until(browser, lambda: range_of_x(browser) == pytest.approx(whole))

    row = browser.find_element(By.CSS_SELECTOR, "tr.run")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", row)
    row.click()
    dialog = browser.find_element(By.TAG_NAME, "dialog")
    assert dialog.is_displayed() and "quantlab" in dialog.text and dialog.find_elements(By.TAG_NAME, "img")
    assert overflow(browser) <= 0
    browser.save_screenshot(str(tmp_path / f"run_{width}.png"))
    dialog.send_keys(Keys.ESCAPE)
    until(browser, lambda: not dialog.is_displayed())
    with capsys.disabled():
        print(f"\n{width} pixels: interactive after {ready} ms, sorted in {sorting:.0f} ms; pictures: {tmp_path}")


def test_nothing_of_a_hostile_run_is_carried_out(opened, make_run, log, tmp_path):
    run = make_run("hostile", method=ATTACK, metrics={"fid": 1.0}, settings={"x": ATTACK})
    log(run, {"step": 1, ATTACK: 1.0}, {"step": 2, ATTACK: 1.0})
    browser = opened(page_of(tmp_path), 1280)
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".trace.scatter"))
    browser.find_element(By.CSS_SELECTOR, "tr.run").click()
    assert browser.title == "quantlab: 1 run"
