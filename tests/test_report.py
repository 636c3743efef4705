"""The report of a run and the page of a log folder: what they measure, that the files are complete."""

import base64
import io
import json
import math
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread
from takes import SR, mixed, take
from torch import Tensor

import main
from reknob.afx.effect import Effect, Knobs, flatten, nest
from reknob.afx.registry import build
from reknob.data.audio import loudness, write_audio
from reknob.formats.exporters.registry import EXPORTERS
from reknob.report.page import curves, write_report
from reknob.report.page.batch import newest_runs, write_batch
from reknob.report.page.encode import RATE, bitrate_for, opus
from reknob.report.page.files import fill
from reknob.report.page.measure import described
from reknob.report.page.published import percentile, published, quantiles
from reknob.report.page.source import open_run
from reknob.report.page.tracks import label_of, loudest_excerpt
from reknob.runtime.errors import UsageError
from scripts import report

TINY = ["model=null", "chain.peak.effect=peak", "chain.pan.effect=panning", "chunk_duration=1.2", "chunk_overlap=0.1"]
PUBLISHED = Path(__file__).parents[2] / "shared" / "presets"


class Elements(HTMLParser):
    """The elements of a document with their attributes, and the text of those with an id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._open] = self.texts.get(self._open, "") + data

    @property
    def data(self) -> dict:
        return json.loads(self.texts["data"])


@pytest.fixture(scope="module")
def run(reported: Path) -> Path:
    """A run folder with a report."""
    return reported / "song" / "run_0"


@pytest.fixture(scope="module")
def page(run: Path) -> Elements:
    """Its report."""
    return Elements(run / "report.html")


def test_a_report_is_one_file_that_names_no_other(page: Elements) -> None:
    for tag, attributes in page.found:
        for name in ("src", "href", "action", "data"):
            address = attributes.get(name) or ""
            assert address.startswith(("#", "data:")) or not address, f"<{tag} {name}={address}>"
    policy = next(a["content"] for tag, a in page.found if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", page.texts[""])


def test_a_report_holds_dry_fitted_wet_and_each_effect_switched_off(page: Elements) -> None:
    keys = [track["key"] for track in page.data["tracks"]]
    assert keys[:4] == ["dry", "fitted", "wet", "off:equaliser"]
    assert {"off:peak1", "off:comp.compressor", "off:comp.expander", "off:sends.delay", "off:sends.reverb"} <= {*keys}
    decoded, levels = {}, []
    for track in page.data["tracks"]:
        audio, sr = soundfile.read(io.BytesIO(base64.b64decode(page.texts[f"audio-{track['key']}"])))
        decoded[track["key"]] = torch.from_numpy(audio.T) * track["gain"]
        assert (sr, audio.shape[1]) == (RATE, 2) and abs(len(audio) / RATE - 1.4) <= 0.03
        assert np.abs(audio * track["gain"]).max() < 1.1
        levels.append(loudness(decoded[track["key"]], RATE))
    assert max(levels) - min(levels) < 0.5
    # In step: fitted and dry are the same sound but for some effects.
    fitted, dry = (decoded[name].mean(0).numpy()[: 2 * RATE] for name in ("fitted", "dry"))
    lags = np.fft.irfft(np.fft.rfft(fitted, 4 * RATE) * np.conj(np.fft.rfft(dry, 4 * RATE)))
    assert abs((np.argmax(np.abs(lags)) + 2 * RATE) % (4 * RATE) - 2 * RATE) < 20


def test_a_report_says_what_the_run_says(page: Elements, run: Path) -> None:
    data, source = page.data, open_run(run, listen=False)
    losses = json.loads((run / "meta.json").read_text())["losses"]
    assert (data["loss"]["first"], data["loss"]["lowest"], data["loss"]["steps"]) == (losses[0], min(losses), 3)
    assert data["loss"]["y"] == pytest.approx(losses, abs=1e-5)
    rows = {row["name"]: row for group in data["parameters"] for row in group["rows"]}
    scalars = [name for name, p in source.chain.walk() if p.preset and not p.shape]
    assert list(rows) == scalars
    assert rows["comp.attack"]["unit"] == "ms" and rows["comp.attack"]["number"] == pytest.approx(50, rel=0.2)
    assert {m["key"] for m in data["matters"]} >= {"peak1", "comp.compressor", "sends.delay"}
    assert [m["cost"] for m in data["matters"]] == sorted((m["cost"] for m in data["matters"]), reverse=True)
    assert [term["name"] for term in data["loss"]["terms"]][0] == "spectra, left and right"
    assert {"mono_dry", "lag"} >= {finding["code"] for finding in data["findings"]}
    assert data["repeat"] == "python scripts/reproduce.py song/run_0 --dry DRY --wet WET"
    assert data["settings"] == "model=null, chunk_duration=1.2, chunk_overlap=0.1, epochs=3"
    assert data["beside"] == {name: f"{name}.flac" for name in ("dry", "wet", "fitted")}
    named = re.findall(r"--to ([a-z-]+)", (Path(curves.__file__).with_name("report.js")).read_text())
    assert named and set(named) <= set(EXPORTERS)
    assert rows["peak1.freq"]["word"] == "bounded" and rows["peak1.freq"]["low"] == "1.00"


def values_of(chain: Effect, changes: dict[str, float]) -> dict:
    """The values of a chain by default, with some changed."""
    values = flatten(Knobs(chain, torch.Generator().manual_seed(0)).requires_grad_(False)())
    return nest(values | {name: torch.tensor(value) for name, value in changes.items()})


def test_the_curves_of_known_settings() -> None:
    sends = {"effect": "sends", "delay": {"effect": "ping_pong_delay"}, "reverb": {"effect": "fdn", "ir_duration": 1}}
    config = {"low": {"effect": "low_shelf"}, "peak1": {"effect": "peak"}, "sends": sends}
    chain = build(config, SR).eval()
    delay = {"delay": 250.0, "feedback": 0.5, "gain": 0.5, "odd_pan.pan": 0.0, "even_pan.pan": 1.0}
    changes = {f"sends.delay.{name}": value for name, value in delay.items()}
    values = values_of(chain, {"low.gain": 3.0, "peak1.gain": -6.0, "peak1.freq": 2000.0} | changes)

    response = curves.equaliser(chain, values)
    assert [band["name"] for band in response["bands"]] == ["low", "peak 1"]
    at = {f: response["sum"][int(np.argmin(np.abs(np.array(response["x"]) - f)))] for f in (25, 2000)}
    assert at[25] == pytest.approx(3, abs=0.3) and at[2000] == pytest.approx(-6, abs=0.1)

    (echoes,) = curves.echoes(chain, values)
    assert [tap["ms"] for tap in echoes["taps"][:3]] == [250, 500, 750]
    assert [tap["pan"] for tap in echoes["taps"][:2]] == [-100, 100]
    assert [tap["db"] for tap in echoes["taps"][:2]] == [-6.0, -12.0]
    # Each effect once, though the sends repeat the curves of what they hold.
    assert [curve["title"] for curve in curves.others(chain, values)] == ["Reverb decay by 60 dB"]


def test_the_energy_decay_is_that_of_the_response() -> None:
    chain = build({"reverb": {"effect": "fdn", "ir_duration": 2}}, SR).eval()
    values = values_of(chain, {})
    values["reverb"]["c"] = torch.ones(2, 6)
    # All lines lose 60 dB in half a second.
    values["reverb"]["gamma"] = torch.full((49, 1), 10 ** (-3 * 997 / (SR * 0.5)))
    (decay,) = curves.decay(chain, values)
    y, x = np.array(decay["y"], float), np.array(decay["x"], float)
    slope = np.polyfit(x[(y < -5) & (y > -45)], y[(y < -5) & (y > -45)], 1)[0]
    assert -60 / slope == pytest.approx(0.5, rel=0.1)


def test_levels_gains_and_spectra_of_known_sounds() -> None:
    t = torch.arange(SR) / SR
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * t)[None]
    assert np.median(curves.frame_levels(tone, 441)) == pytest.approx(-9.03, abs=0.05)
    wet = torch.cat([tone, 0 * tone])
    spectra = curves.Spectra({"dry": tone, "fitted": 2 * wet, "wet": wet}, SR)
    drawn = spectra.long_term()
    loudest = int(np.argmax(drawn["wet"]))
    assert drawn["x"][loudest] == pytest.approx(1000, rel=0.06) and drawn["wet"][loudest] == 0
    assert drawn["fitted"][loudest] == pytest.approx(6.0, abs=0.1)
    assert spectra.difference()["mean"] == pytest.approx(6.0, abs=0.2)
    panorama = spectra.panorama()
    assert panorama["wet"][0] > 99 and panorama["x"][0] < -95
    image = base64.b64decode(spectra.difference()["image"].partition(",")[2])
    pixels = imread(io.BytesIO(image))
    assert pixels.shape[0] == curves.BANDS and (pixels[..., 2] > pixels[..., 0]).any()


def test_percentiles_among_the_published_presets() -> None:
    known = published()["quantiles"]["comp.cmp_ratio"]
    assert percentile("comp.cmp_ratio", known[10]) == 50
    assert percentile("comp.cmp_ratio", known[0] - 1) == 0 and percentile("comp.cmp_ratio", known[-1] + 1) == 100
    assert percentile("comp.knee", 3.0) is None


@pytest.mark.skipif(not (PUBLISHED / "internal").exists(), reason="without the published preset sets")
def test_the_quantiles_are_those_of_the_published_sets() -> None:
    assert quantiles([PUBLISHED / "internal", PUBLISHED / "medleydb"]) == published()["quantiles"]


def test_opus_keeps_length_level_and_time() -> None:
    x = torch.cat([take(1.0), take(1.0, seed=1)])
    y, sr = soundfile.read(io.BytesIO(opus(x, SR, 96_000)))
    assert sr == RATE and abs(len(y) - RATE) < 1000
    assert 20 * np.log10(np.std(y) / float(x.std())) == pytest.approx(0, abs=1)
    assert bitrate_for(4e6, 20, 15) == pytest.approx(8 * 3e6 / 300, rel=0.01)
    assert bitrate_for(4e6, 1, 3) == 128_000 and bitrate_for(1e5, 60, 20) == 32_000


def test_the_excerpt_is_the_loudest_part_and_names_are_in_words() -> None:
    wet = torch.cat([0.1 * torch.ones(2, 10 * 100), torch.ones(2, 2 * 100), 0.1 * torch.ones(2, 8 * 100)], 1)
    pair: object = SimpleNamespace(wet=wet, sr=100)
    excerpt = loudest_excerpt(pair.wet, pair.sr, 2)
    assert (excerpt.begin, excerpt.end, excerpt.warm_up) == (1000, 1200, 800)
    assert loudest_excerpt(pair.wet, pair.sr, 30).end == 2000
    assert label_of("sends.delay", ["sends.delay", "comp.expander"]) == "delay"
    assert label_of("a.low_shelf", ["a.low_shelf", "b.low_shelf"]) == "a: low shelf"
    assert label_of("peak1", ["peak1"]) == "peak 1"


def test_text_of_a_stranger_ends_no_element(tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script>{{audio}}"
    path = tmp_path / "page.html"
    path.write_text(fill("report.html", name, {"name": name, "tracks": []}, ["look.css"], ["charts.js"]))
    page = Elements(path)
    assert sum(tag == "script" for tag, _ in page.found) == 2
    assert page.data["name"] == name


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (math.nan, {}),
        ({"seed": math.inf, "versions": {"x": "\ud800"}}, {"seed": None, "versions": {"x": "\ud800"}}),
    ],
)
def test_what_a_file_cannot_hold_of_a_strangers_preset_breaks_no_report(
    run: Path, tmp_path: Path, given: float | dict, shown: dict
) -> None:
    folder = tmp_path / "song" / "run_0"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("*.wav", "*.flac"))
    document = json.loads((folder / "preset.json").read_text())
    (folder / "preset.json").write_text(json.dumps(document | {"provenance": given, "licence": math.nan}))
    path = tmp_path / "page.html"
    path.write_text(fill("report.html", "", described(open_run(folder, listen=False)), [], []))
    data = Elements(path).data
    assert data["licence"] is None and data["provenance"] == shown


def test_a_run_without_its_recordings_has_a_report_without_sound(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "song" / "run_0"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("*.wav", "*.flac"))
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"input_path": str(tmp_path / "gone.wav")}))
    data = Elements(write_report(folder)).data
    assert (folder / "report.html").exists()
    assert "tracks" not in data and "gone.wav" in data["problem"] and data["curves"]["equaliser"]


def test_a_report_reads_the_recordings_of_the_run_folder_first(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "song" / "run_0"
    shutil.copytree(run, folder)
    sounds: dict[str, Tensor] = {"dry": take(1.0), "wet": mixed(take(1.0))}
    for name, x in sounds.items():
        write_audio(folder / f"{name}.flac", 0.5 * x, SR)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"audio_gain_db": 20 * np.log10(0.5)}))
    pair = open_run(folder).pair
    assert pair is not None and pair.dry.shape == (1, SR)
    assert torch.allclose(pair.wet, sounds["wet"], atol=1e-4)


def test_a_fit_writes_reports_and_a_page_on_all_songs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, wet in (("a", mixed(take(1.4))), ("c", take(1.4, seed=5).expand(2, -1))):
        write_audio(tmp_path / "pairs" / f"{name}_dry.wav", take(1.4), SR)
        write_audio(tmp_path / "pairs" / f"{name}_wet.wav", wet, SR)
    logs = tmp_path / "logs"
    given = [f"data_dir={tmp_path / 'pairs'}", f"log_dir={logs}", *TINY, "epochs=2", "device=cpu", "report=true"]
    assert main.main(given) == 2
    out = capsys.readouterr().out.splitlines()
    written = [logs / "a" / "run_0" / "report.html", logs / "index.html"]
    assert out[-2:] == [f"report: {path}" for path in written]
    page = Elements(written[1])
    songs = {song["name"]: song for song in page.data["songs"]}
    assert songs["a"]["report"] == "a/run_0/report.html" and songs["a"]["steps"] == 2
    assert songs["a"]["audio"]["fitted"].startswith("a/run_0/fitted.")
    assert all((logs / address).is_file() for address in songs["a"]["audio"].values())
    assert list(songs["a"]["audio"]) == ["dry", "fitted", "wet"]
    assert [song["curves"][0]["title"] for song in songs.values()] == ["equaliser"]
    (failure,) = page.data["failures"]
    assert failure["name"] == "c" and "check the two files" in failure["reason"]
    assert {p["name"] for p in page.data["parameters"]} == {"peak.gain", "peak.freq", "peak.Q", "pan.pan"}


def test_the_page_of_a_folder_has_the_newest_run_of_every_song(run: Path, tmp_path: Path) -> None:
    latin = os.fsdecode("caf\xe9".encode("latin-1"))
    for place in (f"{latin}/run_0", "one/run_0", "one/run_1", "sub/two/run_0", "sub/bad/run_0"):
        shutil.copytree(run, tmp_path / place, ignore=shutil.ignore_patterns("*.wav", "*.flac", "events*"))
    (tmp_path / "sub/bad/run_0/checkpoint.ckpt").write_bytes(b"?")
    assert [path.parent.name for path in newest_runs(tmp_path)] == [latin, "one", "bad", "two"]
    data = Elements(write_batch(tmp_path)).data
    assert data["songs"][0]["report"] == "caf%E9/run_0/report.html"
    assert [(song["name"], song["run"]) for song in data["songs"][1:]] == [("one", "run_1"), ("sub/two", "run_0")]
    assert data["failures"][0]["name"] == "sub/bad"
    with pytest.raises(UsageError, match="holds no run"):
        write_batch(tmp_path / "sub" / "bad" / "run_0")


def test_the_program_tells_what_it_cannot_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert report.main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
