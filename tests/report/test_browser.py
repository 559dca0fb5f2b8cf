"""The pages in a real browser: drawn without a complaint, clicked, hovered and walked by keys."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from centerarc.curate import inspect_source
from centerarc.data import FolderSource
from centerarc.evaluation import (
    evaluate_verification,
    held_out_fars,
    make_pairs,
    measure_separability,
    pair_scores,
)
from centerarc.report import FaceSample, ReportData, write_report
from centerarc.report.dataset_pages import write_inspect_page
from centerarc.report.study_page import write_study_page
from tests.curate.pictures import save, scene
from tests.report.studies import drawn_study

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("plotly")
BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 180_000  # milliseconds: a busy machine takes its time to read a page of 5 MB
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine"),
]


@pytest.fixture(scope="module")
def data() -> ReportData:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 5)
    people = rng.normal(size=(12, 16))
    embeddings = (people[labels] + 0.7 * rng.normal(size=(60, 16))).astype(np.float32)
    colors = rng.integers(0, 256, size=(12, 1, 1, 3), dtype=np.uint8)
    images = [np.broadcast_to(colors[label], (16, 16, 3)).copy() for label in labels]
    pairs = make_pairs(labels, 200, folds=2)
    scores = pair_scores(embeddings, pairs.index_a, pairs.index_b)
    who = (labels[pairs.index_a], labels[pairs.index_b])
    names = [f"Person_{label}" for label in range(12)]
    return ReportData(
        title="In a browser",
        verification=evaluate_verification(scores, pairs.same, pairs.fold, who),
        scores=scores,
        same=pairs.same,
        dataset="drawn pairs",
        pair_names=[(names[a], names[b]) for a, b in zip(*who, strict=True)],
        pair_images=lambda i: (images[pairs.index_a[i]], images[pairs.index_b[i]]),
        faces=FaceSample(images, labels, names, embeddings),
        command="centerarc evaluate a-run --pairs pairs.txt " + "--very-long-flag " * 20,
        held_out=held_out_fars(scores, pairs.same, pairs.fold, [0.1], who),
        separability=measure_separability(embeddings, labels),
    )


@pytest.fixture(scope="module")
def file(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("browser") / "page.html"
    write_report(path, data)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as tool:
        # A container's root may not make the sandbox; the page is our own.
        chromium = tool.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def shown(browser: Any, path: Path, width: int, complaints: list[str], **options: Any) -> Any:
    """Opens a page in a window of its own and adds what it complains of or asks for."""
    window = browser.new_context(viewport={"width": width, "height": 900}, **options)
    window.set_default_timeout(PATIENCE)
    page = window.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            asked.url.startswith(("file:", "data:", "blob:"))
            or complaints.append(f"asked for {asked.url}")
        ),
    )
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelectorAll('.main-svg').length > 0")
    return page


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Any]:
    """Opens the page in a window; whatever it complains of or asks for fails the test."""
    complaints: list[str] = []
    pages = []

    def at(width: int = 1280, path: Path = file, **options: Any) -> Any:
        pages.append(shown(browser, path, width, complaints, **options))
        return pages[-1]

    yield at
    for page in pages:
        page.context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def page(browser: Any, file: Path) -> Iterator[Any]:
    """The page for tests that leave it as it was; a processor draws it for 3 seconds."""
    complaints: list[str] = []
    page = shown(browser, file, 1280, complaints)
    yield page
    page.context.close()
    assert complaints == []


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_nothing_is_wider_than_the_window(opened: Any, width: int) -> None:
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plots = page.locator(".plot").all()
    assert page.locator(".plot .main-svg").count() >= len(plots)
    for plot in plots:
        box = plot.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_charts_follow_the_readers_theme(opened: Any, scheme: str) -> None:
    page = opened(color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = np.mean([int(part) for part in paper.strip("rgb()").split(",")])
    assert (brightness > 200) == (scheme == "light")
    accent = page.evaluate(
        "getComputedStyle(document.documentElement).getPropertyValue('--accent')"
    )
    line = page.evaluate("document.querySelector('[data-chart=roc]').data[0].line.color")
    assert line == accent.strip()
    assert page.screenshot(full_page=True)[:4] == b"\x89PNG"


def test_the_threshold_moves_by_mouse_and_by_key(page: Any, data: ReportData) -> None:
    says = page.locator("#threshold-says")
    report = data.verification
    assert report is not None
    before = says.inner_text()
    assert f"From {report.threshold:.3f} upwards" in before
    page.get_by_role("button", name="FAR 10").click()
    threshold = report.calibrated[0.1].threshold
    assert threshold is not None
    assert f"From {threshold:.3f} upwards" in says.inner_text()
    annotation = "document.querySelector('[data-chart=scores]').layout.annotations[0].text"
    assert page.evaluate(annotation) == f"threshold {threshold:.3f}"
    # The point of the threshold moves along both curves.
    points = page.evaluate(MARKED)
    accepted = data.scores >= threshold
    far, tar = accepted[~data.same].mean(), accepted[data.same].mean()
    assert points["roc"] == pytest.approx([100 * far, 100 * tar], rel=1e-3)
    frr = max(1 - tar, 0.5 / report.num_genuine)  # none is drawn at the edge
    assert points["det"] == pytest.approx([100 * far, 100 * frr], rel=1e-3)
    page.locator("#threshold-step").focus()
    page.keyboard.press("End")
    text = says.inner_text().replace("\xa0", " ")
    assert "upwards 0% of the pairs of one person are accepted and 0%" in text
    # At its end the line is still in the picture, and no cosine is beyond 1.
    line, (low, high) = page.evaluate(
        "[document.querySelector('[data-chart=scores]').layout.shapes[0].x0,"
        " document.querySelector('[data-chart=scores]')._fullLayout.xaxis.range]"
    )
    assert low < line <= high <= 1
    page.get_by_role("button", name="mean of the folds").click()
    assert says.inner_text() == before


MARKED = """Object.fromEntries(["roc", "det"].map((key) => {
  const {x, y} = document.querySelector(`[data-chart=${key}]`).data.find((t) => t.meta?.threshold);
  return [key, [x[0], y[0]]];
}))"""


@pytest.mark.parametrize("width", [1280, 390])
def test_the_sliders_thumb_stands_under_the_threshold(opened: Any, width: int) -> None:
    page = opened(width)
    slider = page.locator("#threshold-step")
    slider.focus()
    for share in (0.0, 0.3, 1.0):
        slider.evaluate(
            "(slider, share) => { slider.value = Math.round(share * slider.max);"
            " slider.dispatchEvent(new Event('input')); }",
            share,
        )
        thumb, line = page.evaluate(
            """() => {
              const slider = document.getElementById("threshold-step");
              const box = slider.getBoundingClientRect();
              const plot = document.querySelector("[data-chart=scores]");
              const layout = plot._fullLayout;
              const at = plot.getBoundingClientRect().left + layout._size.l;
              return [box.left + 10 + (box.width - 20) * slider.value / slider.max,
                      at + layout.xaxis.d2p(plot.layout.shapes[0].x0)];
            }"""
        )
        assert thumb == pytest.approx(line, abs=1.5)


def test_keys_tell_of_a_chart_what_pointing_does(page: Any, data: ReportData) -> None:
    chart, told = page.locator("[data-chart=roc]"), page.locator("#roc-readout")
    page.locator("#threshold-step").focus()
    while page.evaluate("document.activeElement.dataset.chart") != "roc":
        page.keyboard.press("Tab")
    assert "Arrow keys" in told.inner_text()
    page.keyboard.press("End")
    page.wait_for_timeout(150)
    assert told.inner_text().replace("\xa0", " ") == "FAR 100%, TAR 100.00%"
    page.keyboard.press("ArrowDown")  # the reported rates, from the nearest to the end
    page.wait_for_timeout(150)
    assert data.verification is not None
    tar = data.verification.tar_at_far[0.1].value
    assert tar is not None
    expected = f"TAR {100 * tar:.2f}% at FAR 10%"
    assert told.inner_text().replace("\xa0", " ") == expected
    assert chart.locator(".hovertext").is_visible()
    page.keyboard.press("Tab")
    assert told.inner_text() == ""


def test_a_tap_on_a_curve_is_told_below_it(opened: Any) -> None:
    """A label at the finger would cover the axis' title."""
    page = opened(390, has_touch=True, is_mobile=True)
    page.locator("[data-chart=roc]").scroll_into_view_if_needed()
    spot = page.evaluate(
        """() => {
          const plot = document.querySelector("[data-chart=roc]");
          const [box, layout] = [plot.getBoundingClientRect(), plot._fullLayout];
          const {x, y} = plot.data[1];
          return [box.left + layout._size.l + layout.xaxis.d2p(x[0]),
                  box.top + layout._size.t + layout.yaxis.d2p(y[0])];
        }"""
    )
    page.touchscreen.tap(*spot)
    page.wait_for_timeout(200)
    assert "TAR" in page.locator("#roc-readout").inner_text()
    label = page.locator("[data-chart=roc] .hovertext").first
    assert label.evaluate("label => getComputedStyle(label).opacity") == "0"


def test_only_what_scrolls_or_can_be_used_is_a_stop(opened: Any) -> None:
    stops = """[...document.querySelectorAll('[tabindex="0"]')].filter((box) =>
      !box.matches(".plot") && box.scrollWidth <= box.clientWidth + 1).length"""
    page = opened()
    page.wait_for_timeout(200)
    assert page.evaluate(stops) == 0
    # A page that is narrower than its table has one.
    page.set_viewport_size({"width": 720, "height": 900})
    page.evaluate("document.querySelector('.table').style.maxWidth = '300px'")
    page.wait_for_timeout(200)
    assert page.evaluate("document.querySelector('.table').tabIndex") == 0
    assert page.evaluate(stops) == 0


def where(page: Any, trace: int, point: int) -> tuple[float, float]:
    """Where a point of the map is in the window."""
    page.locator('[data-chart="map"]').scroll_into_view_if_needed()
    x, y = page.evaluate(
        """([trace, point]) => {
          const map = document.querySelector('[data-chart="map"]');
          const [box, layout] = [map.getBoundingClientRect(), map._fullLayout];
          const data = map.data[trace];
          return [box.left + layout._size.l + layout.xaxis.d2p(data.x[point]),
                  box.top + layout._size.t + layout.yaxis.d2p(data.y[point])];
        }""",
        [trace, point],
    )
    return float(x), float(y)


def test_pointing_at_a_face_shows_it(page: Any) -> None:
    x, y = where(page, 3, 2)
    page.mouse.move(x - 40, y - 40)
    page.mouse.move(x, y)
    page.locator("#tip").wait_for(state="visible")
    name = page.locator("#tip span").inner_text()
    assert name.startswith("Person ")
    assert page.locator("#tip img").evaluate("image => image.naturalWidth") > 0
    page.mouse.move(5, 5)
    page.locator("#tip").wait_for(state="hidden")


def test_a_tap_shows_a_face_on_a_phone(opened: Any) -> None:
    page = opened(390, has_touch=True, is_mobile=True)
    page.touchscreen.tap(*where(page, 0, 0))
    page.locator("#tip").wait_for(state="visible")
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


SPAN = "document.querySelector('[data-chart=map]')._fullLayout.xaxis.range"


def test_the_map_is_walked_and_zoomed_by_keys(opened: Any) -> None:
    page = opened()
    chart = page.locator('[data-chart="map"]')
    chart.focus()
    seen = set()
    for _ in range(60):
        page.keyboard.press("ArrowRight")
        seen.add(page.locator("#map-live").inner_text())
    assert seen == {f"Person {label}" for label in range(12)}
    assert page.locator("#tip").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    whole = page.evaluate(SPAN)
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.wait_for_timeout(100)
    low, high = page.evaluate(SPAN)
    assert high - low == pytest.approx(0.36 * (whole[1] - whole[0]), rel=1e-3)
    # A face that is out of sight is brought into it.
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(5)
    page.wait_for_timeout(200)
    chart_box, tip_box = chart.bounding_box(), page.locator("#tip").bounding_box()
    assert tip_box["x"] < chart_box["x"] + chart_box["width"]
    page.locator("#map-reset").click()
    page.wait_for_timeout(100)
    assert page.evaluate(SPAN) == pytest.approx(whole)


def test_the_chosen_face_is_ringed_and_stays_in_view(opened: Any) -> None:
    page = opened()
    chart = page.locator("[data-chart=map]")
    chart.focus()
    ring = """(() => {
      const map = document.querySelector("[data-chart=map]");
      const {x, y} = map.data.at(-1);
      const [a, b] = [map._fullLayout.xaxis, map._fullLayout.yaxis];
      return [x.length && x[0] === map.data[0].x[0] && y[0] === map.data[0].y[0],
              a.d2p(x[0]) / a._length, b.d2p(y[0]) / b._length];
    })()"""
    whole = page.evaluate(SPAN)
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(100)
    right, *before = page.evaluate(ring)
    assert right
    assert whole == page.evaluate(SPAN)
    for _ in range(5):
        page.locator("#map-in").click()
        page.wait_for_timeout(80)
    _, *after = page.evaluate(ring)
    assert after == pytest.approx(before, abs=0.01)
    assert page.locator("#tip").is_visible()
    chart.focus()
    page.keyboard.press("Escape")
    page.wait_for_timeout(80)
    assert not page.evaluate(ring)[0]


def test_everything_that_can_be_used_is_reached_by_tab(opened: Any) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#numbers"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        here, outline = page.evaluate(
            "[document.activeElement.id || document.activeElement.dataset.chart"
            " || document.activeElement.tagName,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.add(here)
        assert here == "BODY" or outline != "none", f"no focus to be seen on {here}"
    assert {"threshold-step", "map", "map-in", "map-out", "map-reset", "SUMMARY"} <= reached


def test_the_list_has_the_faces_of_the_map(page: Any) -> None:
    page.get_by_text("The same faces as a list").click()
    page.locator("#map-list img").first.wait_for()
    assert page.locator("#map-list img").count() == 60
    assert page.locator("#map-list .people > li").count() == 12
    # With the marker by which a person is found on the map.
    fills = page.evaluate(
        "[...document.querySelectorAll('.people svg path')].map((p) => getComputedStyle(p).fill)"
    )
    assert len(fills) == 12
    assert len(set(fills)) == 10  # so many hues; shapes tell the others apart
    drawn = page.evaluate(
        "[...document.querySelectorAll('.people svg path')].map((p) => p.getAttribute('d'))"
    )
    assert len(set(zip(fills, drawn, strict=True))) == 12


def test_every_picture_has_a_text_and_every_field_a_name(page: Any) -> None:
    assert page.locator("main img:not([alt])").count() == 0
    assert page.locator('main img[alt=""]').count() == 0
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, button')].filter((field) =>"
        " !field.labels?.length && !field.textContent && !field.ariaLabel).length"
    )
    assert unnamed == 0
    assert page.locator("h1").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_a_script_that_a_name_smuggles_in_does_not_run(browser: Any, file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    evil = file.with_name("evil.html")
    body = "<script>window.evil = 1</script><img src=x onerror='window.evil = 1'>"
    evil.write_text(text.replace("<main>", f"<main>{body}"), encoding="utf-8")
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(evil.as_uri())
    page.wait_for_function("document.querySelectorAll('.main-svg').length > 0")
    assert page.evaluate("window.evil") is None
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_an_inspection_is_drawn_and_walked_by_keys(
    opened: Any, tmp_path: Path, width: int
) -> None:
    for person in range(4):
        for number in range(1 + 2 * person):
            picture = scene(10 * person + number, 40 + 10 * person)
            save(tmp_path / "faces" / f"p{person}" / f"{number}.jpg", picture)
    source = FolderSource(tmp_path / "faces")
    path = tmp_path / "page.html"
    write_inspect_page(path, source, inspect_source(source, workers=0), name="drawn")
    page = opened(width, path)
    assert page.locator(".plot .main-svg").count() >= 4
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # The last bar of a chart whose axis has names.
    page.locator("[data-chart=sides]").focus()
    page.keyboard.press("End")
    page.wait_for_timeout(150)
    assert page.locator("#sides-readout").inner_text() == "40 x 40 : 1 images"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark"), (320, "light")])
def test_the_page_of_a_study_is_drawn_at_any_width(
    opened: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    path = tmp_path / "study.html"
    write_study_page(path, drawn_study())
    page = opened(width, path, color_scheme=scheme)
    assert page.locator(".plot .main-svg").count() >= 8
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("[data-chart=forest]").focus()
    page.keyboard.press("End")
    page.wait_for_timeout(150)
    assert "seed" in page.locator("#forest-readout").inner_text()
