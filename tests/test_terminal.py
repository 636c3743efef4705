"""What programs show: the result as text or JSON, notes and progress apart from it, the table of a fit, the curves."""

from reknob.runtime.program import program

import io
import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from takes import QUICK, SR, write_pair

import main
from reknob.afx.effect import Knobs
from reknob.afx.registry import build
from reknob.formats.certainty import Certainty
from reknob.formats.effects import EffectsRecord
from reknob.report import board
from reknob.report.tables import text_table
from reknob.report.values import marks, value_rows, values_table
from reknob.runtime import bars, output
from reknob.runtime.arguments import Parser
from reknob.runtime.bars import progress_bar
from reknob.runtime.errors import UsageError
from reknob.runtime.settings import read_yaml
from scripts import check_pair, render

ROOT = Path(__file__).parents[1]
Printed = pytest.CaptureFixture[str]


@program
def shown(argv: list[str]) -> int:
    """Notes, a bar, log records and a result in two parts."""
    args = Parser("Shows.").parse_args(argv)
    assert vars(args) == {}
    sys.stdout.write("a note\n")
    for _ in progress_bar(range(3), unit="step"):
        pass
    logging.info("a remark")
    logging.warning("a warning")
    output.result("the result", path=Path("a.wav"), losses=[1.5, float("nan")], count=np.int64(2))
    output.result("more of it", tensor=torch.tensor([[1.0]]))
    return 0


def test_the_result_is_text_beside_notes_or_json_alone(capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's own, without which a program shows what is logged
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert shown([]) == 0
    assert capsys.readouterr() == ("a note\nthe result\nmore of it\n", "a remark\na warning\n")
    assert shown(["--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"path": "a.wav", "losses": [1.5, None], "count": 2, "tensor": [[1.0]]}
    assert err == "a note\na remark\na warning\n"
    assert shown(["--quiet"]) == 0
    assert capsys.readouterr() == ("the result\nmore of it\n", "a warning\n")
    assert shown(["--quiet", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["count"] == 2 and err == "a warning\n"
    sys.stdout.write("as before\n")
    assert capsys.readouterr().out == "as before\n", "the streams are restored"


def test_an_error_is_part_of_the_json(capsys: Printed) -> None:
    @program
    def failing(argv: list[str]) -> int:
        Parser().parse_args(argv)
        output.result(begun=True)
        raise UsageError("the café is closed")

    assert failing(["--json"]) == 2
    out, err = capsys.readouterr()
    assert out.isascii() and json.loads(out) == {"begun": True, "error": "the café is closed"}
    assert err == "test_terminal.py: the café is closed\n"


def test_a_program_with_a_file_of_its_own_writes_json_there_or_to_standard_output(
    tmp_path: Path, capsys: Printed
) -> None:
    files = [word.partition("=")[2] for word in write_pair(tmp_path)[:2]]
    assert check_pair.main([*files, "--json", str(tmp_path / "x.json")]) == 0
    assert "aligned" in (text := capsys.readouterr().out) or "a good pair" in text
    assert check_pair.main([*files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "x.json").read_text())


def test_a_fit_in_json_has_values_with_units_and_nothing_beside(tmp_path: Path, capsys: Printed) -> None:
    pair = [*write_pair(tmp_path), *QUICK, "epochs=1"]
    assert main.main([*pair, "--json"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    (song,) = record["songs"]
    assert (song["name"], song["outcome"], song["steps"]) == ("song", "fitted", 1) and record["failed"] == []
    assert song["run"] == str(tmp_path / "logs" / "song" / "run_0") and song["loss"]["lowest"] > 0
    assert song["values"]["comp.attack"] == {"value": pytest.approx(50, rel=0.1), "unit": "ms"}
    assert "song: 2 chunks" in err
    assert not {"json", "quiet"} & read_yaml(tmp_path / "logs" / "song" / "run_0" / "config.yaml").keys()
    assert main.main([*pair, "quiet=true"]) == 0
    out, err = capsys.readouterr()
    assert "comp" in out and "chunks" not in out + err and "step/s" not in err
    assert main.main([*pair, "wet=nowhere.wav", "--json"]) == 2
    (song,) = json.loads(capsys.readouterr().out)["songs"]
    assert song["outcome"] == "failed" and "nowhere.wav" in song["reason"]


def test_a_program_of_two_positions_takes_the_flag_anywhere(tmp_path: Path, capsys: Printed) -> None:
    write_pair(tmp_path)
    argv = ["--preset", "presets/own", "--json", str(tmp_path / "none.wav"), str(tmp_path / "x.wav")]
    assert render.main(argv) == 2
    assert "none.wav" in json.loads(capsys.readouterr().out)["error"]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_a_minute_and_a_terminal_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(bars, "time", SimpleNamespace(monotonic=lambda: clock["now"]))

    def drawn(stream: io.StringIO) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(title="fit", total=5, unit="step") as bar:
            for _ in range(5):
                clock["now"] += 25
                bar.set_postfix(loss="0.5", refresh=False)
                bar.update()
                bar.refresh()
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    lines = drawn(io.StringIO()).splitlines()
    assert [line.split(" in ")[0] for line in lines] == ["fit 3/5 steps"] and "loss=0.5" in lines[0]
    text = drawn(Terminal())
    assert text.count("\n") == 1 and text.endswith("\n") and text.count("\r") >= 5
    assert max(map(len, text.rstrip("\n").split("\r"))) <= bars.COLUMNS, "a longer one would break"
    monkeypatch.setenv("TERM", "dumb")
    assert "\r" not in drawn(Terminal())


def test_a_notebook_is_drawn_over() -> None:
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert bars.is_drawn()
        patch.setattr(sys, "stderr", io.StringIO())
        assert not bars.is_drawn()


PROGRAM = """
import sys
from reknob.runtime.bars import progress_bar
from reknob.runtime.output import result
with progress_bar(title="fit", total=30, unit="step") as bar:
    for step in range(30):
        bar.set_postfix(text="long " * 40, refresh=False)
        bar.update()
        bar.refresh()
        if step == 10:
            result("a note")
result("done")
"""


def test_a_bar_stays_on_one_line_of_a_real_terminal() -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}
    command = [sys.executable, "-S", "-c", f"import sys; sys.path = {sys.path!r}\n{PROGRAM}"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as child:
        os.close(theirs)
        text = b""
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:  # the terminal is closed
                break
    os.close(ours)
    assert child.returncode == 0
    lines = text.decode().replace("\r\n", "\n").rstrip("\n").split("\n")
    assert len(lines) == 3 and lines[0].endswith("\ra note") and "30/30" in lines[1] and lines[2] == "done"
    # This terminal tells no size.
    assert all(len(drawing) <= bars.COLUMNS for line in lines for drawing in line.split("\r"))


CHAIN = {
    "peak": {"effect": "peak"},
    "low_pass": {"effect": "low_pass"},
    "comp": {"effect": "compressor_expander"},
    "sends": {"effect": "sends", "delay": {"effect": "ping_pong_delay"}, "reverb": {"effect": "fdn"}},
}


def values_of(**changed: float) -> tuple:
    chain = build(CHAIN, SR)
    knobs = Knobs(chain, torch.Generator().manual_seed(0)).requires_grad_(False)
    values = knobs()
    for name, value in changed.items():
        effect, _, parameter = name.partition("__")
        values[effect][parameter] = torch.tensor(value)
    return chain, values


def test_effects_of_the_same_parameters_are_lines_of_one_block_with_aligned_units() -> None:
    lines = values_table(*values_of(peak__gain=-12.5)).splitlines()
    assert lines[0].split() == ["gain", "freq", "Q"]
    assert lines[1].split()[:4] == ["peak", "-12.50", "dB", "2000"] and lines[2].split()[0] == "low_pass"
    assert lines[1].index(" Hz") == lines[2].index(" Hz"), "units stand below each other"
    assert max(map(len, lines)) <= 100
    assert not any("sends.reverb.U" in line for line in lines)
    comp = [line.split()[0] for line in lines if "comp" in line and "dB" in line]
    assert comp == ["comp"] and sum(" comp " in line for line in lines) == 2, "too wide for one line"


def test_marks_say_what_hardly_changes_the_sound() -> None:
    assert marks(*values_of(peak__gain=0.3))["peak"] == "-" and marks(*values_of(peak__gain=3.0))["peak"] == " "
    off = values_of(comp__cmp_ratio=1.0, comp__exp_ratio=1.0)
    assert marks(*off)["comp"] == "-" and marks(*values_of(comp__cmp_ratio=1.0))["comp"] == " "
    assert "- changes nothing" in values_table(*values_of(peak__gain=0.3))


def test_what_effects_are_worth_decides_where_it_is_known() -> None:
    record = EffectsRecord(
        {"peak": 0.01, "comp.expander": 0.2, "sends.reverb": 0.0}, {"sends.delay": 0.0, "low_pass": 0.0}, 0.9, 1.0
    )
    found = marks(*values_of(peak__gain=0.3), record)
    assert {name: found[name] for name in ("peak", "comp", "low_pass", "sends.delay", "sends.reverb")} == {
        "peak": " ",
        "comp": "*",
        "low_pass": "-",
        "sends.delay": "-",
        "sends.reverb": " ",
    }
    text = values_table(*values_of(), None, record)
    assert "* without it the loss rises by more than 5 %" in text
    assert [line.split()[:2] for line in text.splitlines() if "odd_pan" in line] == [["-", "sends.delay.odd_pan"]]


def test_uncertain_values_are_marked() -> None:
    words = {"peak.gain": "found", "peak.freq": "bounded", "peak.Q": "not identifiable"}
    certainty = {name: Certainty(0.5, 2.0, word) for name, word in words.items()}
    lines = values_table(*values_of(peak__gain=1.0), certainty).splitlines()
    assert [line.split("  ")[-1].strip() for line in lines[1:4]] == ["found", "~ bounded", "? not identifiable"]
    assert [line.split()[0] for line in lines[1:4]] == ["peak", "freq", "Q"], "an effect is named once"
    row = value_rows(*values_of(peak__gain=1.0), certainty)[1]
    assert row.record() == {
        "value": pytest.approx(2000),
        "unit": "Hz",
        "low": 0.5,
        "high": 2.0,
        "certainty": "bounded",
    }


def test_numbers_with_units_are_aligned_to_the_right() -> None:
    table = text_table(["a", "b"], [["x", "1 dB"], ["longer", "-10.25 dB"], ["", ""]])
    assert table == "a               b\nx            1 dB\nlonger  -10.25 dB\n".rstrip("\n") + "\n"


def test_curves_matrices_and_arrays_are_pictures_at_some_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [step for step in range(3000) if board._has_curves(step)] == [20, 100, 500, 2500]
    written = {}

    class Writer:
        def add_figure(self, tag: str, figure: object, step: int) -> None:
            written[tag] = [axes.get_title() for axes in figure.axes]
            assert figure.axes[0].get_lines()

        def add_image(self, tag: str, image: torch.Tensor, step: int) -> None:
            written[tag] = (tuple(image.shape), 0 <= image.min() <= image.max() <= 1)

        def add_histogram(self, tag: str, values: torch.Tensor, step: int) -> None:
            written[tag] = values.numel()

    chain, values = values_of()
    board._write_curves(Writer(), SimpleNamespace(open_run=SimpleNamespace(chain=chain)), values, 20)
    assert written["response/Equaliser"] == ["Equaliser"]
    assert written["values 08 sends.reverb/U"] == ((1, 6 * board.CELL, 6 * board.CELL), True)
    assert written["values 08 sends.reverb/gamma"] > 1 and not any("peak" in tag for tag in written)


@pytest.mark.parametrize(
    "path",
    # The page's server has no result.
    sorted([*ROOT.glob("*.py"), *(path for path in (ROOT / "scripts").glob("*.py") if path.stem != "app")]),
    ids=lambda p: p.name,
)
def test_every_program_gives_its_result_apart_from_notes(path: Path) -> None:
    text = path.read_text()
    assert "from reknob.runtime.output import" in text and "result(" in text
