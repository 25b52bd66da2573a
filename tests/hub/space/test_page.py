"""The page as a visitor has it, in a real browser: upload, click, read, and what it refuses."""

import base64
import io
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcn_backbones.analysis import classify, load_model, read_image, record_sampling, sampling_locations
from dcn_backbones.analysis.photograph import Preprocessing, input_point

from .browser import find_browser, serve
from .conftest import SPACE

MODEL = "dcnv2_resnet18"
EXAMPLE = SPACE / "chelsea.png"
ORANGE = (230, 159, 0)
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def temporary(tmp_path_factory) -> Path:
    """Where the page's process has its temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(temporary) -> Iterator[str]:
    find_browser()
    with serve(temporary) as address:
        yield address
    left = [path for path in temporary.rglob("*") if path.is_file() or path.name.startswith("dcn-space-")]
    assert not left, "the page's process has ended and left files"


@pytest.fixture(scope="module")
def browser(address):
    path = find_browser()
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """A function that opens the page anew and waits for its first picture; it may fetch nothing elsewhere."""
    contexts, elsewhere = [], []

    def open_page(**options):
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        local = (address, address.replace("http", "ws", 1), "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(local) or elsewhere.append(request.url))
        page.goto(address)
        page.wait_for_selector("#stage .frame svg")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not elsewhere


@pytest.fixture
def page(open_page):
    return open_page()


def upload(page, path: Path) -> None:
    page.set_input_files("#upload input[type=file]", path)


def upload_and_wait(page, path: Path) -> None:
    shown = page.get_attribute("#stage img", "src")
    upload(page, path)
    page.wait_for_function("shown => document.querySelector('#stage img').src !== shown", arg=shown)


def click(page, x: float, y: float) -> None:
    box = page.locator("#stage .frame").bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def wait_for_caption(page, words: str) -> None:
    page.wait_for_function("words => document.querySelector('#caption').innerText.includes(words)", arg=words)


def samples(page) -> torch.Tensor:
    """Where the discs on the picture are, ``(n, 2)``."""
    discs = "nodes => nodes.map(node => [+node.getAttribute('cx'), +node.getAttribute('cy')])"
    found = page.eval_on_selector_all("#stage .frame svg g[fill='#e69f00'] circle", discs)
    return torch.tensor(found, dtype=torch.float64).view(-1, 2)


def wait_for_samples(page, expected: torch.Tensor) -> None:
    ready = """([x, y]) => [...document.querySelectorAll("#stage .frame svg g[fill='#e69f00'] circle")].some(
        node => Math.abs(node.getAttribute('cx') - x) < 0.1 && Math.abs(node.getAttribute('cy') - y) < 0.1)"""
    page.wait_for_function(ready, arg=expected[0].tolist())
    torch.testing.assert_close(samples(page), expected, atol=0.06, rtol=0)


def expected_samples(photograph: Image.Image, part: tuple[float, float], layer: int, levels: int = 1):
    """Where a layer samples for the point at a part of the photograph; by the analysis, without the page."""
    model = load_model(MODEL)
    preprocessing = Preprocessing(model)
    geometry = preprocessing.geometry(photograph)
    point = tuple(p * size - 0.5 for p, size in zip(part, photograph.size, strict=True))
    record = record_sampling(model, preprocessing(photograph))
    target = input_point(photograph, geometry, point)
    locations = sampling_locations(record, target, record[layer].name, levels).moved(geometry.to_photograph)
    return locations.positions[locations.inside]


def kept_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_upload_click_result_and_picture(page, coffee, temporary):
    photograph = read_image(coffee)
    upload_and_wait(page, coffee)
    words = [
        f"{entry.words} {100 * entry.probability:.1f} %" for entry in classify(load_model(MODEL), photograph)
    ]
    rows = [" ".join(row.split()) for row in page.locator("#classes li").all_inner_texts()]
    assert rows == words and len(rows) == 5

    source = page.get_attribute("#stage img", "src").removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(source))) as shown:
        assert shown.size == photograph.size
        assert np.abs(np.asarray(shown).astype(int) - np.asarray(photograph)).mean() < 4

    click(page, 0.35, 0.71)
    expected = expected_samples(photograph, (0.35, 0.71), layer=8)
    wait_for_samples(page, expected)
    picture = page.locator("#stage .frame").screenshot()
    with Image.open(io.BytesIO(picture)) as image:
        scale = image.width / photograph.width
        pixels = [
            image.convert("RGB").getpixel(((x + 0.5) * scale, (y + 0.5) * scale))
            for x, y in expected.tolist()
        ]
    near = [max(abs(a - b) for a, b in zip(pixel, ORANGE, strict=True)) < 12 for pixel in pixels]
    assert sum(near) >= len(near) - 1  # one may lie under the cross
    assert kept_bytes(temporary) == 0


def test_layers_are_gone_through_by_slider_columns_and_depth(page, coffee):
    photograph = read_image(coffee)
    upload_and_wait(page, coffee)
    wait_for_caption(page, "Layer 9 of 12 layer4.0.conv1")
    page.locator("#layer input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    wait_for_caption(page, "Layer 8 of 12 layer3.1.conv2")
    wait_for_samples(page, expected_samples(photograph, (0.5, 0.5), layer=7))
    page.locator("#levels label").nth(1).click()
    wait_for_caption(page, "through layer3.1.conv1 reads 81 places")
    wait_for_samples(page, expected_samples(photograph, (0.5, 0.5), layer=7, levels=2))
    page.locator("#columns li").nth(4).click()
    wait_for_caption(page, "Layer 5 of 12 layer3.0.conv1")
    assert page.locator("#layer input[type=number]").input_value() == "5"
    assert page.locator("#columns li.selected").count() == 1


def test_what_is_said_of_a_layer_is_all_that_the_caption_says(page):
    """No words of the page's own progress get into it, which a screen reader would tell."""
    wait_for_caption(page, "Layer 9 of 12")
    page.evaluate(
        """() => {
            const caption = document.querySelector("#caption");
            window.said = [];
            new MutationObserver(() => window.said.push(caption.innerText.trim())).observe(
                caption, { subtree: true, childList: true, characterData: true });
        }"""
    )
    page.locator("#columns li").nth(4).click()
    wait_for_caption(page, "Layer 5 of 12")
    click(page, 0.35, 0.71)
    wait_for_samples(page, expected_samples(read_image(EXAMPLE), (0.35, 0.71), layer=4))
    said = page.evaluate("window.said")
    assert said and all(words.startswith("Layer ") for words in said)


def test_other_views_of_the_same_unit(page):
    wait_for_caption(page, "Layer 9 of 12")
    for number, words, shape in (
        (1, "The larger a disc, the more", "g circle"),
        (2, "The brighter a pixel, the more", "image"),
        (3, "of what the network sees give the unit nearly the same response", "image"),
    ):
        page.locator("#view label").nth(number).click()
        wait_for_caption(page, words)
        page.wait_for_selector(f"#stage .frame svg {shape}", state="attached")
    click(page, 0.4, 0.4)
    page.locator("#view label").nth(0).click()
    wait_for_caption(page, "reads its input at 9 places")
    assert page.locator("#stage .frame svg image").count() == 0


def test_the_arrow_keys_move_the_point(page, coffee):
    photograph = read_image(coffee)
    upload_and_wait(page, coffee)
    wait_for_samples(page, expected_samples(photograph, (0.5, 0.5), layer=8))
    page.locator("#stage [tabindex]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    wait_for_samples(page, expected_samples(photograph, (0.56, 0.48), layer=8))


def test_a_photograph_can_be_dropped_on_the_picture(page, coffee):
    shown = page.get_attribute("#stage img", "src")
    content = base64.b64encode(coffee.read_bytes()).decode()
    page.evaluate(
        """async (content) => {
            const bytes = await (await fetch("data:image/png;base64," + content)).arrayBuffer();
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "coffee.png", { type: "image/png" }));
            document.querySelector("#stage .frame").dispatchEvent(
                new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        content,
    )
    page.wait_for_function("shown => document.querySelector('#stage img').src !== shown", arg=shown)
    assert page.locator("#classes li").first.inner_text().startswith("drumstick")


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("words.jpg", "This file is no image that this page can read; please choose a JPEG, PNG, "),
        ("words.txt", "This file is no image that this page can read; please choose a JPEG, PNG, "),
        ("large.png", "This image has more than 40 megapixels; please choose a smaller one."),
        ("heavy.jpg", "This file has more than 20 MB; please choose a smaller one."),
    ],
)
def test_a_refusal_is_a_sentence_and_the_page_goes_on(page, coffee, temporary, tmp_path, name, sentence):
    path = tmp_path / name
    if name == "large.png":
        Image.new("1", (8000, 5001)).save(path)
    else:
        path.write_bytes(b"no image" if name != "heavy.jpg" else bytes(20_000_001))
    upload(page, path)
    page.wait_for_selector(f"#notice >> text={sentence}")
    assert page.locator("#notice p").count() == 1 and page.locator(".toast-wrap div").count() == 0
    assert kept_bytes(temporary) == 0
    upload_and_wait(page, coffee)
    assert page.locator("#classes li").first.inner_text().startswith("drumstick")
    assert page.locator("#notice p").count() == 0


def test_who_sends_a_large_file_past_the_page_is_refused_too(address, temporary):
    boundary = "9c1f"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    body = head.encode() + bytes(20_000_001) + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"{address}/gradio_api/upload", body, headers)
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request)
    assert refusal.value.code == 413 and kept_bytes(temporary) == 0


@pytest.fixture
def tries(page) -> list[str]:
    """What the page was sent that names the model which cannot be had."""
    sent = []

    def note(request) -> None:
        if "dcnv2_resnet50" in (request.post_data or ""):
            sent.append(request.url)

    page.on("request", note)
    return sent


def test_a_model_that_cannot_be_had_is_named_and_the_last_one_stays(page, tries):
    page.locator("#model input").click()
    page.get_by_role("option", name="dcnv2_resnet50").click()
    page.wait_for_selector("#notice >> text=The weights of model 'dcnv2_resnet50' could not be loaded")
    page.wait_for_function("document.querySelector('#model input').value.startsWith('dcnv2_resnet18')")
    click(page, 0.4, 0.4)
    page.wait_for_selector("#notice p", state="detached")
    wait_for_caption(page, "Layer 9 of 12")
    assert len(tries) == 1


def test_a_model_can_be_chosen_by_keyboard(page, tries):
    page.locator("#model input").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("dcnv2_resnet50")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice >> text=The weights of model 'dcnv2_resnet50' could not be loaded")
    page.wait_for_function("document.querySelector('#model input').value.startsWith('dcnv2_resnet18')")
    assert len(tries) == 1


def test_a_click_where_the_network_sees_nothing_says_so(page):
    before = samples(page)
    click(page, 0.02, 0.5)
    page.wait_for_selector("#notice >> text=The network does not see this part of the picture")
    assert torch.equal(samples(page), before)


def test_two_visitors_do_not_see_each_others_photographs(open_page, coffee):
    one, other = open_page(), open_page()
    upload_and_wait(one, coffee)
    other.locator("#columns li").nth(11).click()
    wait_for_caption(other, "Layer 12 of 12")
    assert other.locator("#classes li").first.inner_text().startswith("Egyptian cat")
    wait_for_caption(one, "Layer 9 of 12")


def luminance(page) -> float:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765


def test_light_and_dark(open_page):
    page = open_page(color_scheme="dark")
    assert luminance(page) < 0.2
    page.locator("#theme").click()
    page.wait_for_function("!document.body.classList.contains('dark')")
    assert luminance(page) > 0.8
    assert luminance(open_page(color_scheme="light")) > 0.8


def test_what_happens_on_the_page_is_no_public_interface(address):
    with urllib.request.urlopen(f"{address}/gradio_api/info") as answer:
        assert json.load(answer)["named_endpoints"] == {}


def test_a_screenshot(page, tmp_path):
    """The one in the docs is made anew by ``DCN_SCREENSHOT=docs/space.jpg``."""
    path = Path(os.environ.get("DCN_SCREENSHOT", tmp_path / "space.jpg"))
    page.mouse.move(0, 0)
    page.screenshot(path=path, full_page=True, type="jpeg", quality=88)
    with Image.open(path) as picture:
        assert picture.width == 1280 and picture.height >= 900
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 5000
