"""Writes the pages of docs/ that are generated from the code's own declarations: effects.md.

    python -m docs.generate

A test compares the committed pages with what this writes.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from afx import param
from afx.effect import Effect
from afx.param import Param, RawNormal, Uniform
from afx.registry import EFFECTS, KEYS, build, parse_chain
from runtime.settings import read_yaml

ROOT = Path(__file__).resolve().parent.parent
SR = 44100  # Hz; defaults and ranges that depend on the sample rate are given at this one
CHAIN = "cfg/model/diffvox.yaml"

HEAD = """# Effects and their ranges

*This page is generated from the declarations in `afx/` by `python -m docs.generate`; do not edit it.*

Every effect, with its parameters, their units, defaults and ranges, and its options. *Parameters* are fitted or
estimated; *options* are chosen and stay as they are. Defaults and ranges are those at {sr} Hz. A chain file or a
setting may change a default, narrow a range or choose an option, as in the [chain of DiffVox](#the-chain-of-diffvox):

```bash
python main.py 'chain.peak1.freq.range=[60,4000]' chain.peak1.freq.default=500 \\
    chain.sends.reverb.ir_duration=6
```

The column *mapping* says how an unconstrained (raw) parameter becomes a value; see [mappings](#mappings).
"""


def main(argv: list[str] | None = None) -> int:
    """Writes every generated page; the exit status."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")
    return 0


def effects_page() -> str:
    """The page of effects."""
    parts = [HEAD.format(sr=SR), "## Effects of a chain\n"]
    parts += [effect_section(key, kind) for key, kind in EFFECTS.items()]
    parts += [chain_section(), estimation_section(), mappings_section()]
    return "\n".join(parts).rstrip() + "\n"


def effect_section(key: str, kind: type[Effect]) -> str:
    """What one effect is, its parameters and its options."""
    summary, options, rest = described(kind)
    lines = [f"### `{key}`\n", summary, ""]
    params = build({"effect": key}, SR).params
    if params:
        lines += [parameter_table((p.name, p) for p in params)]
    listed = [
        f"| `{name}` | {default_of(parameter)} | {allowed(kind, name)} | {options.get(name, '')} |"
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    if listed:
        lines += ["| option | default | allowed | meaning |", "|---|---|---|---|", *listed, ""]
    return "\n".join([*lines, *rest, ""] if rest else lines)


def described(kind: type[Effect]) -> tuple[str, dict[str, str], list[str]]:
    """The description in an effect's docstring, its options' descriptions by name, and its source."""
    before, _, after = (inspect.getdoc(kind) or "").partition("Args:\n")
    options: dict[str, str] = {}
    for family_member in reversed(kind.__mro__):
        options |= arguments(family_member)
    rest = after.partition("\n\n")[2]
    return plain(before), options, [plain(rest)] if rest.strip() else []


def arguments(kind: type) -> dict[str, str]:
    """The meanings of the arguments that a class's own docstring describes, by name."""
    text = inspect.cleandoc(kind.__dict__.get("__doc__") or "").partition("Args:\n")[2].partition("\n\n")[0]
    lines = re.sub(r"\n {8,}", " ", text).splitlines()
    pairs = (pair for line in lines for pair in re.findall(r"([\w, ]+): ([^:]*?)(?= \w+(?:, \w+)*: |$)", line.strip()))
    return {name: meaning.rstrip(".") for names, meaning in pairs for name in names.strip().split(", ")}


def plain(text: str) -> str:
    """A docstring's paragraphs, one line each."""
    return "\n\n".join(" ".join(block.split()) for block in text.strip().split("\n\n"))


def default_of(parameter: inspect.Parameter) -> str:
    """An option's default as YAML would say it."""
    value = parameter.default
    words = {True: "true", False: "false", None: "none"}
    if value is parameter.empty:
        return "required"
    return words[value] if value is None or isinstance(value, bool) else f"{value}".strip("()")


def allowed(kind: type[Effect], name: str) -> str:
    """What an effect declares of an option: its bounds, or its words."""
    bound = getattr(kind, "options", {}).get(name)
    if hasattr(bound, "known"):
        return ", ".join(bound.known)
    if hasattr(bound, "lo"):
        return f"{number(bound.lo)} to {number(bound.hi)} {bound.unit}".rstrip()
    return {"Flag": "true, false", "Part": "effects"}.get(type(bound).__name__, "")


def parameter_table(params: Iterator[tuple[str, Param]]) -> str:
    """A row for each parameter: name, unit, default, range, shape, mapping."""
    lines = ["| parameter | unit | default | range | mapping |", "|---|---|---|---|---|"]
    for name, p in params:
        shape = f" ({' × '.join(map(str, p.shape))})" if p.shape else ""
        mapping = type(p.mapping).__name__
        cells = [f"`{name}`{shape}", p.unit or "–", default_value(p), range_of(p), f"[{mapping}](#{mapping.lower()})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def default_value(p: Param) -> str:
    """A parameter's default in words."""
    if isinstance(p.default, Uniform):
        return f"random, {p.default.lo:.3g} to {p.default.hi:.3g}"
    if isinstance(p.default, RawNormal):
        return "random"
    if isinstance(p.default, tuple):
        head = ", ".join(f"{value:g}" for value in p.default[:6])
        return head if len(p.default) <= 6 else f"{head}, …"
    return number(p.default)


def number(x: float) -> str:
    """A number with four digits, or all those before the point."""
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.4g}"


def range_of(p: Param) -> str:
    """A parameter's range in words."""
    m = p.mapping
    if hasattr(m, "lo"):
        return f"{number(m.lo)} to {number(m.hi)}"
    if hasattr(m, "hi"):
        return f"0 to {', '.join(f'{hi:.4g}' for hi in m.hi)}"
    words = {
        "Negative": "below 0",
        "Wrapped": f"0 to {getattr(m, 'period', 0):g}",
        "RiseTime": "above 0",
        "Orthogonal": "rotations",
    }
    return words.get(type(m).__name__, "any")


def chain_section() -> str:
    """The vocal chain with the ranges that its file narrows."""
    chain = build(read_yaml(ROOT / CHAIN), SR)
    text = (ROOT / CHAIN).read_text(encoding="utf-8")
    head = f'## The chain of DiffVox\n\nThe default chain of a fit, `{CHAIN}`:\n\n```yaml\n{text}```\n'
    return f"{head}\n{parameter_table(chain.walk())}"


def estimation_section() -> str:
    """The effects of blind estimation by their words in --sfx and --afx."""
    lines = [
        "## Effects of blind estimation\n",
        "By their words in `--sfx` (the effects that process the music) and `--afx` (the effects whose parameters are",
        "estimated); all parameters have a range, as a network gives positions in it.\n",
    ]
    for word, key in KEYS.items():
        sides = [side for side in ("synthesis", "analysis") if getattr(key, side) is not None]
        chain = parse_chain(word, SR, sides[-1])
        options = " and ".join({"synthesis": "`--sfx`", "analysis": "`--afx`"}[side] for side in sides)
        lines += [f"### `{word}`\n", f"{first_sentence(key.analysis)} For {options}.\n", parameter_table(chain.walk())]
    return "\n".join(lines)


def first_sentence(make: Callable) -> str:
    """What the docstring of an effect, or of what makes one, says first."""
    made = getattr(make, "func", make)
    return plain(inspect.getdoc(made) or "").split(". ")[0].split("\n")[0].removesuffix(".") + "."


def mappings_section() -> str:
    """How raw parameters become values."""
    lines = ["## Mappings\n", "σ is the logistic function, u = σ(raw) a position in the range.\n"]
    classes = [kind for kind in vars(param).values() if inspect.isclass(kind) and hasattr(kind, "raw")]
    for kind in (kind for kind in classes if not inspect.isabstract(kind)):
        lines += [f"### {kind.__name__}\n", f"{plain(inspect.getdoc(kind) or '')}\n"]
    return "\n".join(lines)


PAGES: dict[str, Callable[[], str]] = {"effects.md": effects_page}

if __name__ == "__main__":
    sys.exit(main())
