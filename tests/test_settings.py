"""Everything that can be wrong with settings and is found before audio is read, and YAML files from strangers."""

import os
import time
from pathlib import Path

import pytest
import torch

import main
from reknob.afx.effect import Knobs, flatten
from reknob.afx.registry import build
from reknob.formats import runs
from reknob.runtime.errors import UsageError
from reknob.runtime.trees import interpolated, parse_yaml, read_yaml

PAN = "pan: {effect: panning}\n"
LETTERS = "abcdefghij"


def refusal(argv: list[str]) -> str:
    with pytest.raises(UsageError) as error:
        main.read_settings(argv)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000
    return message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("chunk_duration=1.2 chunk_overlap=0.5", "set chunk_overlap=0.249 or less, or chunk_duration=1.451 or more"),
        ("chunk_duration=0.5 chunk_overlap=0.1", "takes 41896: set chunk_duration=1.051 or more"),
        ("chunk_duration=11 chunk_overlap=10.999", "set chunk_overlap=10.049 or less"),
        ("chunk_duration=100 chunk_overlap=98", "every sample would lie in 50 chunks, all in memory; set"),
        ("chunk_duration=3 chunk_overlap=5", "chunk_overlap=5 s must be at least 0 and below chunk_duration=3 s"),
        ("chunk_overlap=-1", "chunk_overlap=-1.0: give 0 to 3600"),
        ("sr=7", "sr=7: give 8000 to 192000"),
        ("sr=1000000000", "sr=1000000000: give 8000 to 192000"),
        ("seed=-1", f"seed=-1: give 0 to {2**63 - 1}"),
        ("lufs=-200", "lufs=-200.0: give -100 to 100"),
        ("memory_gb=0", "memory_gb=0.0: must be above 0"),
        ("lufs=quiet", "lufs=quiet: expected a number or null"),
        ("loss.weights=[0,0,0,0]", "give numbers of at least 0, one of them above 0"),
        ("loss.weights=[1,-1,1,1]", "give numbers of at least 0, one of them above 0"),
        ("loss.weights=[1,1]", "2 loss weights given; give 4"),
        ("loss.mldr_rows=odd", "unknown treatment of rows 'odd'; known: separate, rolled"),
        ("--lr=0.1", "unknown setting 'lr'; did you mean optimiser.lr?"),
        ("chain.comp.lookahead.default=20", "chain.comp: lookahead: the default 20 lies outside its range; allowed: 0"),
        ("chain.comp.attack.default=0", "chain.comp: attack: the default 0 lies outside its range; allowed: above 0"),
        ("chain.comp.makeup.default=1e6", "chain.comp: makeup: the default 1000000.0 lies outside its range"),
        ("chain.sends.delay.render=realtime", "so its parameters cannot be fitted; fit with render=sinc or render=fs"),
        ("chain.sends.reverb.render=realtime", "fit with render=fs, and apply the result with scripts/render.py"),
        ("chain.sends.reverb.ir_duration=600", "chain.sends.reverb: ir_duration=600: give 0.01 to 60 s"),
        ("chain.sends.reverb.ir_duration=long", "chain.sends.reverb: ir_duration='long': give 0.01 to 60 s"),
        ("chain.sends.reverb.delays=[10000000]", "chain.sends.reverb: delays.0=10000000: give a whole number"),
        ("chain.reverb.ir_duration=6", "chain.reverb: names no effect; did you mean chain.sends.reverb?"),
        ("chain.low_pas=null", "there is no 'low_pas' to leave out; did you mean low_pass?"),
        ("chain.sends=null", "the chain ends in 1 channel, but wet is stereo; end it with {effect: panning}"),
        ("chain.skip.effect=peak", "an effect cannot be called 'skip'"),
        ("chain.peak9.gain.default=3", "null leaves one out; in the chain are peak1, peak2, low_shelf"),
        ("dry.wav wet.wav", "dry.wav and wet.wav: say which is which, as dry=dry.wav wet=wet.wav"),
        ("dataset=foldr", "dataset=foldr: unknown; known: medley_vocal"),
        ("prune_tolerance=0.02", "prune_tolerance=0.02 needs prune=true"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_audio_is_read(argv: str, message: str) -> None:
    assert message in refusal(argv.split())


@pytest.mark.parametrize("word", ["null", "off", "none", "~", ""])
def test_an_effect_is_left_out_by_every_word_for_nothing(word: str) -> None:
    settings = main.read_settings([f"chain.low_pass={word}", f"chain.sends.delay={word}", f"lufs={word}"])
    chain = build(settings.chain, settings.sr)
    assert "low_pass" not in dict(chain.parts()) and settings.lufs is None
    assert [name for name, _ in chain.sends.parts()] == ["reverb", "direct"]


@pytest.mark.parametrize(("argv", "told"), [([], True), (["sr=16000"], False)])
def test_a_model_of_another_sample_rate_is_fitted_at_ours_and_told(
    argv: list[str], told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run.yaml").write_text(f"sr: 16000\nchain:\n  {PAN}")
    settings = main.read_settings([f"model={tmp_path}/run.yaml", *argv])
    assert settings.sr == (16000 if argv else 44100)
    assert ("is a chain of a fit at 16000 Hz; this one runs at sr=44100" in caplog.text) is told


def test_paths_of_the_command_line_take_the_place_of_those_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("dataset: medley_vocal\ndata_dir: elsewhere\n")
    got = main.read_settings([f"--config={path}", "dry=a.wav", "wet=b.wav"])
    assert (got.dataset, got.data_dir, got.dry, got.wet) == (None, None, "a.wav", "b.wav")
    got = main.read_settings([f"--config={path}", "data_dir=here"])
    assert (got.dataset, got.data_dir) == ("medley_vocal", "here")


def test_a_run_older_than_a_setting_is_resumed_with_its_default(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("sr: 44100\n")
    runs.check_same_fit(tmp_path, {"sr": 44100, "fix_drift": False}, {"fix_drift": False})
    with pytest.raises(UsageError, match=r"other settings \(fix_drift\)"):
        runs.check_same_fit(tmp_path, {"sr": 44100, "fix_drift": True}, {"fix_drift": False})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("comp.cmp_ratio", -3.0, "comp.cmp_ratio=-3 lies outside its range; allowed: 1 to 20"),
        ("peak.freq", 90000.0, "peak.freq=90000 Hz lies outside its range; allowed: 33 to 17500"),
        ("comp.makeup", 999.0, "comp.makeup=999 dB lies outside its range; allowed: -200 to 200"),
        ("comp.attack", 0.0, "comp.attack=0 ms lies outside its range; allowed: above 0"),
        ("comp.lookahead", 16.0, "comp.lookahead=16 ms lies outside its range; allowed: 0 to below 15"),
        ("peak.Q", float("nan"), "peak.Q=nan lies outside its range; allowed: 0.2 to 20"),
    ],
)
def test_a_values_file_with_a_value_that_cannot_be_is_refused(
    name: str, value: float, message: str, tmp_path: Path
) -> None:
    effect = build({"peak": {"effect": "peak"}, "comp": {"effect": "compressor_expander"}}, 44100)
    values = {key: each.detach() for key, each in flatten(Knobs(effect)()).items()}
    path = tmp_path / "parametrised.pth"
    torch.save(values, path)
    assert runs.load_values(path, effect).keys() == values.keys()
    torch.save(values | {name: torch.tensor(value)}, path)
    with pytest.raises(UsageError) as error:
        runs.load_values(path, effect)
    assert str(error.value) == f"{path}: {message}"


def test_values_at_the_very_ends_of_their_ranges_are_held() -> None:
    effect = build({"comp": {"effect": "compressor_expander"}, "reverb": {"effect": "fdn"}}, 44100)
    knobs = Knobs(effect)
    for end in (-40.0, 40.0):
        with torch.no_grad():
            for name, raw in knobs.named_parameters():
                if not name.endswith(("attack", "release", "U", "gain", "b", "c")):
                    raw.fill_(end)
        values = flatten(knobs())
        for name, p in effect.walk():
            p.check(values[name], name)


def bomb(first: str, layer: str) -> str:
    pairs = zip(LETTERS, LETTERS[1:], strict=False)
    return first + "".join(f"{name}: &{name} {layer.replace('*', f'*{below}')}\n" for below, name in pairs)


FILES = {
    "alias bomb dicts": (bomb("a: &a {k: 1}\n", "{x: *, y: *, z: *, w: *, v: *}"), "with every alias written out"),
    "alias bomb lists": (bomb("a: &a [1]\n", "[*, *, *, *, *, *]"), "with every alias written out"),
    "merge bomb": (bomb("a: &a {k: 1}\n", "{n: 1, <<: [*, *, *, *, *, *]}"), "with every alias written out"),
    "recursive alias": ("a: &a {effect: serial, b: *a}\n", "line 1: the alias *a names nothing before it"),
    "recursive merge": ("a: &a {<<: *a}\n", "line 1: the alias *a names nothing before it"),
    "recursive top": ("&a\nb: *a\n", "the alias *a names nothing before it"),
    "recursive published": ("&a\n_target_: torch.nn.Sequential\n_args_: [*a]\n", "the alias *a names nothing before"),
    "deep lists": ("a: " + "[" * 100_000, "nested deeper than 50 levels"),
    "deep dicts": ("a: " + "{a: " * 100_000, "nested deeper than 50 levels"),
    "deep blocks": ("- " * 100_000, "nested deeper than 50 levels"),
    "too large": ("# " + "x" * 1_000_001, "larger than 1,000,000 bytes"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2: a second document begins"),
    "twice": ("a: 1\na: 2\n", "line 2: 'a' is given twice"),
    "key list": ("? [1, 2]\n: 3\n", "line 1: a name must be text"),
    "inf": ("a: {effect: fir, length: .inf}\n", "line 1: .inf is not a finite number"),
    "nan": ("x: 1\na: .nan\n", "line 2: .nan is not a finite number"),
    "overflow": ("a: 1e999\n", "line 1: 1e999 is not a finite number"),
    "binary": ("a: !!binary aGk=\n", "not a YAML file"),
    "tag": ("a: !foo {b: 1}\n", "not a YAML file"),
    "reference to the environment": ("a: {effect: '${oc.env:HOME}'}\n", "only references to other settings are read"),
    "reference to itself": ("a: {effect: '${a}'}\n", "leads back to itself"),
    "reference to nothing": ("a: {effect: '${b.c}'}\n", "there is no such setting in the file"),
    "sr 0": (f"sr: 0\nchain: {{{PAN.strip()}}}\n", "sr=0: give 8000 to 192000 Hz"),
    "sr 1e9": (f"sr: 1e9\nchain: {{{PAN.strip()}}}\n", "give 8000 to 192000 Hz"),
    "sr text": (f"sr: high\nchain: {{{PAN.strip()}}}\n", "sr=high: give 8000 to 192000 Hz"),
    "fir length 1e11": ("a: {effect: fir, length: 1e11}\n", "chain.a: length=100000000000.0: give a whole number"),
    "fir length -1": ("a: {effect: fir, length: -1}\n", "chain.a: length=-1: give a whole number, 1 to"),
    "fdn delays 0": ("a: {effect: fdn, delays: [0]}\n", "chain.a: delays.0=0: give a whole number, 1 to"),
    "noise n_fft 0": ("a: {effect: noise_reverb, n_fft: 0}\n", "chain.a: n_fft=0: give a whole number, 2 to"),
    "noise ir_length 1e12": ("a: {effect: noise_reverb, ir_length: 1e12}\n", "chain.a: ir_length=1000000000000.0: "),
    "noise hop 0": ("a: {effect: noise_reverb, hop: 0}\n", "chain.a: hop=0: give a whole number, 1 to"),
    "effect is list": ("a: {effect: [peak]}\n", "chain.a.effect: expected the name of an effect, got ['peak']"),
    "effect is dict": ("a: {effect: {b: 1}}\n", "chain.a.effect: expected the name of an effect, got {'b': 1}"),
    "efect": ("a: {efect: peak}\n", "chain.a: names no effect; did you mean effect: peak?"),
    "default list": ("a: {effect: peak, Q: {default: [1, 2]}}\n", "chain.a: Q: the default [1, 2] is not a number"),
    "default dict": ("a: {effect: peak, Q: {default: {b: 1}}}\n", "chain.a: Q: the default {'b': 1} is not a number"),
    "range text": ("a: {effect: peak, Q: {range: wide}}\n", "chain.a: Q: the range wide is not two numbers; give "),
    "range below 0": ("a: {effect: peak, Q: {range: [-1, 5]}}\n", "chain.a: Q: the range [-1, 5] extends beyond"),
    "name x": ("x: {effect: peak}\n", "chain: an effect cannot be called 'x'"),
    "name with a dot": ("a.b: {effect: peak}\n", "chain: an effect cannot be called 'a.b'"),
    "empty serial": (f"s: {{effect: serial}}\n{PAN}", "chain.s: an empty chain; put effects into it, or leave it out"),
    "sends of a compressor": ("s: {effect: sends, c: {effect: compressor_expander}}\n", "has no impulse response"),
    "delay after a panning": (f"{PAN}d: {{effect: ping_pong_delay}}\n", "takes mono, but its input has 2 channels"),
    "sends after a panning": (f"{PAN}s: {{effect: sends}}\n", "chain.s: Sends takes mono, but its input has 2"),
    "width of mono": ("w: {effect: stereo_width}\n", "chain.w: StereoWidth takes stereo"),
    "published args": ("_target_: torch.nn.Sequential\n_args_: 5\n", "torch.nn.Sequential: holds 5; expected a list"),
    "published pan text": ("_target_: a.Panning\npan: left\n", "pan=left: give -100 to 100"),
    "published key number": ("_target_: torch.nn.Sequential\n1: 2\n", "an effect cannot be called '1'"),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_a_file_from_a_stranger_ends_in_one_line_within_seconds(text: str, message: str, tmp_path: Path) -> None:
    begun = time.process_time()  # of which other programs take none
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert message in refusal([f"model={path}"])
    if "_target_" not in text:
        path.write_text(f"model: null\nchain:\n{''.join(f'  {line}' for line in text.splitlines(True))}")
        refusal([f"--config={path}"])
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("b", ["{effect: fdn, ir_duration: 0.5}", "{effect: noise_reverb, downsample_factor: 4}"])
def test_chains_of_reverbs_alone_have_gradients(b: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {{effect: fdn, ir_duration: 0.5}}\nb: {b}\n")
    settings = main.read_settings([f"model={tmp_path}/a.yaml", "sr=8000"])
    chain = build(settings.chain, 8000).train()
    knobs = Knobs(chain, torch.Generator().manual_seed(0))
    y = chain.render_after_warm_up(torch.randn(2, 1, 9000), 100, **knobs())
    y.square().mean().backward()
    assert y.shape == (2, 2, 8900)
    assert all(raw.grad.isfinite().all() for raw in knobs.parameters() if raw.grad is not None)


def test_a_pipe_or_a_device_is_no_settings_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="is a pipe, a socket or a device"):
            read_yaml(path)


def test_numbers_and_words_are_those_of_yaml_1_2() -> None:
    text = "[1e-3, 1E5, .5, 1., +2, -0x10, 0x10, 0o17, 010, yes, off, true, ~, null, 1:30, 2020-01-01, '1', 1_000]"
    expected = [1e-3, 1e5, 0.5, 1.0, 2, "-0x10", 16, 15, 10, "yes", "off", True, None, None]
    assert parse_yaml(text) == [*expected, "1:30", "2020-01-01", "1", "1_000"]


def test_references_are_written_out_and_bounded() -> None:
    tree = {"sr": 8000, "a": {"b": "${sr}", "c": "${.b}", "d": "${..e[1]}"}, "e": [1, "x${sr}y"], "f": "${a}"}
    assert interpolated(tree)["f"] == {"b": 8000, "c": 8000, "d": "x8000y"}
    for last in ("${%d}${%d}", {"x": "${%d}", "y": "${%d}"}):
        layers = {
            str(i): {k: v % (i + 1) for k, v in last.items()} if isinstance(last, dict) else last % (i + 1, i + 1)
            for i in range(40)
        }
        with pytest.raises(UsageError, match="written out"):
            interpolated(layers | {"40": "x" * 20})
