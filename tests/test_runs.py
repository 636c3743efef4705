"""Run folders: numbering, whole files, the round trip of ours and of published ones, and what is refused."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Never

import pytest
import torch
import yaml
from torch import Tensor

from reknob.afx.effect import Effect, Knobs, flatten
from reknob.afx.param import RiseTime
from reknob.afx.registry import build
from reknob.formats import runs
from reknob.formats.published import entries, to_published
from reknob.formats.published_config import from_published_config
from reknob.runtime.files import atomic_path, read_json, read_tensors, write_tensors, write_text

SR = 44100
PEAK = {"_target_": "modules.fx.Peak", "sr": "${sr}", "freq": 800, "min_freq": 33, "max_freq": 5400}
COMP = {"_target_": "modules.fx.CompressorExpander", "sr": "${sr}", "at_ms": 30, "rt_ms": 80, "lookahead": True}
LOOP_EQ = {"_target_": "modules.fx.LowPass", "sr": "${sr}", "freq": 8000, "min_freq": 200, "max_freq": 16000}
DELAY = {"_target_": "modules.fx.SurrogateDelay", "sr": "${sr}", "ir_duration": 2, "eq": LOOP_EQ}
REVERB = {"_target_": "modules.fx.FDN", "sr": "${sr}", "ir_duration": 1, "num_decay_freq": 9}
SENDS = {"_target_": "modules.fx.SendFXsAndSum", "effects": [DELAY, REVERB]}
PUBLISHED = {
    "sr": SR,
    "epochs": 2000,
    "model": {"_target_": "torch.nn.Sequential", "_args_": [PEAK, PEAK, COMP, SENDS]},
}


def chain_and_raws() -> tuple[Effect, dict[str, Tensor]]:
    """The chain of PUBLISHED, and raw parameters away from the defaults."""
    effect = build(from_published_config(PUBLISHED["model"]), SR)
    generator = torch.Generator().manual_seed(0)
    knobs = Knobs(effect, generator)
    with torch.no_grad():
        for raw in knobs.parameters():
            raw += 0.3 * torch.randn(raw.shape, generator=generator)
    return effect, knobs.state_dict()


def values_of(effect: Effect, raws: dict[str, Tensor]) -> dict[str, Tensor]:
    knobs = Knobs(effect)
    knobs.load_state_dict(raws)
    with torch.no_grad():
        return flatten(knobs())


def our_run(folder: Path) -> tuple[Effect, dict[str, Tensor]]:
    effect, raws = chain_and_raws()
    runs.begin(folder, {"sr": SR, "chain": from_published_config(PUBLISHED["model"])})
    runs.save_checkpoint(folder, {"best_model": raws, "lowest_loss": 1.0})
    runs.finish(folder, values_of(effect, raws), {"losses": [1.0], "terminated_by": None})
    return effect, raws


def published_run(folder: Path) -> tuple[Effect, dict[str, Tensor]]:
    """A folder as the release leaves it: its names, its vectors of one number, its buffers, its coefficients."""
    effect, raws = chain_and_raws()
    (folder / "config.yaml").write_text(yaml.safe_dump(PUBLISHED))
    state = to_published(raws, effect) | {"3.effects.0._arange": torch.arange(10)}
    torch.save({"best_model": state, "lowest_loss": 1.0, "global_step": 2000}, folder / "checkpoint.ckpt")
    values, plain = values_of(effect, raws), {}
    for row in entries(effect):
        value = values[row.ours].reshape(row.shape)
        mapping = dict(effect.walk())[row.ours].mapping
        if isinstance(mapping, RiseTime):
            value = raws[row.ours].sigmoid()
        plain[row.theirs.replace("parametrizations.", "").removesuffix(".original")] = value
    torch.save(plain, folder / "parametrised.pth")
    return effect, raws


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 0.0) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        assert got[name].shape == expected[name].shape, name
        torch.testing.assert_close(got[name], expected[name], rtol=rtol, atol=rtol, msg=name)


def refusal(read: object, *args: object) -> str:
    with pytest.raises(ValueError) as error:
        read(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_runs_of_a_track_are_numbered_upwards(tmp_path: Path) -> None:
    assert runs.new_run(tmp_path / "logs", "song") == tmp_path / "logs" / "song" / "run_0"
    assert runs.new_run(tmp_path / "logs", "song").name == "run_1"
    for name in ("run_9", "run_10", "run_x", "run_11_old"):
        (tmp_path / "logs" / "song" / name).mkdir()
    (tmp_path / "logs" / "song" / "run_12").touch()
    assert [p.name for p in runs.numbered(tmp_path / "logs" / "song")] == ["run_0", "run_1", "run_9", "run_10"]
    assert runs.new_run(str(tmp_path / "logs"), "song").name == "run_11"
    assert runs.new_run(tmp_path / "logs", "a [b] c").name == "run_0"
    assert runs.new_run(tmp_path / "logs", "a [b] c").name == "run_1"


def test_two_processes_that_begin_at_once_have_a_run_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered = runs.numbered
    # What the second process saw before the first made its folder.
    monkeypatch.setattr(runs, "numbered", lambda parent: numbered(parent)[:1])
    made = [runs.new_run(tmp_path, "song").name for _ in range(4)]
    assert made == ["run_0", "run_1", "run_2", "run_3"]


def test_many_threads_that_begin_at_once_have_a_run_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: runs.new_run(tmp_path, "song"), range(40)))
    assert {folder.name for folder in made} == {f"run_{n}" for n in range(40)}


def test_a_file_under_another_spelling_has_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "takes").mkdir()
    wet = tmp_path / "takes" / "song.wav"
    wet.touch()
    (tmp_path / "link.wav").symlink_to(wet)
    folder = runs.new_run(tmp_path, "song")
    runs.begin(folder, {}, target_path=str(wet))
    runs.save_checkpoint(folder, {})
    monkeypatch.chdir(tmp_path)
    spellings = ("takes/song.wav", "./takes/../takes/song.wav", "link.wav", wet)
    assert [runs.newest_run(tmp_path, "song", Path(path)) for path in spellings] == [folder] * 4
    assert runs.newest_run(tmp_path, "song", Path("takes/other/song.wav")) is None
    runs.begin(folder, {}, target_path="takes/song.wav")
    assert runs.newest_run(tmp_path, "song", wet) == folder, "as older runs recorded it"


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    folder = runs.new_run(tmp_path, "song")
    with runs.lock(folder):
        message = refusal(runs.lock, folder)
        assert message.startswith(f"{folder} is being written by process {os.getpid()} on ")
        assert message.endswith("; wait for it, or give another log_dir")
    runs.lock(str(folder)).release()
    assert list(folder.iterdir()) == []


def test_a_log_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refusal(runs.new_run, tmp_path / "file" / "logs", "song")
    assert message == f"log_dir={tmp_path}/file/logs: cannot be written (Not a directory); choose another folder"


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runs.new_run("~/logs", "song") == tmp_path / "logs" / "song" / "run_0"
    our_run(tmp_path / "logs" / "song" / "run_0")
    assert runs.newest_run("~/logs", "song", Path("song.wav")) == tmp_path / "logs" / "song" / "run_0"
    assert runs.load_run("~/logs/song/run_0").sr == SR


def test_a_run_has_ended_when_it_came_to_its_end_with_all_its_epochs(tmp_path: Path) -> None:
    wet = Path("song.wav")
    assert runs.newest_run(tmp_path, "song", wet) is None
    folder = runs.new_run(tmp_path, "song")
    runs.begin(folder, {}, target_path="song.wav")
    assert runs.newest_run(tmp_path, "song", wet) is None, "there is no state to go on from"
    runs.save_checkpoint(folder, {"model": {}})
    assert runs.newest_run(tmp_path, "song", wet) == folder and not runs.has_ended(folder, 2)
    assert runs.newest_run(tmp_path, "song", Path("other/song.wav")) is None, "it is another song's"
    for why, ended in (("interrupted", False), ("error", False), (None, True)):
        runs.finish(folder, {}, {"terminated_by": why, "losses": [2.0, 1.0]})
        assert runs.has_ended(folder, 2) == ended and not runs.has_ended(folder, 3)
    runs.new_run(tmp_path, "song")
    assert runs.newest_run(tmp_path, "song", wet) == folder, "a run that never began hides none"


def test_a_record_begins_with_the_run_and_keeps_its_beginning(tmp_path: Path) -> None:
    runs.begin(tmp_path, {"sr": 8000, "chain": {"a": {"effect": "peak"}}})
    begun = read_json(tmp_path / "meta.json")
    assert begun["losses"] == [] and begun["terminated_by"] == "running"
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"sr": 8000, "chain": {"a": {"effect": "peak"}}}
    runs.finish(tmp_path, {"a.gain": torch.tensor(1.5)}, {"losses": [2.0, 1.0], "terminated_by": None})
    record = read_json(tmp_path / "meta.json")
    assert record == {"created": begun["created"], "losses": [2.0, 1.0], "terminated_by": None}
    assert read_tensors(tmp_path / "parametrised.pth") == {"a.gain": torch.tensor(1.5)}


def test_another_fit_is_not_resumed(tmp_path: Path) -> None:
    settings = {"sr": 8000, "epochs": 5, "resume": False, "device": "auto", "chain": {"a": {"effect": "peak"}}}
    runs.begin(tmp_path, settings)
    runs.check_same_fit(tmp_path, settings | {"epochs": 500, "resume": True, "device": "cpu", "log_dir": "x"})
    message = refusal(runs.check_same_fit, tmp_path, settings | {"sr": 9000, "chain": {}, "seed": 1})
    assert message.startswith(f"{tmp_path}: was begun with other settings (chain, seed, sr); use those, or")


def test_files_are_whole_at_every_instant_and_leave_nothing_behind(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "1")
    for write in (broken_text, broken_tensors):
        with pytest.raises(RuntimeError, match="in the middle"):
            write(tmp_path / "a.json")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "1"
    write_tensors(tmp_path / "a.json", {"x": torch.ones(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o666 & ~mask


def broken_text(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("in the middle")


class Unwritable:
    def __reduce__(self) -> Never:
        raise RuntimeError("in the middle")


def broken_tensors(path: Path) -> None:
    write_tensors(path, {"x": torch.ones(3), "y": Unwritable()})


def test_who_reads_while_another_writes_sees_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.ckpt"
    write_tensors(path, {"x": torch.zeros(1000)})
    before = path.read_bytes()
    with path.open("rb") as reader:
        first = reader.read(100)
        write_tensors(path, {"x": torch.ones(1000)})
        assert first + reader.read() == before
    assert torch.equal(read_tensors(path)["x"], torch.ones(1000))


def test_a_run_of_ours_makes_the_round_trip(tmp_path: Path) -> None:
    effect, raws = our_run(tmp_path)
    run = runs.load_run(tmp_path)
    assert run.sr == SR and run.config == from_published_config(PUBLISHED["model"])
    assert_equal(run.raws, raws)
    assert_equal(runs.load_values(tmp_path / "parametrised.pth", effect), values_of(effect, raws))


def test_a_published_run_is_read_under_our_names(tmp_path: Path) -> None:
    effect, raws = published_run(tmp_path)
    run = runs.load_run(tmp_path)
    assert run.sr == SR
    assert_equal(run.raws, raws)
    values = runs.load_values(tmp_path / "parametrised.pth", effect)
    assert_equal(values, values_of(effect, raws), rtol=1e-5)
    assert values["comp.attack"] > 1.0, "milliseconds, not a coefficient"


def test_what_no_preset_holds_may_be_absent_and_what_is_strange_is_left_out(tmp_path: Path) -> None:
    effect, raws = our_run(tmp_path)
    less = {name: raw for name, raw in raws.items() if name != "sends.delay.damping"}
    runs.save_checkpoint(tmp_path, {"best_model": less | {"other.gain": torch.tensor(0.0)}})
    assert runs.load_run(tmp_path).raws.keys() == less.keys()
    write_tensors(tmp_path / "parametrised.pth", values_of(effect, raws) | {"other.gain": torch.tensor(0.0)})
    assert runs.load_values(tmp_path / "parametrised.pth", effect).keys() == raws.keys()


@pytest.mark.parametrize("make", [our_run, published_run])
def test_a_damaged_or_incomplete_run_names_its_file(tmp_path: Path, make: object) -> None:
    effect, raws = make(tmp_path)
    checkpoint, values, config = (tmp_path / n for n in ("checkpoint.ckpt", "parametrised.pth", "config.yaml"))
    good = {path: path.read_bytes() for path in (checkpoint, values, config)}
    state = torch.load(checkpoint, weights_only=True)

    def load_values() -> object:
        return runs.load_values(values, effect)

    def load_run() -> object:
        return runs.load_run(tmp_path)

    for path, load in ((checkpoint, load_run), (values, load_values)):
        for content in (good[path][: len(good[path]) // 2], b"", b"not a checkpoint", good[config]):
            path.write_bytes(content)
            assert refusal(load).startswith(f"{path}: damaged, or not a file of tensors alone (")
        path.unlink()
        assert refusal(load) == f"{path}: no such file"
        torch.save([1, 2], path)
        assert refusal(load) == f"{path}: holds a list, not tensors by name"
        path.write_bytes(good[path])
    torch.save({"best_model": {}}, checkpoint)
    assert refusal(load_run) == f"{checkpoint}: holds no best_model; the run ended before its first step"
    some = dict(list(state["best_model"].items())[1:])
    torch.save({"best_model": some}, checkpoint)
    assert refusal(load_run).startswith(f"{checkpoint}: ") and "lack" in refusal(load_run)
    first, *_ = state["best_model"]
    torch.save({"best_model": state["best_model"] | {first: torch.zeros(7)}}, checkpoint)
    assert refusal(load_run).startswith(f"{checkpoint}: peak1.gain [7] of another size; is the chain")
    checkpoint.write_bytes(good[checkpoint])
    config.write_text("sr: 44100\nmodel: diffvox\n")
    assert refusal(load_run).startswith(f"{config}: no effect chain in it (expected `chain:` or a published")
    config.write_text("chain: {a: {effect: peek}}")
    assert refusal(load_run).startswith(f"{config}: unknown effect 'peek' in 'chain.a'; did you mean 'peak'? known: ")
    config.write_text("chain: {a: {effect: peak}}")
    assert refusal(load_run).startswith(f"{checkpoint}: ") and "chain" in refusal(load_run)
    config.write_text("sr: fast\nchain: {a: {effect: peak}}")
    assert refusal(load_run).startswith(f"{config}: ")
    config.unlink()
    assert refusal(load_run).startswith(f"{tmp_path}: is no run folder, as it has no config.yaml")


def test_values_of_another_chain_are_refused_by_name(tmp_path: Path) -> None:
    our_run(tmp_path)
    other = build({"peak1": {"effect": "peak"}, "shelf": {"effect": "low_shelf"}}, SR)
    path = tmp_path / "parametrised.pth"
    assert refusal(runs.load_values, path, other) == f"{path}: lacks shelf.gain, shelf.freq; is it of another chain?"
    published_run(tmp_path)
    other = build({"peak1": {"effect": "peak"}, "comp": {"effect": "compressor_expander"}}, SR)
    assert refusal(runs.load_values, path, other).startswith(f"{path}: lacks 1.params.cmp_th, 1.params.exp_th")


@pytest.mark.parametrize("name", ["checkpoint.ckpt", "parametrised.pth"])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path, name: str) -> None:
    effect, _ = our_run(tmp_path)
    witness = tmp_path / "witness"
    torch.save({"best_model": Malicious(witness), "peak1.gain": torch.tensor(0.0)}, tmp_path / name)
    read = (runs.load_run, tmp_path) if name == "checkpoint.ckpt" else (runs.load_values, tmp_path / name, effect)
    assert refusal(*read).startswith(f"{tmp_path / name}: damaged, or not a file of tensors alone (")
    assert not witness.exists()
    torch.load(tmp_path / name, weights_only=False)
    assert witness.exists(), "the file was meant to be dangerous"


class Malicious:
    """A pickle that makes a file when it is read carelessly."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.witness),)


def test_a_checkpoint_that_lacks_what_a_fit_needs_is_not_resumed(tmp_path: Path) -> None:
    runs.save_checkpoint(tmp_path, {"model": {}, "optimiser": {}, "losses": [], "generator": None, "before": None})
    message = refusal(runs.load_checkpoint, tmp_path)
    assert message.startswith(f"{tmp_path}/checkpoint.ckpt: lacks best_model, lowest_loss, undone; it cannot be")


def test_json_files_are_read_as_names_and_values_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    assert refusal(read_json, path) == f"{path}: cannot be read (No such file or directory)"
    for content, message in (("{", "not a JSON file"), ("[1]", "holds a list"), ("\x00", "not a JSON file")):
        path.write_text(content)
        assert refusal(read_json, path).startswith(f"{path}: {message}")
    path.write_bytes(b"\xff\xfe")
    assert refusal(read_json, path).startswith(f"{path}: not a JSON file")
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path) == {"a": 1}


def test_a_chain_is_found_in_every_kind_of_file(tmp_path: Path) -> None:
    ours = {"peak": {"effect": "peak"}}
    published = {"_target_": "torch.nn.Sequential", "_args_": [PEAK]}
    chain = {"effect": "serial", "peak": {"effect": "peak", "freq": {"default": 800, "range": [33, 5400]}}}
    contents = [
        (ours, ours, SR),
        ({"sr": 48000, "model": "diffvox", "chain": ours}, ours, 48000),
        (published, chain, SR),
        ({"sr": 48000, "model": published}, chain, 48000),
    ]
    for content, expected, sr in contents:
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
        assert runs.read_chain_file(tmp_path / "a.yaml") == (expected, sr)


def test_another_spelling_of_the_wet_file_is_the_same_song(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "music").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "music")
    folder = runs.new_run(tmp_path, "song")
    runs.save_checkpoint(folder, {"model": {}})
    spellings = ["music/song.wav", "./music/../music/song.wav", "~/music/song.wav", "link/song.wav"]
    for recorded in (*spellings, str(tmp_path / "music" / "song.wav")):
        runs.begin(folder, {}, target_path=recorded)
        for spelling in (*spellings, tmp_path / "music" / "song.wav"):
            assert runs.newest_run(tmp_path, "song", Path(spelling)) == folder, (recorded, spelling)
        assert runs.newest_run(tmp_path, "song", Path("song.wav")) is None
