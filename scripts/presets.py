"""Shows a preset set, and makes new presets from it.

    python scripts/presets.py list presets/own --columns comp.cmp_threshold,sends.delay.delay
    python scripts/presets.py show presets/own 0                          one preset in physical units
    python scripts/presets.py nearest presets/own 0 --count 5             the presets most like it
    python scripts/presets.py outliers presets/own                        the presets least like the others
    python scripts/presets.py sample presets/own OUT --count 10           new ones, drawn from the set's Gaussian
    python scripts/presets.py interpolate presets/own 0 3 OUT             new ones, from one preset to another
    python scripts/presets.py document presets/own 0 preset.json          one preset as a preset document
    python scripts/presets.py map presets/own map.png                     all on two principal components, and map.json
    python scripts/presets.py describe presets/own [0]                    what components, or a preset, change in sound
    python scripts/presets.py density presets/own                         how likely each is among the others
    python scripts/presets.py prior presets/own OUT --where reverb_time=1:2   new ones, drawn under conditions

A preset is named by its row, its track or its dry file. Distances are between raw parameters, each in units of its
standard deviation over the set: sqrt(mean(z²)). OUT is a preset set as well, for scripts/render.py and the others; an
existing set is replaced with --overwrite only.
"""

from reknob.runtime.program import program

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reknob.afx.registry import lookup
from reknob.analysis import distances
from reknob.analysis.character import TRAITS, traits, words
from reknob.analysis.drawing import Condition, draw
from reknob.analysis.prior import FOLDS, PRIORS, fit_prior, held_out
from reknob.analysis.statistics import Components, principal_components, variance_shares
from reknob.formats.as_document import row_document
from reknob.formats.preset_document import is_document, write_document
from reknob.formats.preset_set import PresetSet, open_set
from reknob.formats.presets import (
    MOST_PRESETS,
    Preset,
    check_new,
    element_names,
    fit_gaussian,
    from_vectors,
    read_gaussian,
    to_vectors,
    write_presets,
)
from reknob.report.figures import SUFFIXES, preset_map
from reknob.report.tables import html_table, number, text_table
from reknob.runtime.arguments import LARGEST_INT, Parser, file_path, integer, non_negative_int
from reknob.runtime.errors import UsageError
from reknob.runtime.files import atomic_path, check_output, write_text
from reknob.runtime.output import counted, result, to_json

COLUMNS = (
    "comp.cmp_threshold",
    "comp.makeup",
    "sends.delay.delay",
    "sends.delay.feedback",
    "sends.delay.gain",
    "sends.delay_to_reverb",
)


@dataclass(frozen=True)
class Table:
    """What a command prints."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]


def list_(collection: PresetSet, args: argparse.Namespace) -> Table:
    """Every preset, with the values of some parameters."""
    scalars = {name: p for name, p in collection.params.items() if not p.shape}
    # By default those of them that the chain has; a name that was given must exist, see `lookup`.
    columns = args.columns.split(",") if args.columns else [name for name in COLUMNS if name in scalars]
    cells = []
    for name in columns:
        param = lookup(scalars, name, "column")
        values = param.mapping.value(torch.stack([p.raws[name] for p in collection.presets]))
        cells.append(values.tolist())
    rows = [(p.row, p.track, p.stem, *(column[i] for column in cells)) for i, p in enumerate(collection.presets)]
    header = ["row", "track", "stem", *(f"{name} {scalars[name].unit}".rstrip() for name in columns)]
    return Table(f"{counted(len(rows), 'preset')} of {collection.folder}", header, rows)


def show(collection: PresetSet, args: argparse.Namespace) -> Table:
    """One preset in physical units."""
    preset = collection.one(args.preset)
    rows = [
        (place, value, p.unit)
        for name, p in collection.params.items()
        for place, value in zip(
            element_names(name, p.shape), p.mapping.value(preset.raws[name]).flatten().tolist(), strict=True
        )
    ]
    title = f"{collection.folder} {preset.row}: {preset.track} {preset.stem}"
    return Table(title, ["parameter", "value", "unit"], rows)


def nearest(collection: PresetSet, args: argparse.Namespace) -> Table:
    """The presets most like one."""
    preset = collection.one(args.preset)
    # Masked, as unused elements of the feedback matrix would add distance between equal sounds.
    neighbours = distances.nearest(collection.vectors, preset.row, collection.mask, args.count)
    others = [(collection.presets[row], distance) for row, distance in neighbours]
    rows = [(other.row, distance, other.track, other.stem) for other, distance in others]
    title = f"nearest to {preset.row}: {preset.track} {preset.stem}"
    return Table(title, ["row", "distance", "track", "stem"], rows)


def outliers(collection: PresetSet, args: argparse.Namespace) -> Table:
    """The presets farthest from the mean, with the parameter that is farthest."""
    names, rows = collection.feature_names, []
    for row, distance, column, deviation in distances.outliers(collection.vectors, collection.mask, args.count):
        preset = collection.presets[row]
        rows.append((row, distance, preset.track, preset.stem, names[column], deviation))
    header = ["row", "distance", "track", "stem", "farthest parameter", "deviations"]
    return Table(f"outliers of {collection.folder}", header, rows)


def sample(collection: PresetSet, args: argparse.Namespace) -> Table:
    """New presets drawn from the set's Gaussian, which is computed where the set has none."""
    # torch takes signed 64-bit seeds.
    if not 0 <= args.seed < 1 << 63:
        raise UsageError(f"--seed {args.seed}: give a whole number from 0 to 2^63 - 1")
    check_new(args.out, overwrite=args.overwrite)
    effect = collection.effect
    gaussian = read_gaussian(collection.folder, effect) or fit_gaussian(collection.vectors, effect)
    vectors = gaussian.sample(args.count, torch.Generator().manual_seed(args.seed))
    names = [f"sample_{i}" for i in range(args.count)]
    return _write(collection, args, names, vectors)


def interpolate(collection: PresetSet, args: argparse.Namespace) -> Table:
    """New presets at equal steps from one preset to another, both included, in raw parameters."""
    a, b = collection.one(args.preset), collection.one(args.other)
    if args.count < 2:
        raise UsageError(f"--count {args.count}: at least 2, both ends are included")
    check_new(args.out, overwrite=args.overwrite)
    # Raw parameters are not bounded: every point between two presets is a preset.
    ends = to_vectors([a, b], collection.effect)
    positions = torch.linspace(0, 1, args.count).unsqueeze(1)
    names = [f"{a.row}_to_{b.row}_{100 * position:.0f}" for position in positions.flatten().tolist()]
    return _write(collection, args, names, ends[0].lerp(ends[1], positions))


def _write(collection: PresetSet, args: argparse.Namespace, names: list[str], vectors: Tensor) -> Table:
    """Writes rows of raw parameters (N, P) as a set, whose tracks are called `names` and have no recordings."""
    effect = collection.effect
    presets = [
        Preset(row, f"{name}/{name}.wav", f"{name}/{name}.wav", 0, raws)
        for row, (name, raws) in enumerate(zip(names, from_vectors(vectors, effect), strict=True))
    ]
    write_presets(args.out, presets, effect, chain=collection.config, rejected={}, overwrite=args.overwrite)
    table = list_(replace(collection, folder=args.out, presets=presets), argparse.Namespace(columns=None))
    return replace(table, title=f"{counted(len(presets), 'preset')} written to {args.out}")


def document(collection: PresetSet, args: argparse.Namespace) -> Table:
    """One preset as a preset document, with its chain."""
    preset = collection.one(args.preset)
    path = check_output(args.out, [args.folder, args.fx_config])
    if not is_document(path):
        raise UsageError(f"{path}: a preset document ends in .json; give such a name")
    write_document(path, row_document(preset, collection.config, collection.effect))
    header = ["row", "track", "stem", "values"]
    return Table(f"written to {path}", header, [(preset.row, preset.track, preset.stem, len(collection.params))])


def map_(collection: PresetSet, args: argparse.Namespace) -> Table:
    """All presets on two principal components, as a figure and as JSON."""
    path = check_output(args.out, [args.folder, args.fx_config])
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a figure ends in one of {', '.join(SUFFIXES)}; give such a name")
    as_json = check_output(path.with_suffix(".json"), [args.folder, args.fx_config, path])
    rows = collection.features
    components = principal_components(rows)
    if len(components.deviations) < 2:
        raise UsageError(f"{collection.folder}: its presets vary in less than two directions, and have no map")
    shares = variance_shares(rows, components)[:2].tolist()
    places = components.whiten(rows)[:, :2]
    with atomic_path(path) as part:
        preset_map(places, [str(p.row) for p in collection.presets], shares).savefig(part, dpi=150)
    meanings = [_meaning(collection, components, index) for index in range(2)]
    points = [
        {"row": p.row, "track": p.track, "stem": p.stem, "x": x, "y": y}
        for p, (x, y) in zip(collection.presets, places.tolist(), strict=True)
    ]
    write_text(as_json, to_json({"shares": shares, "axes": meanings, "presets": points}))
    header = ["axis", "share of variance %", "one standard deviation up"]
    table = [(f"PC{i + 1}", 100 * share, text) for i, (share, text) in enumerate(zip(shares, meanings, strict=True))]
    return Table(f"{len(points)} presets on {path} and {as_json}", header, table)


def describe(collection: PresetSet, args: argparse.Namespace) -> Table:
    """What a preset, or one standard deviation up each principal component, changes against the mean."""
    rows = collection.features
    mean = traits(collection.effect, collection.values_at(rows.mean(0)))
    if args.preset is not None:
        preset = collection.one(args.preset)
        own = traits(collection.effect, preset.values(collection.effect))
        lines = [(name, own[name], mean[name], TRAITS[name][0]) for name in own]
        title = f"{preset.row}: {preset.track} {preset.stem}: {words(mean, own)}"
        return Table(title, ["trait", "preset", "mean of the set", "unit"], lines)
    components = principal_components(rows)
    shares = variance_shares(rows, components)[: args.count].tolist()
    lines = [(f"PC{i + 1}", 100 * share, _meaning(collection, components, i)) for i, share in enumerate(shares)]
    title = f"mean of {collection.folder}: {', '.join(f'{k} {number(v)} {TRAITS[k][0]}' for k, v in mean.items())}"
    return Table(title, ["component", "share of variance %", "one standard deviation up"], lines)


def _meaning(collection: PresetSet, components: Components, index: int) -> str:
    """What a step of one standard deviation on a component, from half below to half above the mean, changes."""
    step = components.axes[index] * components.deviations[index] / 2
    below, above = (traits(collection.effect, collection.values_at(components.mean + sign * step)) for sign in (-1, 1))
    return words(below, above)


def density(collection: PresetSet, args: argparse.Namespace) -> Table:
    """How likely every preset is by a density of others, in nats a parameter; the least likely first."""
    rows = torch.from_numpy(collection.features)
    found = {kind: held_out(rows, kind) / rows.shape[1] for kind in PRIORS}
    means = ", ".join(f"{kind} {float(each.mean()):.3f}" for kind, each in found.items())
    order = found[PRIORS[0]].argsort().tolist()[: args.count]
    lines = [
        (p.row, *(float(each[p.row]) for each in found.values()), p.track, p.stem)
        for p in (collection.presets[row] for row in order)
    ]
    title = f"mean log density of {len(rows)} presets, each by {FOLDS - 1} of {FOLDS} parts of the others: {means}"
    return Table(title, ["row", *PRIORS, "track", "stem"], lines)


def prior(collection: PresetSet, args: argparse.Namespace) -> Table:
    """New presets drawn from a density of the set, under conditions on parameters and traits."""
    check_new(args.out, overwrite=args.overwrite)
    conditions = [Condition.parse(text) for text in args.where]
    fitted = fit_prior(torch.from_numpy(collection.features), args.kind)
    vectors = draw(collection.effect, fitted, args.count, conditions, args.seed)
    return _write(collection, args, [f"drawn_{i}" for i in range(args.count)], vectors)


COMMANDS: dict[str, Callable[[PresetSet, argparse.Namespace], Table]] = {
    "list": list_,
    "show": show,
    "nearest": nearest,
    "outliers": outliers,
    "sample": sample,
    "interpolate": interpolate,
    "document": document,
    "map": map_,
    "describe": describe,
    "density": density,
    "prior": prior,
}


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    if args.html:
        check_output(args.html, [args.folder, args.fx_config])
    table = COMMANDS[args.command](open_set(args.folder, args.fx_config), args)
    if args.html:
        write_text(args.html, html_table(table.title, table.header, table.rows))
    text = f"{table.title}: {args.html}" if args.html else f"{table.title}\n{text_table(table.header, table.rows)}"
    result(text, title=table.title, rows=[dict(zip(table.header, row, strict=True)) for row in table.rows])
    return 0


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        c = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        c.add_argument("folder", type=file_path, metavar="PRESETS", help="folder of the preset set")
        if name in ("show", "nearest", "interpolate", "document"):
            c.add_argument("preset", metavar="PRESET", help="row, track or dry file")
        if name == "interpolate":
            c.add_argument("other", metavar="OTHER", help="the preset at the other end")
        if name == "document":
            c.add_argument("out", type=file_path, metavar="OUT", help="file of the document, .json")
        if name == "describe":
            c.add_argument("preset", metavar="PRESET", nargs="?", help="row, track or dry file (default: components)")
        if name == "map":
            c.add_argument("out", type=file_path, metavar="OUT", help=f"file of the figure: {', '.join(SUFFIXES)}")
        if name in ("sample", "interpolate", "prior"):
            c.add_argument("out", type=file_path, metavar="OUT", help="folder of the new set")
            c.add_argument("--overwrite", action="store_true", help="replace an existing set")
        _add_counts(c, name)
        if name == "list":
            c.add_argument("--columns", help="names of parameters with commas between them")
        c.add_argument("--fx-config", type=file_path, metavar="YAML", help="chain of the set (default: its own)")
        c.add_argument("--html", type=file_path, metavar="FILE", help="write the table as HTML instead of printing it")
    return p


def _add_counts(c: argparse.ArgumentParser, name: str) -> None:
    """Adds the options of commands that print or make so many."""
    if name not in ("list", "show", "document", "map"):
        most = MOST_PRESETS if name in ("sample", "interpolate", "prior") else LARGEST_INT
        c.add_argument("--count", type=integer(1, most), default=5, help="how many (default 5)")
    if name == "prior":
        text = "keep draws whose NAME, a parameter or a trait, lies in this range: reverb_time=1:2; repeatable"
        c.add_argument("--where", metavar="NAME=LOW:HIGH", action="append", default=[], help=text)
        c.add_argument("--kind", choices=PRIORS, default=PRIORS[0], help=f"density (default {PRIORS[0]})")
    if name in ("sample", "prior"):
        c.add_argument("--seed", type=non_negative_int, default=0, help="seed of the draws (default 0)")


if __name__ == "__main__":
    sys.exit(main())
