"""What a report shows of its figures: whose they are, both directions, pictures on the map, classes that say something;
and that nothing of it is cut off in a browser."""

import base64
import io
import re
import shutil
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.data import Records, train_tokenizer
from nearfar.evaluation import Embeddings, Metric, Result
from nearfar.evaluation.report import write_report
from nearfar.evaluation.report.figures import places_on, scatter
from nearfar.evaluation.report.model_facts import model_facts
from nearfar.evaluation.report.retrieval_gallery import MOST_LETTERS, shown_text
from nearfar.evaluation.report.tables import LEAST_IN_PART, breakdowns, headline
from nearfar.models import create

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
HISTORY = [{"step": step, "epoch": 1, "loss": 3.0 / step, "seconds": 2.0 * step} for step in range(1, 62)]


def source(count=40):
    rows = [{"image": Image.new("RGB", (8, 8), (6 * i, 0, 0)), "text": f"number {i}"} for i in range(count)]
    return Records(rows, name="numbers")


def data(image, text, count=40):
    captions = [f"number {i}" for i in range(count)]
    return Embeddings(image, text, torch.arange(count), names=captions, captions=captions, source="numbers")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """A report of a model that knows nothing: images and texts of chance."""
    image, text = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0))
    out = tmp_path_factory.mktemp("report")
    return write_report(out, embeddings=data(image, text), source=source(), history=HISTORY, about="pairs held out")


def test_every_section_of_figures_says_whose_they_are_with_n(strangers):
    page = strangers.read_text()
    assert "Measured on pairs held out (numbers): 40 images, 40 different captions." in page
    for section in ("Results", "Retrieval gallery", "Embedding map", "Geometry"):
        text = re.search(rf"<h2[^>]*>{section}</h2>(.*?)</section>", page, re.DOTALL)[1]
        assert "<b>On pairs held out.</b> 40 images, 40 different captions." in text
    assert re.findall(r"<small>(chance [^<]*)</small>", page)[0] == "chance 2.5 %, n 40"


def test_a_figure_at_chance_is_called_so_at_the_head(strangers, tmp_path):
    head = strangers.read_text().partition("<section")[0]
    assert 'class="warning">retrieval, not shown to be above chance: text to image R@1 ' in head
    vectors = torch.eye(40)
    page = write_report(tmp_path, embeddings=data(vectors, vectors), source=source()).read_text()
    assert 'class="warning"' not in page
    assert "<b>On numbers.</b> 40 images" in page


def test_both_directions_are_in_the_gallery(tmp_path):
    vectors = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    page = unescape(write_report(tmp_path, embeddings=data(vectors, -vectors), source=source()).read_text())
    by_text, by_image = page.split("The other way: images")
    assert "Failures" in by_text
    assert by_text.count('class="missed"') == 6
    # Of each picture the texts are shown, the right one at the end, with its rank among all captions.
    assert by_image.count('class="asking"') == 4
    ranks = re.findall(r'<li class="missed">(number \d+) <small>✗ rank (\d+)</small>', by_image)
    assert len(ranks) == 4
    assert {int(rank) for _, rank in ranks} <= set(range(11, 41))


def test_each_point_of_the_map_shows_its_picture_where_it_lies(strangers):
    page = strangers.read_text()
    spots = re.findall(
        r'class="spot[^"]*" tabindex="-1" style="left:([\d.]+)%;top:([\d.]+)%"><span><img[^>]*alt="([^"]*)"', page
    )
    assert len(spots) == 40
    assert {title for *_, title in spots} == {f"number {i}" for i in range(40)}
    # matplotlib draws each dot there: 7.2 x 4.4 inches are 518.4 x 316.8 points.
    points = np.array([[0.0, 0.0], [3.0, 1.0], [1.0, 5.0]])
    drawn = scatter(points, ["a"] * 3, {"a": "#123456"}, describe="", name="m")
    dots = [(float(x), float(y)) for x, y in re.findall(r'<use xlink:href="#[^"]*" x="([\d.]+)" y="([\d.]+)"', drawn)]
    expected = places_on(points) / 100 * np.array([518.4, 316.8])
    assert np.allclose(dots, expected, atol=0.01)


def test_classes_of_a_few_pictures_are_no_best_and_worst():
    def metric(value, n):
        return {"top1": Metric(value, value / 2, (1 + value) / 2, chance=0.01, n=n, unit="%")}

    parts = {f"large {i}": metric(i / 30, 12) for i in range(24)} | {f"small {i}": metric(1.0, 1) for i in range(50)}
    (table,) = breakdowns({"zero_shot": Result("zero_shot", {}, by={"class": parts})}, {})
    assert "the 10 best and 10 worst of 24 by top1; 50 with fewer than 10 are left out" in table.caption
    assert [row.name for row in table.rows] == [f"large {i}" for i in (*range(23, 13, -1), *range(9, -1, -1))]
    value, n = table.rows[-1].cells
    assert (value.text, value.remark, n.text) == ("0.0", "0.0 to 50.0; 1.0", "12")
    few = {name: part for name, part in parts.items() if name.startswith("small")}
    assert breakdowns({"zero_shot": Result("zero_shot", {}, by={"class": few})}, {}) == []
    assert LEAST_IN_PART == 10


def test_the_model_is_described(tmp_path):
    model = create("tiny", tokenizer=train_tokenizer(source().texts(), 300), image_size=32)
    model.freeze("image")
    (tmp_path / "model").mkdir()
    table, load = model_facts(model, tmp_path, HISTORY, "90 records of photos")
    facts = {row.name: row.cells[0].text for row in table.rows}
    count = sum(p.numel() for p in model.image.parameters()) + sum(b.numel() for b in model.image.buffers())
    assert facts["image tower"] == (
        f"ConvNextModel of width [40, 80, 160, 320], {count / 1e6:.1f} million parameters, frozen"
    )
    assert facts["text tower"].startswith("BertModel of width 128, ")
    assert [facts[name] for name in ("embedding", "pictures", "texts")] == [
        "128 numbers",
        "32 pixels a side",
        "32 tokens at most",
    ]
    assert (facts["trained on"], facts["training took"]) == ("90 records of photos", "2:02 minutes")
    assert f'model = nearfar.load("{tmp_path.name}/model")' in load.text
    assert model_facts(None, tmp_path, HISTORY, None) == []


@pytest.mark.browser
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
def test_no_column_is_cut_off_and_a_dot_shows_its_picture(strangers, tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        for width in (420, 1280):
            screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            driver.get(strangers.as_uri())
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            hidden = "return [...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
            assert max(driver.execute_script(hidden)) <= 0
            spots = driver.find_elements("css selector", ".spot")
            for spot in (spots[0], spots[-1]):
                shown = spot.find_element("css selector", "img")
                assert not shown.is_displayed()
                driver.execute_script("arguments[0].focus()", spot)  # as a tap does
                assert shown.is_displayed()
                box = driver.execute_script(
                    "const r = arguments[0].getBoundingClientRect(); return [r.left, r.right]", shown
                )
                assert box[0] >= 0
                assert box[1] <= width
    finally:
        driver.quit()


def test_a_mask_has_another_colour_for_each_class():
    import numpy as np

    from nearfar.evaluation.dense.segmentation_figure import coloured

    picture = np.asarray(coloured(np.arange(80).reshape(8, 10)).resize((10, 8), 0)).reshape(80, 3).astype(int)
    apart = np.linalg.norm(picture[:, None] - picture, axis=2) + 999 * np.eye(80)
    assert apart.min() >= 4
    neighbours = [apart[i, j] for i in range(80) for j in range(80) if 0 < abs(i - j) < 8]
    assert min(neighbours) > 50


def test_the_geometry_of_pictures_alone_says_nothing_of_captions():
    from nearfar.evaluation.measures.result import Metric, Result
    from nearfar.evaluation.report import _geometry

    names = ("image_uniformity", "image_effective_rank", "image_spread")
    alone = _geometry(None, {"geometry": Result("geometry", {name: Metric(0.5) for name in names})}, 0)[0].text
    assert alone.startswith("Uniformity is")
    assert "caption" not in alone
    assert "Hubness" not in alone
    pairs = Result("geometry", {name: Metric(0.5) for name in (*names, "alignment", "hubness")})
    assert _geometry(None, {"geometry": pairs}, 0)[0].text.startswith("Alignment is")


def test_a_video_is_shown_by_frames_in_a_row(tmp_path):
    """Three of them, wider than a picture; on the map one."""
    rows = [
        {"video": np.stack([np.full((12, 16, 3), (80 * t, 8 * i, 0), np.uint8) for t in range(3)]), "text": f"film {i}"}
        for i in range(12)
    ]
    vectors = torch.nn.functional.normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    captions = [row["text"] for row in rows]
    films = Embeddings(
        text=vectors, image_of_text=torch.arange(12), captions=captions, source="films", sides={"video": vectors}
    )
    page = write_report(tmp_path, embeddings=films, source=Records(rows, name="films")).read_text()
    assert "12 videos, 12 different captions" in page
    assert "Each is shown by three of its frames." in page
    assert 'class="asking film"' in page
    address = re.search(r'<li class="right film"><img src="data:image/webp;base64,([^"]+)"', page)[1]
    with Image.open(io.BytesIO(base64.b64decode(address))) as row:
        assert row.size == (3 * 16 + 2 * 3, 12)
        reds = [row.getpixel((x, 6))[0] for x in (8, 27, 46)]
    assert np.abs(np.subtract(reds, (0, 80, 160))).max() < 12


def test_a_model_without_a_folder_says_how_it_was_opened(tmp_path):
    model = create("tiny", tokenizer=train_tokenizer(["a red disc"], 300))
    _, code = model_facts(model, tmp_path, [], None, 'my "model"')
    assert 'nearfar.load("my \\"model\\"")' in code.text
    assert len(model_facts(model, tmp_path, [], None)) == 1


def test_a_class_of_one_or_two_pictures_tells_nothing_among_a_few_classes_either():
    """Such rows would fill the table: right or wrong, with an interval from 0 to 100."""
    counts = {"cat": 1, "dog": 2, "fox": 3, "owl": 12}
    parts = {name: {"top1": Metric(0.5, 0.2, 0.8, 0.25, n, "%")} for name, n in counts.items()}
    (table,) = breakdowns({"zero_shot": Result("zero_shot", {}, by={"class": parts})}, {})
    assert [row.name for row in table.rows] == ["fox", "owl"]
    assert table.caption.endswith("; 2 with fewer than 3 are left out")


def test_a_long_caption_leaves_room_for_pictures():
    """Forty words beside each row of pictures would be most of the report."""
    caption = "a small red mug of bamboo " * 20
    shown = shown_text(caption)
    assert len(shown) <= MOST_LETTERS
    assert caption.startswith(shown.removesuffix(" ..."))
    assert shown.endswith(" ...")
    assert shown_text("a red\nmug") == "a red\nmug"


def test_the_large_figures_have_each_its_own_unit():
    """NMI and ARI are no shares: a mutual information of 0.687 stood there as 0.687 %."""
    results = {
        "knn": Result("knn", {"top1": Metric(0.106, chance=0.003, n=1641, unit="%")}),
        "clustering": Result("clustering", {"nmi": Metric(0.687, chance=0.677, n=1595), "ari": Metric(0.0118, n=9)}),
    }
    shown = [(each.name, each.value, each.remark) for each in headline(results)]
    assert shown == [
        ("neighbours top 1", "10.6 %", "chance 0.3 %, n 1,641"),
        ("clusters, NMI", "0.687", "chance 0.677, n 1,595"),
        ("clusters, ARI", "0.0118", "n 9"),
    ]
