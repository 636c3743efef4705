"""Every command that the README and the programs show is one that the programs understand."""

import argparse
import ast
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from afx.registry import build

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PROGRAMS = sorted([*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")])


def commands(text: str) -> list[str]:
    """The `python …` lines of code blocks, of indented blocks and of inline code, without what only explains them."""
    found = re.findall(r"^ *(?:\$ )?(python .*)$", text.replace("\\\n", " "), re.MULTILINE)
    found += re.findall(r"`(python [^`]*)`", text)
    # Two spaces, a comment sign or a pipe end a command.
    return [re.split(r" {2,}| #|[|>;&]|`", line)[0].strip() for line in found]


def shown() -> dict[str, list[str]]:
    """Commands by the file that shows them."""
    pages = [README, *sorted((ROOT / "checkpoints").glob("*.md"))]
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in pages if path.exists()}
    sources |= {str(path.relative_to(ROOT)): ast.get_docstring(ast.parse(path.read_text())) or "" for path in PROGRAMS}
    return {name: commands(text) for name, text in sources.items()}


CASES = [pytest.param(line, id=f"{name}: {line}") for name, lines in shown().items() for line in lines]


class Understood(BaseException):
    """Raised where a program has read its arguments, so that it does no more."""


def module_of(words: list[str]) -> tuple[str, list[str]]:
    """The program that a command names, as a module, and its arguments."""
    if words[0] == "-m":
        return words[1], words[2:]
    assert words[0].endswith(".py"), words[0]
    return words[0].removesuffix(".py").replace("/", "."), words[1:]


@pytest.mark.parametrize("line", CASES)
def test_a_shown_command_names_a_program_and_its_arguments(line: str, monkeypatch: pytest.MonkeyPatch):
    name, argv = module_of(shlex.split(line)[1:])
    argv = [word for word in argv if word != "…"]
    monkeypatch.chdir(ROOT)
    assert (ROOT / (name.replace(".", "/") + ".py")).is_file()
    program = importlib.import_module(name)
    if hasattr(program, "read_settings"):
        settings = program.read_settings(argv)
        build(settings.chain, settings.sr)
        return
    read = argparse.ArgumentParser.parse_args

    def read_and_stop(parser: argparse.ArgumentParser, given: list[str] | None = None) -> None:
        read(parser, given)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read_and_stop)
    monkeypatch.setattr(sys, "argv", [name, *argv])
    with pytest.raises(Understood):
        program.main()


def test_every_program_shows_how_it_is_called():
    own = {name: lines for name, lines in shown().items() if name.endswith(".py")}
    assert [name for name, lines in own.items() if not any(name in line for line in lines)] == []


def test_commands_are_found_wherever_they_stand():
    text = (
        "Say `python -m a.b --c` and\n```bash\npython x.py a=1    # a note\n$ python y.py | less\n```\n"
        "    python z.py \\\n  --long    words\nand python as a word"
    )
    assert commands(text) == ["python x.py a=1", "python y.py", "python z.py", "python -m a.b --c"]


def test_every_file_that_the_readme_links_to_is_there():
    targets = re.findall(r"\]\((?!http)([^)#]+)", README.read_text())
    assert targets and [target for target in targets if not (ROOT / target).exists()] == []
