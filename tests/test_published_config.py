"""The release's own configuration files, written here from its documentation, run unchanged with paths added."""

import logging
from pathlib import Path

import pytest

import main
from reknob.afx.registry import build
from reknob.data.pair_files import DEMO
from reknob.formats.published import entries
from reknob.formats.published_config import from_published_config, from_published_settings
from reknob.runtime.errors import UsageError

BAND = "{{_target_: modules.fx.{}, sr: '${{sr}}', freq: {}, min_freq: {}, max_freq: {}{}}}"
BANDS = [("Peak", 800, 33, 5400), ("Peak", 4000, 200, 17500), ("LowShelf", 115, 30, 200)]
BANDS += [("HighShelf", 6000, 750, 8300), ("LowPass", 17500, 200, 18000), ("HighPass", 200, 16, 5300)]
ECHO_BAND = BAND.format("LowPass", 8000, 200, 16000, ", min_Q: 0.5, max_Q: 2")
REVERB_BANDS = [
    BAND.format("Peak", 800, 200, 2500, ", min_Q: 0.1, max_Q: 3"),
    BAND.format("Peak", 4000, 600, 7000, ", min_Q: 0.1, max_Q: 3"),
    BAND.format("LowShelf", 115, 30, 450, ""),
    BAND.format("HighShelf", 8000, 1500, 16000, ""),
]
MODEL = f"""
_target_: torch.nn.Sequential
_args_:
{"".join(f"  - {BAND.format(*band, '')}{chr(10)}" for band in BANDS)}
  - _target_: modules.fx.CompressorExpander
    sr: ${{sr}}
    cmp_ratio: 2.0
    exp_ratio: 0.5
    at_ms: 50.0
    rt_ms: 50.0
    avg_coef: 0.3
    cmp_th: -18.0
    exp_th: -48.0
    make_up: 0.0
    lookahead: true
    max_lookahead: 15
  - _target_: modules.fx.SendFXsAndSum
    _args_:
    - _target_: modules.fx.SurrogateDelay
      sr: ${{sr}}
      delay: 400
      dropout: 0
      straight_through: true
      recursive_eq: true
      ir_duration: 4
      eq: {ECHO_BAND}
    - _target_: modules.fx.FDN
      sr: ${{sr}}
      delays: [997, 1153, 1327, 1559, 1801, 2099]
      num_decay_freq: 49
      delay_independent_decay: true
      ir_duration: 12
      eq: {{_target_: torch.nn.Sequential, _args_: [{", ".join(REVERB_BANDS)}]}}
    cross_send: true
    pan_direct: true
"""
CONFIG = f"""
epochs: 2000
data_dir: null
log_dir: null
lufs: -18
sr: 44100
chunk_duration: 12
chunk_overlap: 5
device: cuda
batch_size: 35
dataset: medley_vocal
regularise_delay: true
enable_progress_bar: true
model:{MODEL.replace(chr(10), chr(10) + "  ")}
optimiser: {{_target_: torch.optim.Adam, lr: 1e-2}}
mss: {{fft_sizes: [128, 512, 2048], hop_sizes: [32, 128, 512]}}
mldr: {{s_taus: [50, 100], l_taus: [1000, 2000]}}
loss_fn:
  _target_: loss.SumLosses
  weights: [1.0, 0.5, 0.5, 0.25]
  loss_fns:
    - &mss
      _target_: auraloss.freq.MultiResolutionSTFTLoss
      fft_sizes: ${{mss.fft_sizes}}
      hop_sizes: ${{mss.hop_sizes}}
      win_lengths: ${{.fft_sizes}}
      sample_rate: ${{sr}}
      perceptual_weighting: true
    - {{<<: *mss, _target_: auraloss.freq.SumAndDifferenceSTFTLoss}}
    - {{_target_: loss.ldr.MLDRLoss, sr: '${{sr}}', s_taus: '${{mldr.s_taus}}', l_taus: '${{mldr.l_taus}}'}}
    - _target_: loss.ldr.MLDRLoss
      sr: ${{sr}}
      mid_side: true
      s_taus: ${{mldr.s_taus}}
      l_taus: ${{mldr.l_taus}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_the_released_configuration_gives_our_full_chain_and_the_defaults(config: Path) -> None:
    got, ours = main.read_settings([f"--config={config}", "data_dir=song"]), main.read_settings(["data_dir=song"])
    assert (got.dataset, got.log_dir, got.device, got.data_dir) == ("medley_vocal", "logs", "auto", "song")
    assert (got.epochs, got.lufs, got.optimiser, got.loss) == (2000, -18.0, ours.optimiser, ours.loss)
    theirs, mine = build(got.chain, got.sr), build(ours.chain, ours.sr)
    assert list(theirs.walk()) == list(mine.walk()) and entries(theirs) == entries(mine)
    assert theirs.sends.delay.regularise


def test_the_released_configuration_runs_with_paths_added(config: Path, tmp_path: Path) -> None:
    paths = [f"dry={next(DEMO.glob('*dry*'))}", f"wet={next(DEMO.glob('*wet*'))}"]
    small = ["epochs=1", "sr=22050", "chunk_duration=3", "chunk_overlap=1", "batch_size=1"]
    small += ["chain.sends=null", "chain.pan.effect=panning", "chain.peak2=off", "chain.high_shelf=off"]
    ranges = ["chain.low_pass.freq={default: 9000, range: [200, 10000]}"]
    assert main.main([f"--config={config}", f"log_dir={tmp_path}/logs", *paths, *small, *ranges]) == 0
    assert len(list(tmp_path.glob("logs/*/run_0/fitted.flac"))) == 1


def test_a_released_chain_stands_alone_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(MODEL)
    alone = build(main.read_settings([f"model={tmp_path}/model.yaml"]).chain, 44100)
    assert list(alone.walk()) == list(build(main.read_settings([]).chain, 44100).walk())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optimiser: {_target_: torch.optim.SGD, lr: 0.1}", "optimiser._target_=torch.optim.SGD has no counterpart"),
        ("optimiser: {_target_: torch.optim.Adam, weight_decay: 0.1}", "optimiser.weight_decay=0.1 has no counterpart"),
        ("mss: {fft_sizes: [64, 512, 2048], hop_sizes: [32, 128, 512]}", "fft_sizes=[64, 512, 2048]: this loss has"),
        ("mldr: {s_taus: [5, 10], l_taus: [1000, 2000]}", "loss_fn.loss_fns.2.s_taus=[5, 10]: this loss has [50, 100]"),
        ("momentum: 0.9", "unknown published setting 'momentum'; known: dataset, data_dir"),
        ("sr: 48000.5", "expected a whole number"),
        ("data_dir: ${hydra.cwd}", "${hydra.cwd}: there is no such setting in the file"),
    ],
)
def test_what_a_released_configuration_says_is_honoured_or_refused(line: str, message: str, config: Path) -> None:
    key = line.partition(":")[0]
    lines = [text for text in CONFIG.splitlines() if not text.startswith(f"{key}:")]
    config.write_text("\n".join([*lines, line]))
    with pytest.raises(UsageError) as error:
        main.read_settings([f"--config={config}"])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_environment_is_not_read_and_that_is_told(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SECRET", "xyzzy")
    config.write_text(CONFIG.replace("log_dir: null", "log_dir: ${oc.env:SECRET}/logs"))
    with caplog.at_level(logging.WARNING):
        assert main.read_settings([f"--config={config}"]).log_dir == "logs"
    assert "log_dir=${oc.env:SECRET}/logs is not read" in caplog.text and "xyzzy" not in caplog.text


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("SurrogateDelay", {"dropout": 0.5}, "dropout=0.5 has no counterpart here; give 0"),
        ("CompressorExpander", {"delay": 3}, "delay=3 has no counterpart here; give 0"),
        ("Panning", {"sr": 8000}, "sr=8000, beside a sample rate of 44100 Hz"),
        ("SendFXsAndSum", {"effects": [{"_target_": "a.Panning"}, 3]}, "expected a list of effects"),
    ],
)
def test_a_published_option_without_a_counterpart_is_refused(target: str, settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_published_config({"_target_": f"modules.fx.{target}", **settings}, 44100)


def test_a_longer_lookahead_and_separate_sends_are_honoured() -> None:
    comp = {"_target_": "a.CompressorExpander", "lookahead": True, "max_lookahead": 40}
    effect = build(from_published_config(comp), 44100)
    assert effect.reach[1] == 44100 * 41 // 1000 - 44 and dict(effect.walk())["lookahead"].mapping.period == 40
    sends = {"_target_": "a.SendFXsAndSum", "_args_": [{"_target_": "a.Delay"}, {"_target_": "a.FDN"}]}
    apart = build(from_published_config(sends | {"cross_send": False, "pan_direct": False}), 44100)
    assert [name for name, _ in apart.parts()] == ["delay", "reverb"] and not apart.params
    together = build(from_published_config(sends | {"pan_direct": True}), 44100)
    assert [p.name for p in together.params] == ["delay_to_reverb"]


def test_batches_of_all_chunks_are_those_of_the_release(config: Path) -> None:
    tree = {"model": {"_target_": "a.Panning"}, "batch_size": 0}
    assert from_published_settings(tree)["batch_size"] == 1_000_000
