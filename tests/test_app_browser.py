"""The local web page in a browser: a pair dropped, fitted, stopped, exported; presets heard while sliders move."""

import asyncio
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn
from takes import SR, take, write_pair

from reknob.app.server import Page, build_app
from reknob.data.audio import write_audio
from scripts.app import listening

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext
    from playwright.sync_api import Page as Tab

S = 1000  # ms
#: Counts the sounds that have been started and not stopped.
COUNT = """window.sounding = 0;
for (const [kind, name, step] of [[AudioBufferSourceNode, "start", 1], [AudioScheduledSourceNode, "stop", -1]]) {
  const own = kind.prototype[name];
  kind.prototype[name] = function (...given) { sounding += step; return own.apply(this, given); };
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own at a free port."""
    page, listener = Page(tmp_path_factory.mktemp("app"), ["presets/own"]), listening(0)
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(build_app(page, port), log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    page.warm_up()
    yield f"http://127.0.0.1:{port}/?token={page.token}"
    server.should_exit = True
    thread.join(10)
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: "Browser", address: str) -> Iterator["Tab"]:
    """The page in a tab; it must log no error, and ask no other server for anything."""
    context: BrowserContext = browser.new_context(accept_downloads=True)
    context.add_init_script(COUNT)
    tab, wrong, site = context.new_page(), [], address.partition("?")[0]
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda one: None if one.url.startswith((site, "blob:")) else wrong.append(one.url))
    tab.goto(address)
    tab.wait_for_selector("body[data-ready]")
    yield tab
    context.close()
    assert wrong == []


def saved(tab: "Tab", button: str) -> str:
    """The text of the file that a button saves."""
    with tab.expect_download() as download:
        tab.locator("button:visible", has_text=re.compile(f"^{re.escape(button)}$")).first.click()
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_a_pair_is_dropped_checked_fitted_stopped_heard_and_exported(tab: "Tab", tmp_path: Path) -> None:
    write_pair(tmp_path)
    tab.set_input_files("#drop-dry input", tmp_path / "take.wav")
    tab.set_input_files("#drop-wet input", tmp_path / "song.wav")
    sync_api.expect(tab.locator("#check")).to_contain_text("lag ", timeout=20 * S)
    tab.select_option("#fit-model", "eq_comp")
    tab.select_option("#fit-steps", "400")
    tab.uncheck("#fit-start")
    tab.click("#fit-form [type=submit]")
    job = tab.locator("#fit-job")
    sync_api.expect(job.locator(".curves .card")).to_have_count(3, timeout=60 * S)  # loss, equaliser, compressor
    line = job.locator("[data-figure=Loss] .chart path")
    sync_api.expect(line).not_to_have_attribute("d", line.get_attribute("d") or "", timeout=20 * S)
    job.get_by_text("Hear the newest state").click()
    sync_api.expect(job).to_contain_text(re.compile("The best of [0-9]+ steps"), timeout=20 * S)
    sync_api.expect(job.locator(".player button").first).to_contain_text("Pause")
    job.get_by_role("button", name="Dry").click()
    sync_api.expect(job.get_by_role("button", name="Dry")).to_have_attribute("aria-pressed", "true")
    job.get_by_text("Stop, keep the best").click()
    sync_api.expect(job.locator(".chip").first).to_have_text("stopped", timeout=30 * S)
    assert '"comp.makeup"' in saved(tab, "Preset document")
    assert tab.evaluate("sounding") > 0
    job.locator(".player button").first.click()
    assert tab.evaluate("sounding") == 0
    job.get_by_text("Hear and change it live").click()
    sync_api.expect(tab.locator("#preset-name")).to_have_text("song")
    sync_api.expect(tab.locator("#preset-curves .card")).to_have_count(2)


def test_presets_are_chosen_morphed_heard_and_exported(tab: "Tab") -> None:
    tab.click("text=Presets")
    sync_api.expect(tab.locator("#preset-curves .card")).to_have_count(4, timeout=10 * S)
    tab.locator("#table tbody tr").nth(7).click()
    sync_api.expect(tab.locator("#map .point.near")).to_have_count(6)
    name = tab.locator("#table tbody tr").nth(7).locator("td").nth(1).text_content()
    sync_api.expect(tab.locator("#preset-name")).to_have_text(name or "")
    tab.click("#play")
    sync_api.expect(tab.locator("#health")).to_contain_text("first sound after", timeout=30 * S)
    makeup = tab.get_by_label("comp.makeup, exactly")
    before = makeup.input_value()
    tab.locator("#moves select").select_option("3")
    tab.get_by_label("Morph, exactly").fill("1")
    tab.get_by_label("Morph, exactly").press("Tab")
    sync_api.expect(makeup).not_to_have_value(before)
    before = makeup.input_value()
    component = tab.get_by_label(re.compile(r"^1 \([0-9]+ %\), exactly"))
    component.fill("1.5")
    component.press("Tab")
    sync_api.expect(makeup).not_to_have_value(before)
    makeup.fill("6")
    makeup.press("Tab")
    sync_api.expect(tab.locator("#health")).to_contain_text("changes heard after", timeout=30 * S)
    tab.get_by_role("button", name="Dry", exact=True).click()
    tab.click("#play")
    document = saved(tab, "Preset document")
    assert '"comp.makeup": {"value": 6.0, "unit": "dB"}' in document
    assert "morph 1 to row 3, component 1 +1.5, comp.makeup=6" in document
    tab.select_option("#export-to", "csv")
    assert "comp.makeup" in saved(tab, "Export")


def test_a_record_is_dropped_estimated_heard_and_taken_along(tab: "Tab", tmp_path: Path) -> None:
    write_audio(tmp_path / "record.wav", take(12.0), SR)
    tab.click("text=Estimate")
    tab.select_option("#estimate-chain", "dist")
    tab.set_input_files("#drop-recording input", tmp_path / "record.wav")
    job = tab.locator("#estimate-job")
    sync_api.expect(job.locator("h2")).to_have_text("record (dist)", timeout=30 * S)
    sync_api.expect(job).to_contain_text("From 1 window of 10 s; intervals of 68 %")
    job.get_by_text("Play").click()
    sync_api.expect(job.get_by_text("Pause")).to_be_visible(timeout=20 * S)
    assert tab.evaluate("sounding") > 0
    assert '"licence": "Numbers estimated' in saved(tab, "Preset document")
    job.get_by_text("Change and export it").click()
    sync_api.expect(tab.locator("#preset-name")).to_have_text("record (dist)")


def test_a_mistake_is_told_on_a_phone_in_the_dark(browser: "Browser", address: str, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", is_mobile=True)
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_selector("body[data-ready]")
    (tmp_path / "no_audio.wav").write_bytes(b"RIFF" + bytes(100))
    tab.set_input_files("#drop-dry input", tmp_path / "no_audio.wav")
    sync_api.expect(tab.locator("#toasts")).to_contain_text("no_audio.wav")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
