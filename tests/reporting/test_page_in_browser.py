"""The page of a report in a real browser: Chromium, without a network. Each test fails at an error on the console."""

import shutil

import pytest

from conftest import run_command
from written_run import METRICS, finish, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]  # for root, and for containers with little shared memory
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'igpt[dev]'")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of one run and of a sweep of three."""
    folder = tmp_path_factory.mktemp("reports")
    finish(write_run(folder / "run", METRICS + "29,nan,1.5,,,,13\n", steps=(10, 20, 30)))
    for i, (lr, loss) in enumerate([(0.1, 2.875), (0.03, 11.5), (0.2, 2.75)]):
        write_run(folder / "sweep" / str(i), METRICS.replace("2.875", str(loss)), lr=lr, status="finished")
    finish(folder / "sweep" / "1")
    run_command("report", "run=run", cwd=folder)
    run_command("report", "run=sweep", cwd=folder)
    return {name: (folder / name / "report.html").as_uri() for name in ("run", "sweep")}


@pytest.fixture
def opened(browser, reports):
    """Open a report: opened("run"). At the end, nothing was requested but the file, and the console is empty."""
    contexts, problems = [], []

    def open_report(name, viewport=DESKTOP, **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url))
        page.goto(reports[name])
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert problems == []


def reading(page, title):
    return page.locator("figure.chart", has_text=title).first.locator(".reading")


def plot(page, title):
    return page.locator("figure.chart", has_text=title).first.locator(".plot")


def test_pointing_at_a_curve_shows_the_logged_values(opened):
    page = opened("run")
    box = plot(page, "nats_per_token").bounding_box()
    plot(page, "nats_per_token").hover(position={"x": box["width"] * 0.68, "y": 60})
    assert reading(page, "nats_per_token").inner_text().split() == ["step", "19", "train", "2.5", "val", "2.875"]
    page.mouse.move(5, 5)
    assert reading(page, "nats_per_token").is_hidden()


def test_arrow_keys_read_a_curve_also_values_that_are_not_finite(opened):
    page = opened("run")
    plot(page, "train/loss").focus()
    for key, words in (
        ("Home", "step 0 train/loss 4.5"),
        ("ArrowRight", "step 9 train/loss 3.5"),
        ("End", "step 29 train/loss not finite"),
        ("ArrowLeft", "step 19 train/loss 2.5"),
    ):
        page.keyboard.press(key)
        assert reading(page, "train/loss").inner_text().split() == words.split()
    page.keyboard.press("Escape")
    assert reading(page, "train/loss").is_hidden()


def test_probes_show_their_errors(opened):
    page = opened("run")
    plot(page, "test accuracy, %").focus()
    page.keyboard.press("End")
    words = " ".join(reading(page, "test accuracy, %").inner_text().split())
    assert words == "layer 1 trained 50.0 ± 2.0 pixels 37.5 ± 1.5 most frequent class 12.5"


def test_a_button_of_the_legend_hides_a_line(opened):
    page = opened("run")
    chart = page.locator("figure.chart", has_text="nats_per_token").first
    assert chart.locator("path").count() == 2
    chart.get_by_role("button", name="val").press("Space")
    assert chart.locator("path").count() == 1
    page.get_by_text("more curve").click()
    for other in page.locator("#curves figure.chart").all():
        assert other == chart or other.locator("path").count() >= 1


def test_one_legend_serves_all_charts_of_several_runs(opened):
    page = opened("sweep")
    lines = [chart.locator("path").count() for chart in page.locator("#curves > .charts figure").all()]
    assert set(lines) == {3}
    page.locator("#curves > .legend button").nth(1).click()
    assert {chart.locator("path").count() for chart in page.locator("#curves > .charts figure").all()} == {2}


def test_the_logarithmic_scale_changes_the_curve(opened):
    page = opened("run")
    chart = page.locator("figure.chart", has_text="nats_per_token").first
    before = chart.locator("path").first.get_attribute("d")
    chart.get_by_label("log scale").check()
    assert chart.locator("path").first.get_attribute("d") != before
    assert not page.locator("figure.chart", has_text="test accuracy, %").get_by_label("log scale").is_visible()


def visible(page):
    return page.locator("#training img:visible").evaluate_all("images => images.map(image => image.alt)")


def test_the_slider_changes_the_picture_by_keyboard_and_by_play(opened):
    page = opened("run")
    assert visible(page) == ["Samples, step 30"]
    source = page.locator("#training img:visible").get_attribute("src")
    page.get_by_role("slider").press("ArrowLeft")
    assert visible(page) == ["Samples, step 20"]
    assert page.locator("#training output").inner_text() == "step 20"
    assert page.locator("#training img:visible").get_attribute("src") != source
    page.get_by_role("slider").press("End")
    page.get_by_role("button", name="Play").click()  # from the beginning
    assert visible(page)[0] in ("Samples, step 10", "Samples, step 20")
    page.locator("img[alt='Samples, step 30']:visible").wait_for()


def test_a_slider_moves_the_pictures_of_all_runs(opened):
    page = opened("sweep")
    page.get_by_role("slider").press("Home")
    assert [alt.rpartition(", ")[2] for alt in visible(page)] == ["step 10"] * 3


def column(page, name):
    index = page.locator("#overview thead th").all_inner_texts().index(name)
    return [row.locator("th, td").nth(index).inner_text() for row in page.locator("#overview tbody tr").all()]


def test_the_table_of_runs_is_sorted_by_click_and_by_keyboard(opened):
    page = opened("sweep")
    name = "best val/nats_per_token"
    head = page.get_by_role("columnheader", name=name)
    assert column(page, name) == ["2.875", "3.75", "2.75"]
    head.get_by_role("button").click()
    assert column(page, name) == ["2.75", "2.875", "3.75"]
    assert head.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert column(page, name) == ["3.75", "2.875", "2.75"]
    page.get_by_role("columnheader", name="optim.lr").get_by_role("button").click()
    assert column(page, "optim.lr") == ["0.03", "0.1", "0.2"]
    page.get_by_role("columnheader", name="test/nats_per_token").get_by_role("button").press("Enter")
    assert column(page, "test/nats_per_token") == ["2.75", "", ""]  # runs without a value are last
    page.keyboard.press("Enter")
    assert column(page, "test/nats_per_token") == ["2.75", "", ""]


def keys(page):
    return page.locator("#configuration tbody tr:visible th").all_inner_texts()


def test_the_configuration_shows_differences_or_all_and_can_be_searched(opened):
    page = opened("sweep")
    part = page.locator("#configuration")
    assert keys(page) == ["optim.lr"]
    assert part.locator("tbody tr:visible td").all_inner_texts() == ["0.1", "0.03", "0.2"]
    part.get_by_label("only differences").uncheck()
    assert len(keys(page)) == 6
    part.get_by_role("searchbox").fill("MAX_steps")
    assert keys(page) == ["optim.total_steps", "trainer.max_steps"]
    assert part.get_by_role("status").inner_text() == "2 of 6"


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_colors_follow_the_system_until_a_button_chooses(opened):
    dark, light = opened("run", color_scheme="dark"), opened("run", color_scheme="light")
    assert background(dark) != background(light)
    button = light.get_by_role("button", name="Colors")
    button.click()
    assert button.inner_text() == "Colors: light"
    light.emulate_media(color_scheme="dark")
    assert background(light) != background(dark)
    button.press("Enter")
    light.emulate_media(color_scheme="light")
    assert (button.inner_text(), background(light)) == ("Colors: dark", background(dark))
    light.reload()
    assert background(light) == background(dark)


@pytest.mark.parametrize("name", ["run", "sweep"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_screen(opened, name, viewport):
    page = opened(name, viewport)
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_everything_has_a_name_and_the_focus_is_visible(opened, name):
    page = opened(name)
    named = "node.ariaLabel || node.alt || node.labels?.length || node.textContent.trim()"
    nameless = f"nodes => nodes.filter(node => !({named})).map(node => node.outerHTML)"
    assert page.locator("button, input, img, summary, a, [tabindex]").evaluate_all(nameless) == []
    page.keyboard.press("Tab")
    for _ in range(12):
        shown = "document.activeElement.tagName + ' ' + getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(shown).split()[1] != "none"
        page.keyboard.press("Tab")


def test_pixels_are_enlarged_without_smoothing_but_plots_are_not(opened):
    page = opened("run")
    rendering = "image => getComputedStyle(image).imageRendering"
    assert page.locator("#training img:visible").evaluate(rendering) == "pixelated"
    assert page.get_by_alt_text("Palette").evaluate(rendering) == "pixelated"
    assert page.get_by_alt_text("Position loss").evaluate(rendering) == "auto"
