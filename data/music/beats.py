"""What drummers play: grids of strokes for kick, snare, cymbals and hand percussion, with fills and changes."""

import numpy as np

from .draws import between, chance, one_of
from .parts import rhythm
from .score import Score

# Sixteenths of a 4/4 bar: X loud, x normal, o soft, ? at random, . rest.
GROOVES = {
    "rock": ("X.......X.?.....", "....X.......X...", "x.x.x.x.x.x.x.x."),
    "backbeat": ("X..x..x.X.......", "....X..o.o..X..?", "x?x?x?x?x?x?x?x?"),
    "halftime": ("X.....?...x.....", "........X.......", "x.x.x.x.x.x.x.x."),
    "four": ("X...X...X...X...", "....x.......x...", "..X...X...X...X."),
    "house": ("X...X...X...X..?", "....x.......x.?.", "x.X.x.X.x.X.x.X."),
    "trap": ("X.....x...x..?..", "........X.......", "xxxxxxxxxxxxxxxx"),
    "boombap": ("X.?....x.?X.....", "....X.......X..o", "x.x.x.x.x.x.x.x."),
    "breakbeat": ("X.X.......XX....", "....X..o.o..X..o", "x.x.x.x.x.x.x.x."),
    "twostep": ("X.........X.....", "....X.......X...", "x.x?x.x?x.x?x.x?"),
    "funk": ("X..x..x..?x..x..", "..o.X..o.o.oX..o", "xxxxxxxxxxxxxxxx"),
    "blast": ("X.X.X.X.X.X.X.X.", ".X.X.X.X.X.X.X.X", "X...X...X...X..."),
    "double": ("xxxxxxxxxxxxxxxx", "....X.......X...", "X...X...X...X..."),
    "shuffle": ("X.......X..?....", "....X.......X...", "x..xx..xx..xx..x"),
    "swing": ("o...o...o...o..?", "..?....o...?..o.", "X...X.xoX...X.xo"),
    "reggae": ("........X.......", "........X.......", "x.x.x.x.x.x.x.x."),
    "latin": ("X..x..x.X..x..x.", "...x..x...x..x..", "x.xxx.xxx.xxx.xx"),
    "train": ("X...X...X...X...", "oxoXoxoXoxoXoxoX", "................"),
    "march": ("X...X...X...X...", "x.oox.oox.ooxxxx", "................"),
    "ballad": ("X.........?.....", "....x.......x...", "x...x...x...x..."),
}
_LOUDNESS = {"X": 1.0, "x": 0.72, "o": 0.35, "?": 0.6}
Stroke = tuple[str, float, float]


def groove(score: Score, rng: np.random.Generator, name: str, kit: tuple[str, ...]) -> list[Stroke]:
    """Strokes of a kit of three drums (low, middle, high) on a named groove, with fills and crashes.

    Now and then a drum does not play at all.
    """
    rows = [_fit(row, score) for row in GROOVES[name]]
    present = [not chance(rng, absence) for absence in (0.06, 0.1, 0.15)]
    doubled = chance(rng, 0.2)
    accents = rng.uniform(0.75, 1.15, score.steps)
    variation, open_hats = between(rng, (0.0, 0.06)), between(rng, (0.0, 0.12))
    strokes = []
    for bar in range(score.bars):
        for drum, row, plays in zip(kit, rows, present, strict=True):
            for step, mark in enumerate(row):
                if mark == "." and chance(rng, variation * 0.3) and drum != kit[2]:
                    mark = "o"
                if not plays or mark == "." or (mark == "?" and chance(rng, 0.5)) or chance(rng, 0.5 * variation):
                    continue
                sound = "open" if drum == "hat" and chance(rng, open_hats) else drum
                loud = _LOUDNESS[mark] * float(accents[step]) * between(rng, (0.85, 1.1))
                strokes.append((sound, score.time(bar, step), min(loud, 1.1)))
                if drum == kit[2] and doubled and name == "trap" and chance(rng, 0.12):
                    strokes += [(sound, score.time(bar, step + k / 3), 0.6 * loud) for k in (1, 2)]
    return _humanised(score, rng, _fills(score, rng, strokes, kit))


def _fit(row: str, score: Score) -> str:
    """A row of sixteen steps, cut or repeated to the steps of a bar; for triplets, three of every four steps."""
    if score.division == 3:
        row = "".join(row[i : i + 3] for i in range(0, 16, 4))
    return (row * 2)[: score.steps]


def _fills(score: Score, rng: np.random.Generator, strokes: list[Stroke], kit: tuple[str, ...]) -> list[Stroke]:
    """Strokes with fills on the last beats before a new section or every fourth bar, and crashes after them."""
    drums = one_of(rng, ((kit[1],), (kit[1], "high tom", "low tom"), ("high tom", "low tom"), (kit[0], kit[1])))
    probability = between(rng, (0.1, 0.8))
    for bar in range(score.bars):
        if not (bar + 1 in score.edges or bar % 4 == 3) or not chance(rng, probability):
            continue
        first = score.steps - int(rng.integers(1, 3)) * score.division
        start, end = score.time(bar, first), score.time(bar + 1, 0)
        strokes = [s for s in strokes if not start - 0.01 <= s[1] < end - 0.01]
        for step in range(first, score.steps):
            if not chance(rng, 0.25):
                drum = drums[(step - first) * len(drums) // (score.steps - first)]
                strokes.append((drum, score.time(bar, step), between(rng, (0.6, 1.0))))
        if kit[2] in ("hat", "ride") and chance(rng, 0.7):
            strokes.append(("crash", end, between(rng, (0.6, 1.0))))
    return strokes


def percussion(score: Score, rng: np.random.Generator, kit: tuple[str, ...]) -> list[Stroke]:
    """Strokes of hand percussion; every drum repeats its own random rhythm in each bar."""
    strokes = []
    for drum in kit:
        density = between(rng, (0.1, 0.9) if drum in ("shaker", "tambourine") else (0.15, 0.5))
        hits = rhythm(score, rng, density)
        loud = rng.uniform(0.4, 1.0, score.steps)
        for bar in range(score.bars):
            strokes += [(drum, score.time(bar, step), float(loud[step])) for step in hits]
    return _humanised(score, rng, strokes)


def _humanised(score: Score, rng: np.random.Generator, strokes: list[Stroke]) -> list[Stroke]:
    """Strokes shifted at random by a few milliseconds."""
    late = 0.004 * score.jitter * rng.standard_normal(len(strokes))
    return [(drum, start + float(shift), loud) for (drum, start, loud), shift in zip(strokes, late, strict=True)]
