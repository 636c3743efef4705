"""Settings: every way to write one, files under flags, published files, and what is refused with which words."""

from dataclasses import asdict, dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

import main
from reknob.afx.registry import build
from reknob.fitting.settings import CHAINS, FitSettings
from reknob.formats.published import entries
from reknob.formats.published_config import from_published_config, from_published_settings
from reknob.runtime.settings import load_settings, merge, option, options_of, read_yaml


@dataclass
class Optimiser:
    lr: float = option(0.01, "a rate inside a tree")


@dataclass
class Loss:
    weights: list[float] = option([1.0, 0.5], "numbers")


@dataclass
class Settings:
    dry: str | None = option(None, "a path")
    sr: int = option(44100, "a rate")
    lufs: float | None = option(-18.0, "a level, 100 % of it")
    resume: bool = option(False, "a switch")
    optimiser: Optimiser = field(default_factory=Optimiser)
    loss: Loss = field(default_factory=Loss)
    chain: dict[str, Any] = option({}, "a tree that others check")


DECLARED = options_of(Settings)


def settings(*argv: str, **options: object) -> Settings:
    return load_settings(Settings, argv, description="What it does.", **options)


def value_of(settings: Settings, name: str) -> object:
    return reduce(getattr, name.split("."), settings)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return f"--config={path}"


def test_without_arguments_every_setting_has_its_default() -> None:
    assert asdict(settings()) == {
        "dry": None,
        "sr": 44100,
        "lufs": -18.0,
        "resume": False,
        "optimiser": {"lr": 0.01},
        "loss": {"weights": [1.0, 0.5]},
        "chain": {},
    }
    settings("chain.a=1").loss.weights.append(3.0)
    assert settings().chain == {} and settings().loss.weights == [1.0, 0.5]


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["sr=48000"], "sr", 48000),
        (["--sr=48000"], "sr", 48000),
        (["--sr", "48000"], "sr", 48000),
        (["sr=1", "--sr=2", "--sr", "3"], "sr", 3),
        (["--lufs", "-23"], "lufs", -23.0),
        (["lufs=null"], "lufs", None),
        (["optimiser.lr=1e-3"], "optimiser.lr", 0.001),
        (["--optimiser.lr", "1"], "optimiser.lr", 1.0),
        (["loss.weights=[1,.5, 2]"], "loss.weights", [1.0, 0.5, 2.0]),
        (["--loss.weights", "[]"], "loss.weights", []),
        (["resume=true"], "resume", True),
        (["--resume"], "resume", True),
        (["--resume", "true"], "resume", True),
        (["--resume", "false"], "resume", False),
        (["--resume", "sr=48000"], "resume", True),
        (["--resume", "--sr", "48000"], "resume", True),
        (["resume=off"], "resume", False),
        (["resume=yes"], "resume", True),
        (["dry=null"], "dry", None),
        (["dry=off"], "dry", None),
        (["lufs=off"], "lufs", None),
        (["lufs=none"], "lufs", None),
        (["lufs=-1e1"], "lufs", -10.0),
        (["dry="], "dry", None),
        (["chain.a=1e-3"], "chain", {"a": 0.001}),
        (["optimiser.lr=${sr}"], "optimiser.lr", 44100.0),
        (["sr=8000", "dry=take_${sr}.wav"], "dry", "take_8000.wav"),
        (["dry=a=b/c (1) [x] {y}: #2, 'z'.wav"], "dry", "a=b/c (1) [x] {y}: #2, 'z'.wav"),
        (["--dry", "take=2.wav"], "dry", "take=2.wav"),
        (["--dry=--odd.wav"], "dry", "--odd.wav"),
        (["dry=12"], "dry", "12"),
        (["dry=~/Mes prises/voix née.wav"], "dry", "~/Mes prises/voix née.wav"),
        (["chain.a.freq.range=[30, 50]"], "chain", {"a": {"freq": {"range": [30, 50]}}}),
        (["chain.a.x=1", "--chain.a.y=two", "--chain.b", "0.5"], "chain", {"a": {"x": 1, "y": "two"}, "b": 0.5}),
        (["chain={a: {effect: peak}}", "chain.a.x=1"], "chain", {"a": {"effect": "peak", "x": 1}}),
    ],
)
def test_a_setting_may_be_written_in_every_form(argv: list[str], name: str, value: object) -> None:
    given = value_of(settings(*argv), name)
    assert given == value and type(given) is type(value)


def test_flags_go_over_a_file_and_a_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "a b=c.yaml"
    file = write(path, "sr: 48000\nlufs: -20\noptimiser: {lr: 0.5}\nchain: {a: {x: 1, y: 2}}\ndry: 7\n")
    for argv in (["sr=96000", file], [file, "--sr", "96000"], ["--config", str(path), "sr=96000"]):
        got = settings(*argv, "chain.a.x=5")
        assert got.sr == 96000 and got.lufs == -20.0 and got.optimiser.lr == 0.5
        assert got.chain == {"a": {"x": 5, "y": 2}} and got.dry == "7"
        assert got.loss.weights == [1.0, 0.5] and "config" not in asdict(got)


def test_what_a_file_shares_by_alias_is_changed_in_one_place_only(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "chain:\n  one: &band {freq: {default: 100}}\n  two: *band\n")
    chain = settings(file, "chain.two.freq.default=200").chain
    assert chain == {"one": {"freq": {"default": 100}}, "two": {"freq": {"default": 200}}}


def test_a_file_may_be_the_changes_to_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("sr: 8000\nchain: {a: {x: 1, y: 2}}\n")
    file = write(tmp_path / "top.yaml", "base: base.yaml\nchain: {a: {y: 3}}\n")
    assert settings(file).sr == 8000 and settings(file).chain == {"a": {"x": 1, "y": 3}}
    (tmp_path / "base.yaml").write_text("base: top.yaml\n")
    with pytest.raises(ValueError, match="is its own base"):
        settings(file)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["srr=1"], "unknown setting 'srr'; did you mean sr? --help lists all"),
        (["--optimizer.lr=1"], "unknown setting 'optimizer.lr'; did you mean optimiser.lr? --help lists all"),
        (["--weights", "[1]"], "unknown setting 'weights'; did you mean loss.weights? --help lists all"),
        (["--lr=1"], "unknown setting 'lr'; did you mean optimiser.lr? --help lists all"),
        (["confg=a.yaml"], "unknown setting 'confg'; did you mean config? --help lists all"),
        (["xyzzy=1"], "unknown setting 'xyzzy'; known: config, quiet, json, " + ", ".join(DECLARED)),
        (["sr=fast"], "sr=fast: expected a whole number"),
        (["sr=44100.5"], "sr=44100.5: expected a whole number"),
        (["sr=true"], "sr=true: expected a whole number"),
        (["sr=null"], "sr=null: expected a whole number"),
        (["sr="], "sr=: its value is missing; give sr=VALUE"),
        (["optimiser=annealed"], "optimiser is a group of settings; give one of optimiser.lr"),
        (["lufs=loud"], "lufs=loud: expected a number or null"),
        (["lufs=nan"], "lufs=nan: expected a number or null"),
        (["lufs=.inf"], "lufs=inf: expected a number or null"),
        (["resume=maybe"], "resume=maybe: expected true or false"),
        (["resume=1"], "resume=1: expected true or false"),
        (["loss.weights=1,2"], "loss.weights=1,2: expected a list of numbers, as [1, 0.5]"),
        (["loss.weights=[1, x]"], "loss.weights=[1, 'x']: expected a list of numbers, as [1, 0.5]"),
        (["loss.weights=[.nan]"], "loss.weights=[nan]: expected a list of numbers, as [1, 0.5]"),
        (["loss.weights=[1,"], "loss.weights=[1,: expected a list of numbers, as [1, 0.5]"),
        (["chain=peak"], "chain=peak: expected a tree of settings"),
        (["chain.a=1", "chain.a.b=2"], "chain.a.b: 'a' is a value, not a tree"),
        (["take.wav"], "'take.wav': expected key=value; --help lists the keys"),
        (["dry", "take.wav"], "'dry': expected key=value; --help lists the keys"),
        (["--dry"], "--dry: its value is missing; give --dry=VALUE"),
        (["--dry", "--sr=48000"], "--dry: its value is missing; give --dry=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError) as error:
        settings(*argv)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("srr: 1", "unknown setting 'srr'; did you mean sr? --help lists all"),
        ("optimiser: {rate: 1}", "unknown setting 'optimiser.rate'; did you mean optimiser.lr? --help lists all"),
        ("dry: [a.wav]", "dry=['a.wav']: expected text"),
        ("dry: {path: a.wav}", "dry={'path': 'a.wav'}: expected text"),
        ("sr: 44.1 kHz", "sr=44.1 kHz: expected a whole number"),
        ("config: other.yaml", "unknown setting 'config'; known: dry, sr, "),
        ("[1, 2]", "a.yaml: expected settings, one `name: value` a line"),
        ("", "a.yaml: expected settings, one `name: value` a line"),
        ("sr: [1", "a.yaml: not a YAML file (while parsing a flow sequence)"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        settings(write(tmp_path / "a.yaml", text))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "sound.yaml").write_bytes(bytes(range(128, 256)))
    refused = {"none.yaml": "cannot be read (No such file", "": "cannot be read (Is a dir", "sound.yaml": "not a YAML"}
    for name, message in refused.items():
        with pytest.raises(ValueError) as error:
            settings(f"config={tmp_path / name}")
        assert str(error.value).startswith(f"{tmp_path / name}: {message}") and "\n" not in str(error.value)


def test_no_file_can_run_code(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for tag in ("apply:os.system", "object/apply:os.system", "object/new:os.system"):
        file = write(tmp_path / "a.yaml", f'chain: !!python/{tag} ["touch {witness}"]')
        with pytest.raises(ValueError, match="not a YAML file"):
            settings(file)
    flag = f'chain.a=!!python/object/apply:os.system ["touch {witness}"]'
    assert isinstance(settings(flag).chain["a"], str)
    published = with_model({"_target_": "os.system", "command": f"touch {witness}"})
    file = write(tmp_path / "a.yaml", yaml.safe_dump(published))
    with pytest.raises(ValueError, match="unknown published effect 'system' in 'os.system'; known: Sequential"):
        settings(file, translate=lambda tree, _: from_published_settings(tree))
    assert not witness.exists()


def test_help_lists_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as exit:
            settings("srr=1", flag)
        assert exit.value.code == 0
        text = capsys.readouterr().out
        assert "What it does." in text and "(default -18.0)" in text and "100 % of it" in text
        assert all(f"--{name} " in text for name in DECLARED) and "--config " in text
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"--{name} " in text and o.help[:20] in text for name, o in options_of(FitSettings).items())


def test_merging_lays_changes_over_a_tree_and_leaves_it_alone() -> None:
    base = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
    assert merge(base, {"a": {"y": {"w": 4}}, "b": {"c": 5}}) == {"a": {"x": 1, "y": {"z": 2, "w": 4}}, "b": {"c": 5}}
    assert base == {"a": {"x": 1, "y": {"z": 2}}, "b": 3}


def test_settings_written_to_a_file_come_back(tmp_path: Path) -> None:
    changes = ["chain.peak1.Q.default=0.9", "chain.low_pass=null"]
    given = main.read_settings(["loss.weights=[1,2,3,4]", *changes, "lufs=null", "model=eq_comp"])
    assert main.read_settings([write(tmp_path / "config.yaml", yaml.safe_dump(asdict(given)))]) == given
    assert "low_pass" not in dict(build(given.chain, 44100).parts())


def test_the_shipped_settings_file_says_the_defaults() -> None:
    assert main.read_settings([f"--config={CHAINS.parent / 'config.yaml'}"]) == main.read_settings([])


def test_the_program_reads_models_by_name_and_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("peak: {effect: peak}\npan: {effect: panning}\n")
    assert main.read_settings([f"model={path}", "chain.peak.Q.default=2"]).chain == {
        "peak": {"effect": "peak", "Q": {"default": 2}},
        "pan": {"effect": "panning"},
    }
    assert "sends" not in main.read_settings(["model=eq_comp"]).chain
    chain = main.read_settings(["chain.sends.reverb.ir_duration=6"]).chain
    assert chain["sends"]["reverb"]["ir_duration"] == 6 and chain["sends"]["delay"]["ir_duration"] == 4
    refused = {
        "unknown model 'diffvx'; known: bass, compressor, diffvox, drums, eq_comp": ["model=diffvx"],
        "unknown model 'elsewhere/diffvox'; known: bass, compressor, diffvox": ["model=elsewhere/diffvox"],
        "nowhere.yaml: cannot be read (No such file": [f"model={tmp_path}/nowhere.yaml"],
        "the chain is empty: choose a model": ["model=null"],
        "sr=0: must be above 0": ["sr=0"],
        "epochs=-3: must be above 0": ["epochs=-3"],
        "optimiser.lr=0.0: must be above 0": ["optimiser.lr=0"],
        "optimiser.method=sgd: unknown; known: adam, annealed": ["optimiser.method=sgd"],
    }
    for message, argv in refused.items():
        with pytest.raises(ValueError) as error:
            main.read_settings(argv)
        assert message in str(error.value) and "\n" not in str(error.value)


def band(target: str, **ends: float) -> dict:
    return {"_target_": f"modules.fx.{target}", "sr": "${sr}", **ends}


PEAKS = [
    band("Peak", freq=800, min_freq=33, max_freq=5400, min_Q=0.2, max_Q=20),
    band("Peak", freq=4000, min_freq=200, max_freq=17500, min_Q=0.2, max_Q=20),
]
SHELVES = [
    band("LowShelf", freq=115, min_freq=30, max_freq=200),
    band("HighShelf", freq=6000, min_freq=750, max_freq=8300),
]
PASSES = [
    band("LowPass", freq=17500, min_freq=200, max_freq=18000, min_Q=0.5, max_Q=10),
    band("HighPass", freq=200, min_freq=16, max_freq=5300, min_Q=0.5, max_Q=10),
]
CURVE = {"cmp_th": -18, "exp_th": -48, "make_up": 0, "cmp_ratio": 2, "exp_ratio": 0.5, "avg_coef": 0.3}
COMP = band("CompressorExpander", at_ms=50, rt_ms=50, **CURVE)
DELAY = band(
    "SurrogateDelay", delay=400, ir_duration=4, straight_through=True, recursive_eq=True, min_delay=100, max_delay=1000
) | {"eq": band("LowPass", freq=8000, min_freq=200, max_freq=16000, min_Q=0.5, max_Q=2)}
PAN = {"_target_": "modules.fx.Panning"}
REVERB_EQ = [
    band("Peak", freq=800, min_freq=200, max_freq=2500, min_Q=0.1, max_Q=3),
    band("Peak", freq=4000, min_freq=600, max_freq=7000, min_Q=0.1, max_Q=3),
    band("LowShelf", freq=115, min_freq=30, max_freq=450),
    band("HighShelf", freq=8000, min_freq=1500, max_freq=16000),
]
REVERB = band("FDN", ir_duration=12, delays=[997, 1153, 1327, 1559, 1801, 2099], num_decay_freq=49) | {
    "delay_independent_decay": True,
    "trainable_delay": False,
    "eq": {"_target_": "torch.nn.Sequential", "_args_": REVERB_EQ},
}
SENDS = {"_target_": "modules.fx.SendFXsAndSum", "effects": [DELAY, REVERB], "cross_send": True, "pan_direct": True}
PUBLISHED = {
    "defaults": ["_self_"],
    "dataset": "medley_vocal",
    "data_dir": "???",
    "log_dir": "${oc.env:HOME}/logs",
    "sr": 44100,
    "epochs": 500,
    "batch_size": 35,
    "optimiser": {"_target_": "torch.optim.Adam", "lr": 0.005},
    "hydra": {"run": {"dir": "."}},
    "regularise_delay": True,
}


def with_model(*effects: dict) -> dict:
    return PUBLISHED | {"model": {"_target_": "torch.nn.Sequential", "_args_": list(effects)}}


def test_a_published_settings_file_gives_our_full_chain(tmp_path: Path) -> None:
    published = with_model(*PEAKS, *SHELVES, *PASSES, COMP | {"lookahead": True}, SENDS)
    got = main.read_settings([write(tmp_path / "a.yaml", yaml.safe_dump(published)), "epochs=7"])
    assert (got.dataset, got.data_dir, got.log_dir) == ("medley_vocal", None, "logs")
    assert (got.optimiser.lr, got.epochs, got.model) == (0.005, 7, None)
    theirs, ours = build(got.chain, 44100), build(main.read_settings([]).chain, 44100)
    assert entries(theirs) == entries(ours)
    assert [(n, p.default, p.mapping, p.shape) for n, p in theirs.walk()] == [
        (n, p.default, p.mapping, p.shape) for n, p in ours.walk()
    ]
    delay, reverb = got.chain["sends"]["delay"], got.chain["sends"]["reverb"]
    assert delay["surrogate"] and delay["straight_through"] and delay["regularise"]
    assert reverb["bands"] == 49 and reverb["shared_decay"]


def test_a_published_chain_stands_alone_and_can_be_changed_inside(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", yaml.safe_dump(with_model(PEAKS[0], COMP, PAN)))
    chain = main.read_settings([file, "chain.peak.freq.default=900"]).chain
    assert list(chain) == ["effect", "peak", "comp", "panning"]
    assert chain["peak"]["freq"] == {"default": 900, "range": [33, 5400]}
    assert {"comp.attack", "peak.freq"} < {name for name, _ in build(chain, 44100).walk()}


def test_a_chain_file_may_be_a_published_one(tmp_path: Path) -> None:
    path = tmp_path / "fx_config.yaml"
    path.write_text(yaml.safe_dump(with_model(PEAKS[0], COMP, PAN)["model"]))
    assert list(main.read_settings([f"model={path}"]).chain) == ["effect", "peak", "comp", "panning"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (band("RealTimeDelay", delay=250), {"effect": "ping_pong_delay", "render": "realtime"}),
        (band("FSSurrogateDelay", delay=250), {"effect": "ping_pong_delay", "render": "fs", "surrogate": True}),
        (band("RealTimeFDN", num_decay_freq=1), {"effect": "fdn", "render": "realtime", "bands": 1}),
        (band("Reverb", ir_len=60000, n_fft=384), {"effect": "noise_reverb", "ir_length": 60000, "n_fft": 384}),
        (band("Panning", pan=-100), {"effect": "panning", "pan": {"default": 0.0}}),
        (band("StereoWidth", pan=0), {"effect": "stereo_width", "pan": {"default": 0.5}}),
        (band("Reverb", downsample_factor=2), {"effect": "noise_reverb", "downsample_factor": 2}),
        (COMP | {"lookahead": True, "max_lookahead": 7}, {"lookahead": True, "max_lookahead": 7}),
        (SENDS | {"cross_send": False, "pan_direct": False}, {"cross_send": False, "pan_direct": False}),
        (band("Delay"), {"delay": {"default": 200}, "recursive_eq": False, "ir_duration": 2}),
        (band("HighShelf"), {"freq": {"default": 4525}}),
        (band("HighShelf", Q=0.5), {"effect": "high_shelf", "steepness": 0.5}),
        (COMP, {"effect": "compressor_expander", "lookahead": False, "makeup": {"default": 0}}),
    ],
)
def test_every_published_effect_has_its_key_here(theirs: dict, ours: dict) -> None:
    config = from_published_config(theirs)
    assert {key: config[key] for key in ours} == ours


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (band("Phaser"), "unknown published effect 'Phaser' in 'modules.fx.Phaser'; known: Sequential, "),
        ({"_target_": "builtins.eval"}, "unknown published effect 'eval' in 'builtins.eval'"),
        (band("Peak", speed=3), "Peak has no option 'speed'; known: gain, freq, Q"),
    ],
)
def test_what_a_published_file_names_in_vain_is_refused_in_one_line(model: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        build(from_published_config({"_target_": "torch.nn.Sequential", "_args_": [model]}), 44100)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_our_own_files_pass_the_translation_untouched() -> None:
    tree = read_yaml(CHAINS.parent / "config.yaml")
    assert from_published_settings(tree) == tree
    broken = with_model(PEAKS[0]) | {"optimiser": None, "loss_fn": "mss"}
    assert "optimiser" not in from_published_settings(broken)
