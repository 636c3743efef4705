"""Every command and example that the pages and the programs show works: parsed all, run where that takes seconds."""

import argparse
import ast
import importlib
import math
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from takes import SHORT, SMALL, SR, mixed, take

from docs import generate
from reknob import cli
from reknob.afx.registry import build
from reknob.data.audio import write_audio
from reknob.fitting import direct_sound, free_network, pruning, response, restarts, space, start
from reknob.runtime.plugins import split_arguments

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    *(README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "checkpoints").glob("*.md")),
]
PROGRAMS = sorted([*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")])
README_LINES = 200
# The console command's words for programs of another name; any other word is the name of a program in scripts/.
CONSOLE = {command: module for command, (module, _) in cli.COMMANDS.items()}


def commands(text: str) -> list[str]:
    """The `python …` and `reknob …` lines of code blocks, of indented blocks and of inline code.

    Without what only explains them: two spaces, a comment sign or a pipe end a command.
    """
    text = text.replace("\\\n", " ")
    found = re.findall(r"^ *(?:\$ )?((?:python|reknob) .*)$", in_blocks(text), re.MULTILINE)
    # In a sentence a name alone, as `reknob fit` in a table, is no command to be checked.
    found += re.findall(r"`((?:python|reknob \w+) [^`\n]*)`", text)
    return [re.split(r" {2,}| #|[|>;&]|`", line)[0].strip() for line in found]


def in_blocks(text: str) -> str:
    """What stands in code blocks and in indented lines."""
    fenced = re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"^ {4}.*$", text, re.MULTILINE)])


def examples(text: str) -> list[str]:
    """The Python code blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def shown() -> dict[str, list[str]]:
    """Commands by the file that shows them."""
    sources = {name_of(path): path.read_text() for path in PAGES}
    sources |= {name_of(path): ast.get_docstring(ast.parse(path.read_text())) or "" for path in PROGRAMS}
    return {name: commands(text) for name, text in sources.items()}


def cases(lines_of: dict[str, list[str]]) -> list:
    return [pytest.param(line, id=f"{name}: {line}") for name, lines in lines_of.items() for line in lines]


class Understood(BaseException):
    """Raised where a program has read its arguments, so that it does no more; no program catches it."""


def module_of(words: list[str]) -> tuple[str, list[str]]:
    """The program that a command names, as a module, and its arguments."""
    if words[0] == "reknob":
        return CONSOLE[words[1]], words[2:]
    words = words[1:]
    if words[0] == "-m":
        return words[1], words[2:]
    assert words[0].endswith(".py"), words[0]
    return words[0].removesuffix(".py").replace("/", "."), words[1:]


def arguments_of(line: str) -> tuple[str, list[str]]:
    """A command's program and the arguments that its `main` gets, without the … that stands for others."""
    name, argv = module_of(shlex.split(line))
    return name, split_arguments([word for word in argv if word != "…"])[0]


SHOWN = shown()


@pytest.mark.parametrize("line", cases(SHOWN))
def test_a_shown_command_names_a_program_and_its_arguments(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, argv = arguments_of(line)
    monkeypatch.chdir(ROOT)
    assert (ROOT / (name.replace(".", "/") + ".py")).is_file()
    program = importlib.import_module(name)
    if "--help" in argv:
        return
    if hasattr(program, "read_settings"):
        # A document that an earlier command of the page would write.
        settings = program.read_settings([word for word in argv if not word.startswith("start=estimate")])
        held = settings if isinstance(settings, dict) else vars(settings)
        build(held["chain"], held["sr"])
        return
    if "…" in line:
        return
    read = argparse.ArgumentParser.parse_args

    def read_and_stop(parser: argparse.ArgumentParser, given: list[str] | None = None) -> None:
        read(parser, given)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read_and_stop)
    monkeypatch.setattr(sys, "argv", [name, *argv])
    with pytest.raises(Understood):
        program.main()


#: Programs whose commands are run where a page shows them, with what makes them small.
RUN = {
    "main": (*SMALL, "epochs=1", "chunk_duration=1.5", "restarts=2"),
    "scripts.render": (),
    "scripts.play": (),
    "scripts.estimate": (),
    "scripts.presets": (),
    "scripts.export": (),
    "scripts.pca_trsfm": (),
    "scripts.check_pair": (),
}
#: What a command must name, if its program reads recordings.
RECORDINGS = ("dry.wav", "in.wav", "song.mp3", "data_dir=my_pairs")
ABOUT_THE_CHAIN = ("chain.", "start=", "--config")
OUTPUTS = ("out.wav", "again.wav", "like_song.wav", "song.png", "song.json", "findings.json")
WITHOUT_RECORDINGS = ("scripts.presets", "scripts.export", "scripts.pca_trsfm")


def runnable() -> Iterator[str]:
    """The commands of the pages that the files of `workshop` are enough for."""
    lines = dict.fromkeys(line for path in PAGES for line in SHOWN[name_of(path)])
    for line in lines:
        name, argv = arguments_of(line)
        named = any(word.endswith(RECORDINGS) for word in argv)
        to_the_loudspeakers = name == "scripts.play" and "out.wav" not in argv
        if name in RUN and (named or name in WITHOUT_RECORDINGS) and not to_the_loudspeakers:
            yield line


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, fitted: Path) -> Path:
    """A folder with the recordings, the run and the preset sets that the pages' commands name."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "my_pairs" / "voice").mkdir(parents=True)
    for place in (folder, folder / "my_pairs" / "voice"):
        write_audio(place / "dry.wav", take(1.7), SR)
        write_audio(place / "wet.wav", mixed(take(1.7)), SR)
    write_audio(folder / "in.wav", take(2.0), SR)
    write_audio(folder / "song.mp3", mixed(take()), SR)
    shutil.copytree(fitted, folder / "logs" / "demo" / "run_0")
    shutil.copy(fitted / "preset.json", folder)
    for name in ("own", "mine"):
        shutil.copytree(ROOT / "presets" / "own", folder / "presets" / name)
    for name in ("cfg", "checkpoints"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def brief_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of each kind in a start from the signals, and of a trial without an effect."""
    steps = (
        (start, "ADAPTING"),
        (direct_sound, "ITERATIONS"),
        (restarts, "STEPS"),
        (pruning, "STEPS"),
        (response, "STEPS"),
        (free_network, "READING"),
        (free_network, "ADAPTING"),
        (space, "ECHO"),
        (space, "REFINING"),
    )
    for module, name in steps:
        monkeypatch.setattr(module, name, 2)
    for module, name in ((free_network, "DECAYS"), (free_network, "WINDOWS"), (space, "TOGETHER")):
        monkeypatch.setattr(module, name, getattr(module, name)[:1])
    for name, value in (("ESTIMATED_S", 0.2), ("CLEAR", math.inf)):
        monkeypatch.setattr(space, name, value)


@pytest.mark.parametrize("line", runnable())
@pytest.mark.usefixtures("brief_start")
def test_a_shown_command_runs(line: str, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(workshop, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    name, argv = arguments_of(line)
    small = RUN[name]
    if name == "main" and not any(word.startswith("model=") for word in argv):
        # Echo and reverb, which take most of the time, where the command is about them or names effects.
        small = (*small, *(SHORT if any(word.startswith(ABOUT_THE_CHAIN) for word in argv) else ["model=eq_comp"]))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert importlib.import_module(name).main([*argv, *small]) == 0
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {tmp_path / word for word in argv if word in OUTPUTS} <= made
    assert name != "main" or any(path.name == "fitted.flac" for path in made)


def test_an_estimate_is_what_the_readme_shows(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    row = re.compile(r"^(\w+(?:\.\w+)+) +(-?[\d.]+) ", re.MULTILINE)
    checkpoint = "checkpoints/peq_comphalf.pt"
    expected = dict(row.findall(README.read_text().partition("```\ndata/demo/wet.ogg")[2].partition("```")[0]))
    estimate = importlib.import_module("scripts.estimate")
    assert estimate.main(["data/demo/wet.ogg", "--checkpoint", checkpoint]) == 0
    printed = dict(row.findall(capsys.readouterr().out))
    assert len(expected) >= 5
    assert {name: float(printed[name]) for name in expected} == {
        name: pytest.approx(float(value), rel=0.02) for name, value in expected.items()
    }


def test_every_program_shows_how_it_is_called() -> None:
    own = {name: lines for name, lines in SHOWN.items() if name.endswith(".py")}
    assert [name for name, lines in own.items() if not any(name in line for line in lines)] == []


def test_every_program_is_in_the_readme() -> None:
    assert [name_of(path) for path in PROGRAMS if f"`{name_of(path)}`" not in README.read_text()] == []


def test_commands_are_found_wherever_they_stand() -> None:
    text = (
        "Say `python -m a.b --c` and `reknob fit` or\n```bash\npython x.py a=1    # a note\n$ python y.py | less\n"
        "reknob eval SET\n```\n    python z.py \\\n  --long    words\n\nand\npython as a word\n"
    )
    found = ["python -m a.b --c", "python x.py a=1", "python y.py", "python z.py", "reknob eval SET"]
    assert sorted(commands(text)) == found


def slug(heading: str) -> str:
    """The anchor of a heading, as the site makes it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


def anchors(path: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_holds_both_sides_of_a_merge(page: Path) -> None:
    assert re.findall(r"^(?:<{7}|={7}|>{7})(?: .*)?$", page.read_text(), re.MULTILINE) == []


def test_the_site_holds_every_page() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    held = re.findall(r"'([^']+\.md)'", repr(nav))
    outside = [name_of(path) for path in PAGES if path.parent != ROOT / "docs" and path != README]
    assert sorted(held) == sorted([*(p.name for p in (ROOT / "docs").glob("*.md")), *outside, "afx/weights/proxy.md"])


@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == generate.PAGES[name](), "run python -m docs.generate"


def test_the_readme_is_one_page_and_its_picture_is_small() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES
    assert (ROOT / "docs" / "images" / "demo.png").stat().st_size <= 200_000


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page.read_text())], ids=name_of)
def test_examples_in_python_name_what_the_package_has(page: Path) -> None:
    reknob = pytest.importorskip("reknob")
    for text in examples(page.read_text()):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "reknob":
                assert hasattr(reknob, node.attr), f"reknob.{node.attr}"


def test_the_examples_of_extending_run() -> None:
    reknob = pytest.importorskip("reknob")
    if not hasattr(reknob, "build"):
        pytest.skip("the package has no API yet")
    tables = [importlib.import_module(name) for name in ("reknob.afx.registry", "reknob.losses", "reknob.encoders")]
    held = [(table, dict(table)) for table in (tables[0].EFFECTS, tables[1].LOSSES, tables[2].ENCODERS)]
    names: dict[str, object] = {}
    try:
        for text in examples((ROOT / "docs" / "extending.md").read_text()):
            exec(compile(text, "docs/extending.md", "exec"), names)  # noqa: S102 - code of our own page
    finally:
        for table, before in held:
            table.clear()
            table.update(before)
    assert names["y"].shape == (2, 2, 44100) and names["knobs"].sat.drive.grad is not None
    assert names["loss"](names["y"], names["y"]) == 0
    assert names["controller"](names["x"]).shape == (2, 15)


def test_the_table_of_programs_is_that_of_the_commands() -> None:
    rows = re.findall(r"^\| `([\w/]+)\.py` \| `reknob ([\w-]+)` \|", README.read_text(), re.MULTILINE)
    assert {command: path.replace("/", ".") for path, command in rows} == CONSOLE
