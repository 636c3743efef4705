"""A preset as a JSFX plug-in for REAPER: equaliser, compressor/expander and panning, by this project's own formulas.

Written in a subset of EEL2, one assignment a line, so that a test can run the very text.
"""

from reknob.afx.dynamics import CompressorExpander
from reknob.afx.effect import own_values
from reknob.afx.param import Linear
from reknob.formats.exporters.parts import Export, Kind, Rig, Step, band_of, comments, heading, lacks, number, pan_of

NOTES = (
    "Runs on the mean of left and right, as the chain takes mono, at any sample rate; every value is a slider.",
    "Q as in the RBJ cookbook; attack and release are 10-90 % rise times of the gain.",
)
MOST_SLIDERS = 64

#: Numerator and denominator of the cookbook, before the division by a0.
_DESIGN = {
    Kind.LOW_PASS: ("(1 - c)/2", "1 - c", "(1 - c)/2", "1 + al", "-2*c", "1 - al"),
    Kind.HIGH_PASS: ("(1 + c)/2", "-(1 + c)", "(1 + c)/2", "1 + al", "-2*c", "1 - al"),
    Kind.PEAK: ("1 + al*A", "-2*c", "1 - al*A", "1 + al/A", "-2*c", "1 - al/A"),
    Kind.LOW_SHELF: (
        *("A*(A + 1 - (A - 1)*c + sl)", "2*A*(A - 1 - (A + 1)*c)", "A*(A + 1 - (A - 1)*c - sl)"),
        *("A + 1 + (A - 1)*c + sl", "-2*(A - 1 + (A + 1)*c)", "A + 1 + (A - 1)*c - sl"),
    ),
    Kind.HIGH_SHELF: (
        *("A*(A + 1 + (A - 1)*c + sl)", "-2*A*(A - 1 + (A + 1)*c)", "A*(A + 1 + (A - 1)*c - sl)"),
        *("A + 1 - (A - 1)*c + sl", "2*(A - 1 - (A + 1)*c)", "A + 1 - (A - 1)*c - sl"),
    ),
}


class _Code:
    """Sliders and code while they are put together."""

    def __init__(self) -> None:
        self.sliders: list[str] = []
        self.init: list[str] = []
        self.slider: list[str] = []
        self.sample: list[str] = ["x = (spl0 + spl1)/2;"]
        self.effects = 0

    def effect(self) -> str:
        """The beginning of an effect's variables; not its name, which EEL2 may know as something else."""
        self.effects += 1
        return f"fx{self.effects}"

    def value(self, label: str, value: float, lo: float, hi: float) -> str:
        """A slider, by its name in the code."""
        lo, hi = min(lo, value), max(hi, value)
        step = "0.001" if hi - lo < 100 else "0.01"
        n = len(self.sliders) + 1
        self.sliders.append(f"slider{n}:{number(value)}<{number(lo)},{number(hi)},{step}>{label}")
        return f"slider{n}"


def jsfx(rig: Rig) -> Export:
    """The equaliser, the compressor/expander and the panning of a chain, in its order."""
    code, lacking, panned = _Code(), [], False
    for step in rig.steps:
        if len(code.sliders) > MOST_SLIDERS - 10:
            lacking.append(f"{step}: a JSFX has at most {MOST_SLIDERS} sliders")
        elif band_of(step):
            _add_band(code, step)
        elif isinstance(step.effect, CompressorExpander):
            _add_compressor(code, step)
        elif pan_of(step) and step is rig.steps[-1]:
            _add_pan(code, step)
            panned = True
        else:
            lacking.append(lacks(step).replace("no dynamics", "the compressor/expander of the vocal chain only"))
    if not panned:
        code.sample += ["spl0 = x;", "spl1 = x;"]
    name = " ".join(rig.document.name.replace(":", " ").split()) or rig.stem
    sections = {"@init": code.init, "@slider": code.slider, "@sample": code.sample}
    text = f"desc:reknob {name}\n" + comments(heading(rig, lacking, *NOTES), "//") + "\n".join(code.sliders) + "\n"
    text += "".join(f"\n{head}\n" + "".join(f"{line}\n" for line in lines) for head, lines in sections.items() if lines)
    return Export(text, lacking)


def _add_band(code: _Code, step: Step) -> None:
    band, name = band_of(step), code.effect()
    assert band is not None
    freq = code.value(f"{step.name} frequency (Hz)", band.freq, *_range(step, "freq", 16, 20000))
    Q = code.value(f"{step.name} Q", band.Q, *_range(step, "Q", 0.05, 20))
    gain = None if band.gain_db is None else code.value(f"{step.name} gain (dB)", band.gain_db, -24, 24)
    b0, b1, b2, a0, a1, a2 = _DESIGN[band.kind]
    code.slider += [
        f"w = 2*$pi*min({freq}, 0.49*srate)/srate;",
        "c = cos(w);",
        f"al = sin(w)/(2*{Q});",
        *([f"A = 10^({gain}/40);", "sl = 2*sqrt(A)*al;"] if gain else []),
        f"a0 = {a0};",
        *(
            f"{name}_{key} = ({term})/a0;"
            for key, term in zip(("b0", "b1", "b2", "a1", "a2"), (b0, b1, b2, a1, a2), strict=True)
        ),
    ]
    code.init += [f"{name}_s1 = 0;", f"{name}_s2 = 0;"]
    code.sample += [
        f"y = {name}_b0*x + {name}_s1;",
        f"{name}_s1 = {name}_b1*x - {name}_a1*y + {name}_s2;",
        f"{name}_s2 = {name}_b2*x - {name}_a2*y;",
        "x = y;",
    ]


def _add_compressor(code: _Code, step: Step) -> None:
    """The recursion of `afx.kernels.compressor_gain`; the audio waits for the lookahead, which REAPER compensates."""
    n = code.effect()
    labels = {
        "cmp_threshold": ("threshold (dB)", -100, 0),
        "cmp_ratio": ("ratio", 1, 20),
        "exp_threshold": ("expander threshold (dB)", -120, 0),
        "exp_ratio": ("expander ratio (0 to 1)", 0.01, 1),
        "makeup": ("make-up gain (dB)", -30, 30),
        "attack": ("attack (ms)", 0.1, 500),
        "release": ("release (ms)", 0.1, 2000),
        "avg_coef": (f"level average (coefficient at {step.effect.sr} Hz)", 0.001, 1),
        "lookahead": ("lookahead (ms)", 0, 15),
    }
    s = {
        name: code.value(f"{step.name} {label}", step.scalar(name), lo, hi)
        for name, (label, lo, hi) in labels.items()
        if name in own_values(step.values)
    }
    code.init += [
        f"{n}_p = 0;",
        f"{n}_gain = 1;",
        f"{n}_before = 1;",
        f"{n}_line = {len(code.sliders) * 65536};",
        f"{n}_pos = 0;",
    ]
    code.slider += [
        f"{n}_cs = 1 - 1/{s['cmp_ratio']};",
        f"{n}_es = 1 - 1/max({s['exp_ratio']}, 0.001);",
        f"{n}_at = 1 - exp(-2200/({s['attack']}*srate));",
        f"{n}_rt = 1 - exp(-2200/({s['release']}*srate));",
        f"{n}_av = 1 - (1 - min({s['avg_coef']}, 0.999999))^({step.effect.sr}/srate);",
        f"{n}_ahead = {s.get('lookahead', '0')}*srate/1000;",
        f"{n}_wait = ceil({n}_ahead);",
        f"{n}_late = {n}_wait - {n}_ahead;",
        f"pdc_delay = {n}_wait;",
        "pdc_bot_ch = 0;",
        "pdc_top_ch = 2;",
    ]
    code.sample += [
        f"{n}_p = {n}_p + {n}_av*(max(x*x, 0.00000001) - {n}_p);",
        f"level = 10*log10({n}_p);",
        f"g = min({n}_cs*({s['cmp_threshold']} - level), {n}_es*({s['exp_threshold']} - level));",
        "target = 10^(min(g, 0)/20);",
        f"{n}_before = {n}_gain;",
        f"coef = target < {n}_gain ? {n}_at : {n}_rt;",
        f"{n}_gain = {n}_gain + coef*(target - {n}_gain);",
        # The gain between two samples, where the lookahead is not a whole number of them.
        f"g = {n}_gain + {n}_late*({n}_before - {n}_gain);",
        f"{n}_line[{n}_pos] = x;",
        f"{n}_read = {n}_pos - {n}_wait;",
        f"{n}_read = {n}_read < 0 ? {n}_read + 65536 : {n}_read;",
        f"x = {n}_line[{n}_read]*g*10^({s['makeup']}/20);",
        f"{n}_pos = {n}_pos + 1;",
        f"{n}_pos = {n}_pos > 65535 ? 0 : {n}_pos;",
    ]


def _add_pan(code: _Code, step: Step) -> None:
    pan = code.value(f"{step.name} pan (0 left, 1 right)", step.scalar("pan"), 0, 1)
    code.sample += [f"spl0 = x*sqrt(2)*cos({pan}*$pi/2);", f"spl1 = x*sqrt(2)*sin({pan}*$pi/2);"]


def _range(step: Step, name: str, lo: float, hi: float) -> tuple[float, float]:
    mapping = next((p.mapping for p in step.effect.params if p.name == name), None)
    return (mapping.lo, mapping.hi) if isinstance(mapping, Linear) else (lo, hi)
