"""The report in a browser: no request, no error, sizes and colours, the player measured on its audio graph."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from takes import SR, take

from reknob.data.audio import write_audio
from reknob.data.excerpts import Excerpts, excerpt_loader
from reknob.data.recordings import find_recordings
from reknob.estimation.estimator import Estimator
from reknob.estimation.scoring import score
from reknob.report import page as page_folder
from reknob.report.results import write_heard
from scripts import estimate

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
PLAYER = Path(page_folder.__file__).with_name("player.js")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="without Chromium")

SIZES = {
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
#: The elements whose text has less contrast with its background than 4.5 (WCAG 2.1, 1.4.3), disabled ones left out.
CONTRAST = """() => {
  const rgb = (text) => { const m = text.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && !e.closest(":disabled, svg") &&
    [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).map((e) => {
      const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.className + ": " + e.textContent.slice(0, 40)];
    }).filter(([ratio]) => ratio < 4.5);
}"""
#: Controls and pictures without a name.
NAMELESS = """() => [...document.querySelectorAll("button, input, select, a, [role=img], [role=slider], [role=region]")]
  .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.closest("label")?.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 80))"""
#: Two recordings of one sound, the second with opposite sign; what of one that switches is left, and of their sum.
SWITCHED = """async () => {
  const rate = 48000, tone = new Float32Array(rate).map((_, i) => Math.sin(i / 7) * (1 + Math.sin(i / 5000)) / 2);
  const run = async (sign, act) => {
    const context = new OfflineAudioContext(1, 2.5 * rate, rate);
    const player = new Player(context, [{ key: "a", gain: 1, own: 1 }, { key: "b", gain: 1, own: 1 }], 1);
    for (const [key, s] of [["a", 1], ["b", sign]]) {
      const buffer = context.createBuffer(1, rate, rate);
      buffer.copyToChannel(tone.map((v) => s * v), 0);
      player.add(key, buffer);
    }
    player.play(0.25, 0);
    act(player);
    return (await context.startRendering()).getChannelData(0);
  };
  const most = (y) => y.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const still = await run(1, () => {}), switched = await run(1, (p) => { p.select("b", 0.5); p.select("a", 1.3); });
  const summed = await run(-1, (p) => p.tracks.get("b").node.gain.value = 1);
  const looped = await run(-1, (p) => { p.loop([0.2, 0.31]); p.tracks.get("b").node.gain.value = 1; });
  return { loud: most(still), gap: most(still.map((v, i) => v - switched[i])), step: most(summed), loop: most(looped) };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield launched
        launched.close()


def opened(browser: object, file: Path, size: str = "") -> tuple[object, list[str]]:
    """A page in the browser, and a list that grows by its errors and requests."""
    told: list[str] = []
    # The policy of the page forbids eval, by which playwright waits for a condition: only sizes are tested under it.
    page = browser.new_context(**SIZES.get(size, {}), bypass_csp=not size).new_page()
    page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: told.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(file.as_uri())
    return page, told


@pytest.fixture(scope="module")
def estimated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page of an estimate, estimate.html, and examples of results, results.html."""
    folder = tmp_path_factory.mktemp("estimated")
    write_audio(folder / "song.wav", take(2.0), SR)
    argv = [str(folder / "song.wav"), "--report", str(folder / "estimate.html")]
    assert estimate.main(argv) == 0
    estimator = Estimator(sfx="peq_dist", afx="peq_dist", encoder="percentiles").eval()
    recordings = find_recordings("folder", folder, "train", 1.0).recordings
    excerpts = Excerpts([recordings], 18, 3, 0, seconds=1.0)
    write_heard(folder / "results.md", estimator, score(estimator, excerpt_loader(excerpts, 3)), excerpts, ["song"])
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_pages_load_nothing_fit_and_can_be_read(browser: object, reported: Path, estimated: Path, size: str) -> None:
    pages = (reported / "song" / "run_0" / "report.html", reported / "index.html", *estimated.glob("*.html"))
    assert len(pages) == 4
    for file in pages:
        page, told = opened(browser, file, size)
        assert told == [file.as_uri()]
        # Not innerWidth, which grows with a page that is too wide for a phone.
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["viewport"]["width"]
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate(NAMELESS) == []
        page.context.close()


def test_a_switch_leaves_no_gap_and_tracks_run_in_step(browser: object) -> None:
    page = browser.new_page()
    page.add_script_tag(content=PLAYER.read_text(encoding="utf-8"))
    measured = page.evaluate(SWITCHED)
    assert measured["loud"] > 0.9
    assert measured["gap"] < 1e-6
    assert measured["step"] == 0 and measured["loop"] == 0
    page.close()


def test_the_player_plays_switches_loops_and_asks_blindly(browser: object, reported: Path) -> None:
    page, told = opened(browser, reported / "song" / "run_0" / "report.html")
    page.click("#play")
    page.wait_for_function("window.player && player.playing && player.complete && player.position() > 0")
    assert page.evaluate("new Set([...player.tracks.values()].map((t) => t.buffer.length)).size") == 1
    page.keyboard.press("3")
    assert page.evaluate("player.selected") == "wet"
    page.click("button[data-track='off:comp.compressor']")
    levels = "Object.fromEntries([...player.tracks.values()].filter((t) => t.level).map((t) => [t.key, t.level]))"
    assert list(page.evaluate(levels)) == ["off:comp.compressor"]
    page.uncheck("#match")
    assert page.evaluate("player.tracks.get(player.selected).level === player.tracks.get(player.selected).own")
    box = page.locator(".wave").bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20, steps=4)
    page.mouse.up()
    seconds = page.evaluate("player.seconds")
    page.wait_for_function("player.region")
    assert page.evaluate("player.region") == pytest.approx([0.25 * seconds, 0.5 * seconds], abs=0.02)
    page.keyboard.press("Escape")
    page.wait_for_function("!player.region")

    page.click("details.blind summary")
    page.evaluate("() => { crypto.getRandomValues = (array) => array.fill(1); }")  # X is A
    page.click("#blind-start")
    page.wait_for_selector("[data-answer=A]:enabled")
    assert page.locator("[aria-pressed=true]").all_inner_texts() == ["Hear X"]
    assert page.evaluate("player.selected") == "fitted"
    for answer in "AAB":
        page.click(f"[data-answer={answer}]")
    assert "2 of 3 right; guessing does as well in 50 % of tests" in page.inner_text(".blind output")
    run = reported / "song" / "run_0"
    with page.expect_download() as download:
        page.click("#save")
    assert Path(download.value.path()).read_bytes() == (run / "preset.json").read_bytes()
    assert [page.get_attribute(f"a >> text=/^{name}$/", "href") for name in ("dry", "wet")] == ["dry.flac", "wet.flac"]
    assert len(told) == 1


def test_examples_play_one_at_a_time(browser: object, estimated: Path) -> None:
    page, told = opened(browser, estimated / "results.html")
    assert page.locator("#examples .card h3 >> text=/^Gains/").count() == 2
    page.locator("button >> text=Listen").first.click()
    page.wait_for_function("open?.playing && open.position() > 0")
    page.evaluate("window.first = open")
    page.locator("[data-sound=wet]").first.click()
    assert page.evaluate("[open.selected, [...open.tracks.values()].filter((t) => t.level).length]") == ["wet", 1]
    page.locator("button >> text=Listen").first.click()  # of the next one, as the first now has other buttons
    page.wait_for_function("open !== first && open.playing && !first.playing")
    assert told == [(estimated / "results.html").as_uri()]


def test_the_table_of_songs_sorts_filters_and_plays(browser: object, reported: Path) -> None:
    page, told = opened(browser, reported / "index.html")
    page.click("button.sort >> text=song")
    assert page.get_attribute("th[aria-sort]", "aria-sort") == "ascending"
    page.click("button.sort >> text=song")
    assert page.get_attribute("th[aria-sort]", "aria-sort") == "descending"
    page.fill("#filter", "nothing")
    assert page.inner_text("#count") == "0 of 1 song"
    page.fill("#filter", "")
    page.click("td button >> text=Listen")
    page.click(".player-row .primary")
    page.wait_for_function("open.player.playing && open.player.position() > 0")
    page.click("[data-sound=wet]")
    heard = "[...open.player.tracks.values()].filter((track) => track.buffer && track.level).map((track) => track.key)"
    assert page.evaluate(heard) == ["wet"]
    page.evaluate("close(); data.songs[0].report = ''; listen(data.songs[0], document.querySelector('td button'))")
    assert page.locator(".player-row audio").count() == 3
    assert "is silent" in page.inner_text("#failures")
    assert not [line for line in told if "rror" in line]
    page.click("th[scope=row] a")
    assert page.inner_text("h1") == "song"
