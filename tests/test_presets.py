"""Preset sets: the published format to the letter, their statistics, chains out of chains, and the commands on them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reknob.afx.effect import Effect, Knobs, flatten
from reknob.afx.registry import build
from reknob.analysis import distances
from reknob.formats import presets as sets
from reknob.formats.presets import Preset, load_presets, read_chain, read_rows, to_vectors, write_presets
from reknob.runtime.settings import read_yaml
from scripts import pca_trsfm, presets

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "presets"
SETS = ("internal", "medleydb")
needs_published = pytest.mark.skipif(not SHARED.is_dir(), reason="the published preset sets are not here")


@pytest.fixture(scope="module")
def chain() -> Effect:
    return build(read_yaml(ROOT / "presets" / "fx_config.yaml"), 44100)


def make_set(folder: Path, chain: Effect, count: int = 6) -> list[Preset]:
    made = []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        raws = {
            name: raw + torch.randn(raw.shape, generator=generator) for name, raw in Knobs(chain).state_dict().items()
        }
        paths = (f"/data/song{i}/raw/take{i}.wav", f"/data/song{i}/stem/take{i}.wav")
        made.append(Preset(i, *paths, i - 2, raws, f"/logs/song{i}/run_0"))
    config = read_yaml(ROOT / "presets" / "fx_config.yaml")
    write_presets(folder, made, chain, chain=config, rejected={"terminated": []})
    return made


def write_again(folder: Path, made: list[Preset], chain: Effect) -> None:
    config = read_yaml(ROOT / "presets" / "fx_config.yaml")
    write_presets(folder, made, chain, chain=config, rejected={}, overwrite=True)


@pytest.fixture
def own_set(tmp_path: Path, chain: Effect) -> Path:
    make_set(tmp_path / "own", chain)
    return tmp_path / "own"


def published_to_the_letter(folder: Path) -> dict[str, np.ndarray]:
    """A set read by nothing but the description of its files: {key: (rows, *shape)}."""
    info = json.loads((folder / "info.json").read_text())
    raw = np.load(folder / "raw_params.npy")
    columns, at = {}, 0
    for key, shape in zip(info["params_keys"], info["params_original_shapes"], strict=True):
        size = int(np.prod(shape)) if shape else 1
        columns[key] = raw[:, at : at + size].reshape(-1, *shape)
        at += size
    assert at == raw.shape[1]
    return columns


@needs_published
@pytest.mark.parametrize("name", SETS)
def test_a_set_written_here_has_the_published_format(name: str, own_set: Path) -> None:
    assert pca_trsfm.main([str(own_set), "--exclude", "0"]) == 0
    ours, theirs = (json.loads((folder / "info.json").read_text()) for folder in (own_set, SHARED / name))
    assert list(ours) == [*theirs, "alignment"] and ours["alignment"] == "crop"
    assert ours["params_keys"] == theirs["params_keys"]
    assert ours["params_original_shapes"] == theirs["params_original_shapes"]
    for file in ("raw_params.npy", "feature_mask.npy"):
        a, b = np.load(own_set / file), np.load(SHARED / name / file)
        assert (a.dtype, a.shape[-1], a.ndim) == (b.dtype, b.shape[-1], b.ndim)
    a, b = np.load(own_set / "gaussian.npz"), np.load(SHARED / name / "gaussian.npz")
    assert {k: (a[k].dtype, a[k].shape) for k in a} == {k: (b[k].dtype, b[k].shape) for k in b}
    assert np.load(own_set / "train_index.npy").dtype == np.load(SHARED / "internal" / "train_index.npy").dtype


@needs_published
@pytest.mark.parametrize("name", SETS)
def test_a_published_set_written_again_is_the_same_array(name: str, tmp_path: Path, chain: Effect) -> None:
    loaded = load_presets(SHARED / name, chain)
    write_presets(tmp_path / "again", loaded, chain, chain={}, rejected={})
    again, before = np.load(tmp_path / "again" / "raw_params.npy"), np.load(SHARED / name / "raw_params.npy")
    assert again.dtype == before.dtype and np.array_equal(again, before)


def test_the_format_read_to_the_letter_gives_back_what_was_written(tmp_path: Path, chain: Effect) -> None:
    made = make_set(tmp_path / "own", chain)
    columns = published_to_the_letter(tmp_path / "own")
    assert columns["0.params.gain"].tolist() == [p.raws["peak1.gain"].item() for p in made]
    assert columns["6.params.parametrizations.lookahead.original"].shape == (6, 1)
    U = columns["7.effects.1.params.parametrizations.U.original"]
    assert np.array_equal(U[3], made[3].raws["sends.reverb.U"].numpy())


def test_rows_come_back_as_they_were_written(tmp_path: Path, chain: Effect) -> None:
    made = make_set(tmp_path / "own", chain)
    loaded = load_presets(tmp_path / "own", chain)
    assert [(p.row, p.dry_file, p.wet_file, p.alignment_shift, p.run) for p in loaded] == [
        (p.row, p.dry_file, p.wet_file, p.alignment_shift, p.run) for p in made
    ]
    assert torch.equal(to_vectors(loaded, chain), to_vectors(made, chain))


def test_a_set_whose_columns_disagree_is_refused(own_set: Path, chain: Effect) -> None:
    info = json.loads((own_set / "info.json").read_text())
    info["dry_files"].pop()
    (own_set / "info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="6 rows of parameters for 5, 6, 6"):
        load_presets(own_set, chain)


@needs_published
@pytest.mark.parametrize("name", SETS)
def test_statistics_are_the_published_ones(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for file in (SHARED / name).iterdir():
        if file.name not in ("feature_mask.npy", "gaussian.npz"):
            (folder / file.name).write_bytes(file.read_bytes())
    assert pca_trsfm.main([str(folder)]) == 0
    assert np.array_equal(np.load(folder / "feature_mask.npy"), np.load(SHARED / name / "feature_mask.npy"))
    a, b = np.load(folder / "gaussian.npz"), np.load(SHARED / name / "gaussian.npz")
    for key in ("mean", "cov"):
        assert (np.abs(a[key] - b[key]) <= 1e-6 * np.maximum(1, np.abs(b[key]))).all()
    assert (folder / "train_index.npy").exists() == (name == "internal")


def test_excluded_rows_do_not_count_and_the_rest_is_recorded(own_set: Path, tmp_path: Path) -> None:
    (tmp_path / "left_out.txt").write_text("song1\n4-5\n")
    assert pca_trsfm.main([str(own_set), "--exclude", str(tmp_path / "left_out.txt")]) == 0
    rows = np.load(own_set / "train_index.npy")
    assert rows.tolist() == [0, 2, 3]
    mask = np.load(own_set / "feature_mask.npy")
    features = np.load(own_set / "raw_params.npy")[rows][:, mask].astype(np.float64)
    gaussian = np.load(own_set / "gaussian.npz")
    np.testing.assert_allclose(gaussian["mean"], features.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gaussian["cov"], np.cov(features.T), rtol=1e-6, atol=1e-6)
    assert pca_trsfm.main([str(own_set)]) == 0
    assert np.load(own_set / "train_index.npy").tolist() == [0, 2, 3]
    assert pca_trsfm.main([str(own_set), "--exclude", "none"]) == 0
    assert not (own_set / "train_index.npy").exists()


def test_rows_are_named_by_number_range_and_track(tmp_path: Path, chain: Effect) -> None:
    made = make_set(tmp_path / "own", chain)
    assert read_rows("4,1-2,take5", made) == [4, 1, 2, 5]
    np.save(tmp_path / "rows.npy", np.array([3, 0]))
    assert read_rows(str(tmp_path / "rows.npy"), made) == [3, 0]
    for wrong, message in {"6": "row 6: ", "3-2": "row 3-2: ", "take6": "'take6' is no file"}.items():
        with pytest.raises(ValueError, match=message):
            read_rows(wrong, made)


def test_the_real_time_chain_differs_from_the_full_one_in_two_settings_only(own_set: Path) -> None:
    full, realtime = (read_yaml(ROOT / "presets" / f"{name}_config.yaml") for name in ("fx", "rt"))
    assert full == read_yaml(ROOT / "cfg" / "model" / "diffvox.yaml")
    for part in ("delay", "reverb"):
        assert realtime["sends"][part].pop("render") == "realtime"
    assert realtime == full
    assert read_chain(own_set)[0] == full


def test_a_file_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ValueError, match="is its own base"):
        read_yaml(tmp_path / "a.yaml")


def command(*argv: object) -> int:
    return presets.main([str(a) for a in argv])


def test_list_and_show_print_physical_units(own_set: Path, chain: Effect, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("list", own_set, "--columns", "peak1.freq,comp.attack") == 0
    header, first = capsys.readouterr().out.splitlines()[1:3]
    assert header.split() == ["row", "track", "stem", "peak1.freq", "Hz", "comp.attack", "ms"]
    values = flatten(load_presets(own_set, chain)[0].values(chain))
    assert float(first.split()[3]) == pytest.approx(values["peak1.freq"].item(), rel=1e-2)
    assert command("show", own_set, "song2") == 0
    printed = capsys.readouterr().out
    assert "sends.delay.delay" in printed and "sends.reverb.U[5,5]" in printed and "damping" not in printed


def test_the_nearest_of_a_copy_is_the_original(
    tmp_path: Path, chain: Effect, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_set(tmp_path / "own", chain)
    made.append(Preset(6, "/data/copy/copy.wav", "", 0, made[2].raws))
    write_again(tmp_path / "own", made, chain)
    assert command("nearest", tmp_path / "own", "copy", "--count", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["2", "0.000"]


def test_the_farthest_preset_and_its_parameter_are_found(
    tmp_path: Path, chain: Effect, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_set(tmp_path / "own", chain)
    for name in made[4].raws:
        made[4].raws[name] += 3
    made[4].raws["comp.makeup"] -= 40
    write_again(tmp_path / "own", made, chain)
    assert command("outliers", tmp_path / "own", "--count", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "4"


def test_samples_follow_the_gaussian_and_the_seed(own_set: Path, tmp_path: Path) -> None:
    drawn = []
    for name, seed, count in (("a", 1, 5), ("b", 1, 5), ("c", 2, 5), ("many", 1, 1000)):
        assert command("sample", own_set, tmp_path / name, "--count", count, "--seed", seed) == 0
        drawn.append(np.load(tmp_path / name / "raw_params.npy"))
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    many = drawn[3]
    before = np.load(own_set / "raw_params.npy")
    told = before.std(0, ddof=1)
    varied = many.std(0) > 0
    assert varied.sum() == 130
    assert np.abs((many.mean(0) - before.mean(0)) / told)[varied].max() < 0.15
    assert np.abs(many.std(0) / told - 1)[varied].max() < 0.15


def test_a_way_between_two_presets_begins_and_ends_at_them(own_set: Path, tmp_path: Path) -> None:
    assert command("interpolate", own_set, 1, 4, tmp_path / "way", "--count", 3) == 0
    before, way = (np.load(folder / "raw_params.npy") for folder in (own_set, tmp_path / "way"))
    assert np.array_equal(way[[0, 2]], before[[1, 4]])
    np.testing.assert_allclose(way[1], (before[1] + before[4]) / 2, atol=1e-5)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_set_is_never_replaced_unasked(own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(own_set)
    for argv in (("sample", own_set, own_set), ("interpolate", own_set, 0, 1, own_set)):
        assert command(*argv) == 2
        assert capsys.readouterr().err == (
            f"presets.py: {own_set}: holds a preset set; --overwrite replaces it, or give another folder\n"
        )
    assert files_of(own_set) == before
    assert command("sample", own_set, own_set, "--count", 3, "--overwrite") == 0
    assert len(np.load(own_set / "raw_params.npy")) == 3
    assert command("sample", own_set, tmp_path / "new", "--overwrite") == 0
    (tmp_path / "empty").mkdir()
    assert command("sample", own_set, tmp_path / "empty") == 0


def test_a_set_that_is_replaced_leaves_nothing_behind(
    own_set: Path, chain: Effect, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pca_trsfm.main([str(own_set), "--exclude", "0"]) == 0
    write_again(own_set, load_presets(own_set, chain), chain)
    assert files_of(own_set).keys() == {"info.json", "raw_params.npy", "fx_config.yaml"}
    assert [path.name for path in own_set.parent.iterdir()] == [own_set.name]


def test_a_folder_of_something_else_is_never_replaced(
    own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for flags in ((), ("--overwrite",)):
        assert command("sample", own_set, tmp_path / "mine", *flags) == 2
        assert "mine: holds what is not of a preset set (notes.txt)" in capsys.readouterr().err
        assert command("sample", own_set, tmp_path / "file", *flags) == 2
        assert "file: is a file; give a folder" in capsys.readouterr().err
    assert files_of(tmp_path / "mine") == {"notes.txt": b"mine"} and (tmp_path / "file").read_text() == "mine"


def test_a_set_that_fails_on_its_way_leaves_the_old_one_whole(
    own_set: Path, chain: Effect, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, loaded = files_of(own_set), load_presets(own_set, chain)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sets, "write_text", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_again(own_set, loaded[:2], chain)
    assert files_of(own_set) == before and [path.name for path in own_set.parent.iterdir()] == [own_set.name]


def test_the_home_folder_is_expanded(own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command("sample", "~/own", "~/new") == 0
    assert pca_trsfm.main(["~/new"]) == 0
    assert {"info.json", "gaussian.npz"} <= files_of(tmp_path / "new").keys()


def test_names_that_are_not_utf_8_are_kept(own_set: Path, chain: Effect, tmp_path: Path) -> None:
    loaded = load_presets(own_set, chain)
    odd = [replace(p, dry_file="/data/\udcff/音.wav", wet_file="\udc80") for p in loaded]
    config = read_yaml(ROOT / "presets" / "fx_config.yaml")
    write_presets(tmp_path / "\udcff", odd, chain, chain=config, rejected={"\udcff": [["\udcff"]]})
    assert [p.dry_file for p in load_presets(tmp_path / "\udcff", chain)] == ["/data/\udcff/音.wav"] * 6
    assert "音" in (tmp_path / "\udcff" / "info.json").read_text(encoding="utf-8")


def test_a_table_can_be_a_page(own_set: Path, tmp_path: Path) -> None:
    assert command("list", own_set, "--html", tmp_path / "list.html") == 0
    page = (tmp_path / "list.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and page.count("<tr>") == 7


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("show", "6"), "row 6: the set has rows 0 to 5"),
        (("show", "raw"), "'raw' names 6 presets, not one"),
        (("list", "--columns", "comp.makup"), "unknown column 'comp.makup'; did you mean 'comp.makeup'? known: "),
        (("list", "--colums", "comp.makeup"), "unknown option --colums; did you mean --columns? --help lists"),
        (("interpolate", "0", "1", "out", "--count", "1"), "at least 2"),
    ],
)
def test_what_a_command_cannot_do_is_said_in_one_line(
    argv: tuple, message: str, own_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(argv[0], own_set, *argv[1:]) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize("argv", [("nearest", "0"), ("outliers",), ("describe",), ("density",), ("sample", "out")])
def test_one_preset_has_no_statistics(
    argv: tuple[str, ...], chain: Effect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "one", chain, 1)
    assert command(argv[0], tmp_path / "one", *(tmp_path / a if a == "out" else a for a in argv[1:])) == 2
    errors = capsys.readouterr().err
    assert "or more presets" in errors and "; given: 1" in errors and len(errors.splitlines()) == 1


def test_what_is_no_set_is_refused_by_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run_0").mkdir()
    (tmp_path / "run_0" / "meta.json").write_text("{}")
    cases = {
        "nowhere": "does not exist; give the folder of a preset set, as presets/own",
        "run_0/meta.json": "is a file; give the folder of a preset set, as presets/own",
        "run_0": "is a run folder; give a preset set, or --run where the program has it",
    }
    for name, message in cases.items():
        assert command("list", tmp_path / name) == 2
        assert capsys.readouterr().err == f"presets.py: {tmp_path / name}: {message}\n"


def test_distances_are_root_mean_square_deviations() -> None:
    vectors = torch.tensor([[0.0, 0, 9], [2, 0, 9], [4, 6, 7]])
    mask = torch.tensor([True, True, False])
    z = (vectors - vectors.mean(0))[:, :2] / vectors[:, :2].std(0)
    first, second = distances.nearest(vectors, 0, mask, 5)
    assert (first.row, second.row) == (1, 2)
    assert first.distance == pytest.approx((z[0] - z[1]).square().mean().sqrt().item())
    (farthest,) = distances.outliers(vectors, mask, 1)
    assert farthest == (2, pytest.approx(z[2].square().mean().sqrt().item()), 1, pytest.approx(z[2, 1].item()))
