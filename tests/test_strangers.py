"""Preset sets from strangers: whatever they hold works or ends in one line, at once and in little memory."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from strange import DEEP, LIST, NULL, NUMBER, TEXT, TREE, Change, bounded, circle, device, enormous, fifo, folder

import loss_eval
from reknob.afx.effect import Knobs
from reknob.afx.registry import build
from reknob.formats.presets import Preset, read_chain, write_presets
from scripts import pca_trsfm, presets

SR = 44100
CHAIN = {"peak": {"effect": "peak"}, "other": {"effect": "peak"}}
ROWS = 4


@pytest.fixture(autouse=True)
def within_bounds() -> Iterator[None]:
    with bounded():
        yield


@pytest.fixture(scope="module")
def good_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset set with its Gaussian and a train_index."""
    folder = tmp_path_factory.mktemp("strangers") / "set"
    effect = build(CHAIN, SR)
    made = []
    for i in range(ROWS):
        generator = torch.Generator().manual_seed(i)
        raws = {name: torch.randn(raw.shape, generator=generator) for name, raw in Knobs(effect).state_dict().items()}
        made.append(Preset(i, f"/data/song{i}/dry.wav", f"/data/song{i}/wet.wav", 0, raws, f"/logs/song{i}/run_0"))
    write_presets(folder, made, effect, chain=CHAIN, rejected={})
    assert pca_trsfm.main([str(folder), "--exclude", "0"]) == 0
    return folder


@pytest.fixture
def a_set(good_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_set, tmp_path / "set"))


def refusal(capsys: pytest.CaptureFixture, program: Callable[[list[str]], int], *argv: object) -> str:
    """The one line with which a program refuses."""
    capsys.readouterr()
    assert program([str(a) for a in argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) < 1200, error
    return error


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def every(value: object) -> list:
    return [value] * ROWS


PATHS = [NUMBER, NULL, TEXT, TREE, every(NUMBER), every(NULL), every(LIST), every(TREE), every("nul\0byte"), [True]]
WRONG = {
    "dry_files": PATHS,
    "wet_files": PATHS,
    "runs": PATHS,
    "params_keys": [*PATHS, ["a"], []],
    "alignment_shifts": [
        *(NUMBER, NULL, TEXT, TREE, every(TEXT), every(NULL), every(1.5), every(float("nan")), every(float("inf"))),
        *(every(1e300), every(10**400), every(True), every([0])),
    ],
    "params_original_shapes": [
        *(NUMBER, NULL, TEXT, TREE, [], every(NUMBER), every(TEXT), every(NULL), every([1.5]), every([-1])),
        *(every([2**62]), every([2**62, 2**62]), every([[1]]), every([1] * 1000)),
    ],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_set_whose_description_is_wrong_is_refused_by_its_name(
    key: str, value: object, a_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(a_set / "info.json", **{key: value})
    assert str(a_set) in refusal(capsys, presets.main, "list", a_set)
    assert str(a_set) in refusal(capsys, loss_eval.main, a_set, a_set / "out.csv", "--cpu")
    assert not (a_set / "out.csv").exists()


@pytest.mark.parametrize("key", [key for key in WRONG if key != "runs"])
def test_a_set_that_lacks_a_part_of_its_description_is_refused(
    key: str, a_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = json.loads((a_set / "info.json").read_text())
    del info[key]
    (a_set / "info.json").write_text(json.dumps(info))
    assert f"info.json: lacks {key}; is it a preset set?" in refusal(capsys, presets.main, "list", a_set)


@pytest.mark.parametrize("run", ["~nosuchuser/run_0", "x" * 5000, "/dev/zero", "\udcff", ""])
def test_a_run_that_cannot_be_looked_up_is_as_one_that_is_gone(run: str, a_set: Path) -> None:
    rewrite(a_set / "info.json", runs=every(run))
    (a_set / "fx_config.yaml").rename(a_set / "chain.yaml")
    assert presets.main(["list", str(a_set), "--fx-config", str(a_set / "chain.yaml")]) == 0
    assert read_chain(a_set)[2].name == "fx_config.yaml", "the published chain"


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def claiming(shape: str, descr: str = "<f4") -> bytes:
    """A .npy file whose header claims a shape that it does not hold."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


BAD_ARRAYS = {
    "nothing": b"",
    "text": b"no array",
    "half": npy(np.ones((ROWS, 6), np.float32))[:150],
    "claims 80 TiB": claiming("(1099511627776, 20)"),
    "claims more than it holds": claiming("(4000, 6)"),
    "negative": claiming("(-4, 6)"),
    "many dimensions": claiming("(" + "1, " * 40 + ")"),
    "deep header": claiming("(" * 60),
    "objects": npy(np.array([{"a": 1}, None])),
    "words": npy(np.array([["a"] * 6] * ROWS)),
    "complex": npy(np.ones((ROWS, 6), complex)),
    "records": npy(np.zeros(ROWS, [("a", float)])),
    "archive": npz(mean=npy(np.ones(6))),
}


@pytest.mark.parametrize("content", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
@pytest.mark.parametrize("name", ["raw_params.npy", "gaussian.npz", "feature_mask.npy", "train_index.npy"])
def test_what_is_no_array_of_numbers_is_refused_by_its_file(
    name: str, content: bytes, a_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "train_index.npy":
        command = (pca_trsfm.main, a_set)
    else:
        command = (presets.main, "sample", a_set, tmp_path / "out")
    (a_set / name).write_bytes(content)
    assert f"{a_set / name}: " in refusal(capsys, *command)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", [(0, 6), (6,), (ROWS,), (ROWS, 6, 1), (), (ROWS, 5), (ROWS - 1, 6), (60_000, 6)])
def test_rows_in_another_shape_are_refused(shape: tuple, a_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(a_set / "raw_params.npy", np.zeros(shape, np.float32))
    assert str(a_set) in refusal(capsys, presets.main, "list", a_set)


@pytest.mark.parametrize("kind", ["f2", ">f4", "f8", "longdouble", "i1", "u8"])
def test_numbers_of_any_kind_are_read(kind: str, a_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(a_set / "raw_params.npy", np.ones((ROWS, 6), kind))
    assert presets.main(["show", str(a_set), "0"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if "gain" in line] == ["1.00"] * 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_rows_that_are_not_finite_have_no_gaussian_but_can_be_left_out(
    bad: float, a_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.load(a_set / "raw_params.npy").astype(np.float64)
    vectors[2, 1] = bad
    np.save(a_set / "raw_params.npy", vectors)
    (a_set / "gaussian.npz").unlink()
    assert presets.main(["list", str(a_set)]) == 0
    assert "1 of 4 presets are not finite" in refusal(capsys, presets.main, "sample", a_set, tmp_path / "out")
    assert "1 of 4 presets are not finite" in refusal(capsys, pca_trsfm.main, a_set, "--exclude", "none")
    assert pca_trsfm.main([str(a_set), "--exclude", "2"]) == 0


def gaussian(size: int = 6, **changes: np.ndarray) -> bytes:
    arrays = {"mean": np.zeros(size, np.float32), "cov": np.eye(size, dtype=np.float32)} | changes
    return npz(**{name: npy(array) for name, array in arrays.items()})


BAD_GAUSSIANS = {
    "lacks cov": npz(mean=npy(np.zeros(6))),
    "lacks both": npz(),
    "cov not square": gaussian(cov=np.zeros((3, 6))),
    "mean short": gaussian(mean=np.zeros(3)),
    "mean scalar": gaussian(mean=np.array(1.0)),
    "mean text": gaussian(mean=np.array(["a"] * 6)),
    "of another size": gaussian(3),
    "nan": gaussian(cov=np.full((6, 6), np.nan)),
    "inf": gaussian(mean=np.full(6, np.inf)),
    "npy": npy(np.zeros(6)),
    "claims": npz(mean=claiming("(1099511627776,)"), cov=npy(np.eye(6))),
}


@pytest.mark.parametrize("content", BAD_GAUSSIANS.values(), ids=BAD_GAUSSIANS)
def test_a_gaussian_of_something_else_is_refused(
    content: bytes, a_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (a_set / "gaussian.npz").write_bytes(content)
    assert "gaussian.npz: " in refusal(capsys, presets.main, "sample", a_set, tmp_path / "out")


@pytest.mark.parametrize(
    "mask", [np.ones(6, np.float32), np.ones(5, bool), np.array([0, 1000000]), np.ones((6, 1), bool), np.zeros(6, bool)]
)
def test_a_mask_of_something_else_is_refused(
    mask: np.ndarray, a_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(a_set / "feature_mask.npy", mask)
    assert "feature_mask.npy" in refusal(capsys, presets.main, "sample", a_set, tmp_path / "out")


@pytest.mark.parametrize("rows", [[[0, 1]], [0.0, 1.0], [0, ROWS], [-1, 0], 0, [True, False], [2**63], []])
def test_row_numbers_of_something_else_are_refused(rows: list, a_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(a_set / "train_index.npy", np.array(rows))
    assert refusal(capsys, pca_trsfm.main, a_set)


NO_FILES = [
    (change, name)
    for change in (fifo, device, folder, circle, enormous, Path.unlink)
    for name in ("info.json", "raw_params.npy", "gaussian.npz", "feature_mask.npy")
    # A set needs no Gaussian.
    if name != "gaussian.npz" or change not in (circle, Path.unlink)
]


@pytest.mark.parametrize(("change", "name"), NO_FILES)
def test_what_is_no_file_or_too_long_is_refused_at_once(
    change: Change, name: str, a_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(a_set / name)
    assert f"{a_set / name}: " in refusal(capsys, presets.main, "sample", a_set, tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    ["", "{", DEEP, '{"a":' * 100_000, f'{{"dry_files": {"[" * 900}{"]" * 900}}}', "[]", "5", "null", "NaN", "1" * 5000]
    + ["\0", '{"a": 1e}', '{"a": "\\ud800"}'],
    ids=lambda text: text[:12],
)
def test_json_of_any_other_kind_is_refused(text: str, a_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (a_set / "info.json").write_text(text)
    assert f"{a_set}/info.json: " in refusal(capsys, presets.main, "list", a_set)
    (a_set / "info.json").write_bytes(b"\xff\xfe" + text.encode())
    assert f"{a_set}/info.json: not a JSON file" in refusal(capsys, presets.main, "list", a_set)


ROW_TEXTS = ["0-99999999999", "99999999999", "9" * 5000, "3-2", "²", "-1", "~nosuch", "x" * 5000, "\udcff", "--"]


@pytest.mark.parametrize("text", ROW_TEXTS, ids=lambda text: text[:12])
def test_rows_that_the_set_has_not_are_refused(text: str, a_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, pca_trsfm.main, a_set, f"--exclude={text}")
    assert refusal(capsys, loss_eval.main, a_set, a_set / "out.csv", "--cpu", f"--subset={text}")
    assert not (a_set / "out.csv").exists()
    if text not in ("--", "-1"):
        assert refusal(capsys, presets.main, "show", a_set, text)


@pytest.mark.parametrize("count", [-5, -1, 0, 1_000_000_000])
def test_a_number_of_presets_that_cannot_be_is_refused(
    count: int, a_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("sample", a_set, tmp_path / "out"), ("interpolate", a_set, 0, 1, tmp_path / "out")):
        assert "--count" in refusal(capsys, presets.main, *command, "--count", count)
    for command in (("nearest", a_set, 0), ("outliers", a_set)):
        if count < 1:
            assert "--count" in refusal(capsys, presets.main, *command, "--count", count)
        else:
            assert presets.main([*map(str, command), "--count", str(count)]) == 0
    assert not (tmp_path / "out").exists()
