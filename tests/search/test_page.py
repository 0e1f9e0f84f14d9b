"""The page in a real browser: what a visitor types, drops and gets wrong."""

import io
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from installed import needs
from nearfar.search import build
from search.colours import ColourEncoder, draw, folder_source, png

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = [
    needs("gradio"),
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]
pytest.importorskip("selenium")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page, served in this process over pictures of every colour on every other."""
    import uvicorn

    from nearfar.search.page.serving import free_port, make_app, uploads_folder

    folder = tmp_path_factory.mktemp("photos")
    for colour in ("red", "green", "blue", "yellow"):
        for ground in ("white", "black"):
            draw(colour, "square", ground).save(folder / f"{colour}-square-on-{ground}.png")
    encoder = ColourEncoder()
    index = build(encoder, folder_source(folder), tmp_path_factory.mktemp("index"), model="<b>colours</b>")
    with uploads_folder() as uploads:
        port = free_port()
        server = uvicorn.Server(
            uvicorn.Config(make_app(index, encoder, uploads), host="127.0.0.1", port=port, log_level="warning")
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        until(lambda: server.started)
        yield f"http://127.0.0.1:{port}/"
        server.should_exit = server.force_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1400,1000")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, address):
    browser.get(address)
    until(lambda: one(browser, "#text textarea, #text input"))
    until(lambda: one(browser, "#picture input[type=file]"))
    return browser


def until(holds, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := holds():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"did not come true in {seconds} s")


def one(page, selector):
    return next(iter(page.find_elements("css selector", selector)), None)


def type_into(page, box, text, then=""):
    one(page, f"#{box} textarea, #{box} input").send_keys(text + then)


def notice(page):
    return one(page, "#notice").text


def captions(page):
    from selenium.common.exceptions import StaleElementReferenceException

    try:
        return [label.text for label in page.find_elements("css selector", "#hits .caption-label")]
    except StaleElementReferenceException:
        return []


def upload(page, path: Path):
    one(page, "#picture input[type=file]").send_keys(str(path))


def test_typing_a_query_shows_the_hits_with_scores(page):
    type_into(page, "text", "something red", "\n")
    first = until(lambda: captions(page))
    assert len(first) == 8
    assert ["red" in caption for caption in first] == [True] * 2 + [False] * 6
    assert float(first[0].split()[0]) > float(first[2].split()[0])
    assert "8 of 8 pictures for something red" in notice(page)
    shown = one(page, "#hits img")
    until(lambda: page.execute_script("return arguments[0].naturalWidth", shown) == 48)
    assert "<b>colours</b>" not in page.find_element("id", "title").get_attribute("innerHTML")


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_the_page_fits_a_phone(page, width):
    """Nothing stands beyond the edge, the pictures can be seen, and a long caption makes no other row tall."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        type_into(page, "text", "something red", "\n")
        until(lambda: captions(page))
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        cards = [card.rect for card in page.find_elements("css selector", "#hits .thumbnail-lg")]
        assert min(card["width"] for card in cards) > 100
        assert max(card["x"] + card["width"] for card in cards) <= width
        button = one(page, "#like button, button#like").rect
        assert button["height"] < 80
        page.execute_script("document.querySelector('#hits .caption-label').textContent = 'long words '.repeat(40)")
        heights = [card.rect["height"] for card in page.find_elements("css selector", "#hits .thumbnail-lg")]
        assert heights[-1] < heights[0]
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_dropped_picture_composes_with_texts(page, tmp_path):
    draw("green", "square", "white").save(tmp_path / "green.png")
    upload(page, tmp_path / "green.png")
    until(lambda: captions(page)[:1] == ["1.000 a green square on white"])
    type_into(page, "plus", "black")
    type_into(page, "minus", "white", "\n")
    until(lambda: "a green square on black" in "".join(captions(page)[:1]))
    assert "the picture + black \N{MINUS SIGN} white" in notice(page)


def test_labels_for_a_picture(page, tmp_path):
    draw("blue", "bar", "yellow").save(tmp_path / "blue.png")
    upload(page, tmp_path / "blue.png")
    until(lambda: captions(page))
    one(page, "#zero-shot button").click()
    until(lambda: (box := one(page, "#labels textarea, #labels input")) and box.is_displayed())
    type_into(page, "labels", "red, blue, green", "\n")
    until(lambda: one(page, "#named") and "blue" in one(page, "#named").text)
    lines = [line for line in one(page, "#named").text.splitlines() if line in ("red", "blue", "green")]
    assert lines[0] == "blue"


def test_a_hit_leads_to_more_like_it(page):
    type_into(page, "text", "yellow", "\n")
    until(lambda: "yellow" in "".join(captions(page)[:1]))
    assert not one(page, "#like button, button#like").is_displayed(), "nothing is chosen yet"
    page.find_elements("css selector", "#hits .thumbnail-lg")[-1].click()
    until(lambda: "chosen: hit 8" in notice(page))
    one(page, "#like button, button#like").click()
    until(lambda: "for the picture" in notice(page))
    assert one(page, "#text textarea, #text input").get_attribute("value") == ""


def test_a_hit_is_shown_large_and_can_be_chosen_again_after_a_new_search(page):
    type_into(page, "text", "yellow", "\n")
    until(lambda: "yellow" in "".join(captions(page)[:1]))
    for _ in range(2):
        hit = page.find_elements("css selector", "#hits .thumbnail-lg")[1]
        hit.click()
        until(lambda: "chosen: hit 2" in notice(page))
        until(lambda: page.execute_script("return document.querySelector('#larger img')?.naturalWidth") == 48)
        assert one(page, "#larger img").get_attribute("alt") == one(page, "#larger p").text
        assert hit.get_attribute("aria-pressed") == "true"
        one(page, "#larger button").click()
        assert not one(page, "#larger")
        type_into(page, "text", " ", "\n")
        until(lambda: "8 of 8 pictures" in notice(page))
        until(lambda: not page.find_elements("css selector", "#hits [aria-pressed=true]"))


def test_the_larger_view_opens_and_closes_by_keys(page):
    type_into(page, "text", "yellow", "\n")
    until(lambda: "yellow" in "".join(captions(page)[:1]))
    page.find_elements("css selector", "#hits .thumbnail-lg")[2].send_keys("\n")
    until(lambda: "chosen: hit 3" in notice(page))
    until(lambda: one(page, "#larger"))
    page.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not one(page, "#larger")
    assert page.title == "yellow nearfar search"


def test_parts_have_names_for_screen_readers(page):
    type_into(page, "text", "yellow", "\n")
    until(lambda: "yellow" in "".join(captions(page)[:1]))
    first = one(page, "#hits .thumbnail-lg")
    until(lambda: first.get_attribute("aria-label").startswith("hit 1, score 0."))
    assert "a yellow square on" in one(page, "#hits img").get_attribute("alt")
    assert one(page, "#picture input[type=file]").get_attribute("aria-label") == "a picture to start from"
    unnamed = """return [...document.querySelectorAll("button, input, textarea, img")].filter(part =>
        part.offsetParent && !(part.getAttribute("aria-label") || part.getAttribute("title") || part.textContent.trim()
        || part.alt || part.labels?.length)).map(part => part.outerHTML.slice(0, 200))"""
    assert page.execute_script(unnamed) == []


def test_a_search_has_an_address_that_opens_with_it(page, address):
    type_into(page, "text", "yellow", "\n")
    until(lambda: page.execute_script("return location.search") == "?q=yellow&top=24")
    page.get(f"{address}?q=blue+black&minus=black&top=3")
    until(lambda: one(page, "#notice") and "3 of 8 pictures for blue black" in notice(page))
    assert all("blue" in caption for caption in captions(page)[:2])
    assert one(page, "#text textarea, #text input").get_attribute("value") == "blue black"


def test_results_are_in_view_after_a_search_on_a_phone(page):
    size = {"width": 420, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.execute_script("return scrollY") == 0
        type_into(page, "text", "red", "\n")
        until(lambda: captions(page))
        top = "return document.querySelector('#hits').getBoundingClientRect().top"
        until(lambda: 0 <= page.execute_script(top) < 400)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def animated(path):
    frames = [draw(colour) for colour in ("red", "blue")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def bomb(path):
    Image.new("1", (20_000, 20_000)).save(path, "PNG")


BAD = {
    "broken.png": (lambda path: path.write_bytes(png(draw("red"))[:70]), "broken.png: "),
    "empty.png": (lambda path: path.write_bytes(b""), "empty.png: the file is empty"),
    "text.jpg": (lambda path: path.write_text("not a picture"), "text.jpg: not an image"),
    "bomb.png": (bomb, "bomb.png: "),
    "drawing.svg": (lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "SVG"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_is_answered_with_a_sentence(page, tmp_path, name):
    make, message = BAD[name]
    make(tmp_path / name)
    upload(page, tmp_path / name)
    until(lambda: message in notice(page))
    assert one(page, "#notice [role=alert]")
    assert "Traceback" not in page.page_source
    assert "/tmp" not in notice(page)
    until(lambda: one(page, "#picture input[type=file]"))  # the box is free for the next one
    type_into(page, "text", "blue", "\n")
    until(lambda: "blue" in "".join(captions(page)[:1]))


def test_an_animation_gives_its_first_frame(page, tmp_path):
    animated(tmp_path / "moving.gif")
    upload(page, tmp_path / "moving.gif")
    until(lambda: "a red" in "".join(captions(page)[:1]))


def test_a_huge_upload_is_refused_and_the_page_lives(page, tmp_path):
    (tmp_path / "huge.png").write_bytes(png(draw("red")) + bytes(21 * 1024 * 1024))
    upload(page, tmp_path / "huge.png")
    until(lambda: "size" in page.find_element("tag name", "body").text.lower())
    assert captions(page) == []
    type_into(page, "text", "blue", "\n")
    until(lambda: "blue" in "".join(captions(page)[:1]))


def test_asking_nothing_says_so(page):
    one(page, "#go button, button#go").click()
    until(lambda: "nothing to look for" in notice(page))


def test_nothing_is_asked_of_another_host(browser, address):
    hosts = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            hosts.add(message["params"]["request"]["url"])
    local = (address, "data:", "blob:", "chrome:", "chrome-untrusted:", "about:")
    assert any(url.startswith(address) for url in hosts)
    assert not [url for url in hosts if not url.startswith(local)]


def test_screenshot_is_a_picture_of_hits(page):
    type_into(page, "text", "something red", "\n")
    until(lambda: captions(page))
    shot = Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")
    red = sum(count for count, (r, g, b) in shot.getcolors(1 << 24) if r > 180 and g < 70 and b < 70)
    assert red > 5000
