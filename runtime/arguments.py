"""Command lines of programs: their common parser, and the argument types and options that they share."""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from reknob.runtime import output, plugins
from reknob.runtime.errors import UsageError
from reknob.runtime.files import input_path, user_path
from reknob.runtime.settings import read_number

LARGEST_INT = 2**31 - 1


class Parser(argparse.ArgumentParser):
    """A parser whose help is the program's docstring, unformatted, and whose errors are a one-line UsageError.

    Args:
        description: the program's docstring.
        epilog: what follows the list of arguments.
        parents: parsers whose arguments this one includes.
        prog: the program's name in the help; of a subcommand argparse sets it.
        has_result: whether the program gives its result to `output.result`, and so has `--quiet` and `--json`.
    """

    _given: Sequence[str] = ()  # the arguments that are being parsed

    def __init__(
        self,
        description: str | None = None,
        *,
        epilog: str | None = None,
        parents: Sequence[argparse.ArgumentParser] = (),
        prog: str | None = None,
        add_help: bool = True,
        has_result: bool = True,
    ) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog,
            description=description,
            epilog=epilog,
            parents=parents,
            formatter_class=form,
            add_help=add_help,
            conflict_handler="resolve",  # so that a program may have a --json of its own, which takes a file
        )
        if add_help:
            # Listed for the help only: `runtime.program` removes both before the arguments are parsed.
            text = "show the traceback of an internal error"
            self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=text)
            self.add_argument(
                plugins.FLAG, metavar="MODULE", type=_spelt_out, default=argparse.SUPPRESS, help=plugins.HELP
            )
        if add_help and has_result:
            for flag, text in (("quiet", output.QUIET), ("json", output.JSON)):
                self.add_argument(f"--{flag}", action="store_true", default=argparse.SUPPRESS, help=text)

    def parse_known_args(
        self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        self._given = args or ()
        for argument in self._given:
            if argument.startswith("--") and argument.endswith("=--"):
                # argparse would set the argument to an empty list, whatever its type.
                self.error(f"{argument}: give a value after the =")
        parsed, rest = super().parse_known_args(args, argparse.Namespace() if namespace is None else namespace)
        # Removed, so that programs need not know of them. The `--json FILE` of a program's own option stays.
        as_json = vars(parsed).get("json") is True
        if as_json:
            vars(parsed).pop("json")
        output.choose(quiet=vars(parsed).pop("quiet", False), as_json=as_json)
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        # What is misspelt explains more than what argparse complains of first, as an argument that is then missing.
        misspelt = next(filter(None, (_misspelt(argument, set(_option_names(self))) for argument in self._given)), "")
        text = misspelt or message
        raise UsageError(f"{text}{'' if text.endswith('?') else ';'} --help lists the arguments")


def _misspelt(argument: str, options: set[str]) -> str:
    """What is wrong with an option that does not exist, or lacks its dashes; empty for other arguments."""
    name, equals, _ = argument.partition("=")
    if equals and f"--{name}" in options:
        return f"{argument}: write it as --{argument}"
    if not name.startswith("--") or name == "--" or any(option.startswith(name) for option in options):
        return ""
    close = get_close_matches(name, sorted(options), 1)
    return f"unknown option {name}{f'; did you mean {close[0]}?' if close else ''}"


def _option_names(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser and of its subcommands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _option_names(each)


def _spelt_out(text: str) -> NoReturn:
    """Refuses an abbreviation of --plugin, which `runtime.program` would not have seen."""
    raise argparse.ArgumentTypeError(f"write {plugins.FLAG} {text} in full")


def file_path(text: str) -> Path:
    """A path of a file or a folder, whether it exists or not, with `~` expanded."""
    try:
        return user_path(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def input_file(text: str) -> Path:
    """A path of a file or a folder to read, the user's or one that the project ships (`runtime.files.input_path`)."""
    try:
        return input_path(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def integer(lowest: int, highest: int = LARGEST_INT) -> Callable[[str], int]:
    """An argument type: whole numbers from `lowest` to `highest`, both included."""
    least = f"give {lowest} or more" if lowest > -LARGEST_INT else "give one, as -1"
    allowed = f"give a whole number from {lowest} to {highest}" if highest < LARGEST_INT else least

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number: {allowed}") from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text[:40]}: {allowed}")
        return value

    return read


def real(lowest: float, highest: float) -> Callable[[str], float]:
    """An argument type: numbers from `lowest` to `highest`, both included."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan  # which lies in no range
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: give a number from {lowest:g} to {highest:g}")
        return value

    return read


def positive_float(text: str) -> float:
    """A finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: give a number above 0")
    return value


non_negative_int, positive_int = integer(0), integer(1)


def level(text: str) -> float | str | None:
    """A loudness in LUFS, -100 to 100; None for `off`, and `preset` as it is."""
    if text == "preset":
        return text
    try:
        value = read_number(text)
    except ValueError:
        value = math.nan
    if value is not None and not -100 <= value <= 100:
        allowed = "a number of LUFS, or off" if math.isnan(value) else "-100 to 100 LUFS, or off"
        raise argparse.ArgumentTypeError(f"{text[:40]}: give {allowed}")
    return value


def chain_inputs(args: argparse.Namespace) -> list[Path | None]:
    """The files and folders that a program with `chain_options` reads; None for those that were not given."""
    inputs = args.input if isinstance(args.input, list) else [args.input]
    return [*inputs, args.run, args.preset, args.values, args.fx_config]


def chain_options() -> argparse.ArgumentParser:
    """The options that select a chain, its values and how it is rendered, as a parent of a program's parser."""
    p = argparse.ArgumentParser(add_help=False)
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="FOLDER", type=file_path, help="run folder")
    source.add_argument("--preset", metavar="PRESET", type=file_path, help="preset.json, or a preset set and --row")
    source.add_argument("--values", metavar="FILE", type=file_path, help="parametrised.pth")
    p.add_argument("--row", type=integer(-LARGEST_INT), default=0, help="row of the preset set (default 0)")
    default = "default: the set's own, or the full one"
    p.add_argument("--fx-config", metavar="YAML", type=file_path, help=f"their chain ({default})")
    p.add_argument(
        "--loudness", type=level, default="preset", help="LUFS of the input, or off (default: the preset's, -18)"
    )
    p.add_argument(
        "--set", dest="changes", metavar="NAME=VALUE", action="append", default=[], help="change a value: comp.makeup=3"
    )
    p.add_argument(
        "--amount", type=real(0, 2), default=1.0, metavar="X", help="how much of the preset: 0 off, 1 all of it"
    )
    p.add_argument("--no-delay", action="store_true", help="mute the delay")
    p.add_argument("--no-reverb", action="store_true", help="mute the reverb")
    p.add_argument("--realtime", action="store_true", help="render delay and reverb sample by sample")
    return p
