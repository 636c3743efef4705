"""No list of arguments ends a program in a traceback: flags of its own with odd values, in odd numbers and places."""

import importlib
import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from reknob.app import uploads

LISTS = 250
ODD = [
    *("", " ", "-", "--", "=", "-1", "0", "1", "2.5", "1e400", "-inf", "nan", "9" * 5000, "1e-320", "½"),
    *("null", "true", "[", "{}", "[1, 2", "{a: [", "!!python/object:os.system", "&a [*a]", "a: b: c", "%s", "{0}"),
    *("~", "~nosuchuser/x", "a\0b", "音楽.wav", "\udcff.wav", "\x1b[2J", "a" * 300, "a/" * 3000, "x" * 20000),
    *("/", ".", "..", "/dev/null", "/dev/full", "/proc/self/mem", "nowhere/x.wav", "x.wav", "x.png"),
    *("0-99999999999", "0,1", "a,b", "generated,folder", "2020-01-01", "99999-99-99:99", "@nowhere", "@", "cuda"),
]
OWN = str(Path(__file__).parents[1] / "presets" / "own")
#: What comes before and after the odd arguments, so that programs get far and begin nothing: inputs that do not exist.
AROUND: dict[str, tuple[list[str], list[str]]] = {
    "loss_eval": ([OWN, "x.csv"], ["--subset=99"]),
    "main": ([], ["dry=nowhere.wav", "wet=nowhere.wav", "data_dir=null", "dataset=pair"]),
    "train_analysis_net": ([], ["--data=folder", "--data_dir=nowhere"]),
    "scripts.app": ([], ["--", "nowhere"]),
    "scripts.calibrate_estimator": ([], ["--checkpoint=nowhere.pt"]),
    "scripts.estimate": (["nowhere.wav"], []),
    "scripts.fit_many": (["nowhere", "out"], []),
    "scripts.get_params": (["nowhere", "out", "2020-01-01"], []),
    "scripts.make_pairs": (["out"], ["--fx-config=nowhere.yaml"]),
    "scripts.pca_trsfm": (["nowhere"], []),
    "scripts.play": ([f"--preset={OWN}", "nowhere.wav"], []),
    "scripts.render": ([f"--preset={OWN}", "nowhere.wav", "x.wav"], []),
    "scripts.train_on_statistics": ([], ["--data=folder", "--data_dir=nowhere"]),
    "scripts.train_proxy": ([], ["--data_dir=nowhere"]),
}
COMMANDS = [
    *(["list", OWN], ["show", OWN, "0"], ["nearest", OWN, "0"], ["outliers", OWN], ["sample", OWN, "out"]),
    ["interpolate", OWN, "0", "1", "out"],
]
PROGRAMS = sorted(
    ".".join(path.with_suffix("").parts[-depth:])
    for depth, folder in ((1, "."), (2, "scripts"))
    for path in (Path(__file__).parents[1] / folder).glob("*.py")
)


def flags_of(main: Callable, capsys: pytest.CaptureFixture) -> list[str]:
    """The flags and the commands that a program's help shows."""
    capsys.readouterr()
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    return sorted({*re.findall(r"--[\w.-]+", text), *re.findall(r"(?m)^    ([a-z]+) ", text)} - {"--help"})


def argument_lists(name: str, flags: list[str], draw: random.Random) -> Iterator[list[str]]:
    """Lists of up to 8 arguments, and of 1 or 2 among those that the program needs."""
    for _ in range(LISTS // 2):
        yield [argument(flags, draw) for _ in range(draw.randrange(9))] + AROUND.get(name, ([], ["nowhere"]))[1]
        before, after = AROUND.get(name, ([], []))
        if name == "scripts.presets":
            before = draw.choice(COMMANDS)
        odd = [f"{draw.choice(flags)}={draw.choice(ODD)}" for _ in range(draw.randrange(1, 3))]
        if before and draw.random() < 0.3:
            before = before.copy()
            before[draw.randrange(len(before))] = draw.choice(ODD)
        yield [*before, *odd, *after]


def argument(flags: list[str], draw: random.Random) -> str:
    """A flag, a value, or both with = between."""
    kind, flag = draw.random(), draw.choice(flags)
    if kind < 0.3:
        return flag
    key = flag.removeprefix("--") if kind < 0.4 else flag
    return f"{key}={draw.choice(ODD)}" if kind < 0.7 else draw.choice(ODD)


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_arguments_are_a_fault(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Home and the folder above are empty too: programs look through folders.
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    # The page decodes its demo whenever it is started.
    monkeypatch.setattr(uploads, "_described", cache(uploads._described))
    main = importlib.import_module(name).main
    wrong = []
    for argv in argument_lists(name, flags_of(main, capsys), random.Random(name)):
        status = main(argv)
        told = capsys.readouterr().err
        # Of several recordings each that failed has a line before that of the program.
        lines = [line for line in told.splitlines() if ": failed: " not in line]
        if status not in (0, 2) or (status == 2 and len(lines) != 1):
            wrong.append((status, told[-500:], argv))
    assert wrong == []
