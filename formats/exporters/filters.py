"""The equaliser as the filter text of Equalizer APO, and of REW (Room EQ Wizard)."""

from reknob.formats.exporters.parts import Export, Kind, Rig, band_of, comments, heading, lacks, number

#: With Q, both programs design these filters by the formulas of the RBJ cookbook, as this project does. Equalizer APO
#: reads LSC and HSC, unlike LS and HS, as shelves whose frequency is the centre of the slope.
APO = {Kind.PEAK: "PK", Kind.LOW_SHELF: "LSC", Kind.HIGH_SHELF: "HSC", Kind.LOW_PASS: "LPQ", Kind.HIGH_PASS: "HPQ"}
REW = {Kind.PEAK: "PK", Kind.LOW_SHELF: "LS Q", Kind.HIGH_SHELF: "HS Q", Kind.LOW_PASS: "LPQ", Kind.HIGH_PASS: "HPQ"}
Q_NOTE = "Q as in the RBJ cookbook; of a shelf, Fc is where it has half of its gain in dB"


def equalizer_apo(rig: Rig) -> Export:
    """The bands as a configuration of Equalizer APO, which Peace and EasyEffects import too."""
    lines, lacking = _filters(rig, APO)
    return Export(
        comments(heading(rig, lacking, Q_NOTE, dynamics=False), "#") + "".join(f"{line}\n" for line in lines), lacking
    )


def rew(rig: Rig) -> Export:
    """The bands as filter settings of REW, equaliser Generic."""
    lines, lacking = _filters(rig, REW)
    head = [
        "Filter Settings file",
        "",
        "Notes:",
        *heading(rig, lacking, Q_NOTE, dynamics=False),
        "",
        "Equaliser: Generic",
    ]
    return Export("\n".join([*head, *lines]) + "\n", lacking)


def _filters(rig: Rig, types: dict[Kind, str]) -> tuple[list[str], list[str]]:
    """A line for each band, and what is no band."""
    lines, lacking = [], []
    for step in rig.steps:
        band = band_of(step)
        if band is None:
            lacking.append(lacks(step))
            continue
        gain = "" if band.gain_db is None else f" Gain {number(band.gain_db)} dB"
        kind = f"{types[band.kind]:<5}" if types is REW else types[band.kind]
        lines.append(f"Filter {len(lines) + 1}: ON {kind} Fc {number(band.freq)} Hz{gain} Q {number(band.Q)}")
    return lines, lacking
