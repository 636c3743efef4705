"""Synthesis of drums, cymbals and hand percussion: a swept sine with membrane modes, metal modes, noise bursts."""

from dataclasses import dataclass

import numpy as np

from .draws import Range, between, chance, gain, log_between
from .shaping import add, fade, saturate, toned
from .synthesis import modes, white

_MEMBRANE = np.array([1.0, 1.59, 2.14, 2.30, 2.65, 2.92, 3.16, 3.50])


@dataclass(frozen=True)
class Drum:
    """Ranges from which a kind of drum is drawn: in Hz, seconds to 1/e, and dB relative to the body.

    `body` is the fundamental, `sweep` the ratio of its initial to its final frequency, `overtones` the number of
    membrane modes; `metal` is the number of inharmonic modes within `metal_hz`; `noise_hz` is the band of the noise,
    `bursts` how often its envelope restarts.
    """

    level: float = 0.0
    body: Range | None = None
    sweep: Range = (1.0, 1.0)
    body_decay: Range = (0.1, 0.2)
    overtones: int = 0
    metal: int = 0
    metal_hz: Range = (3000.0, 14000.0)
    metal_decay: Range = (0.1, 0.3)
    metal_db: Range = (0.0, 0.0)
    noise_hz: Range | None = None
    noise_decay: Range = (0.05, 0.2)
    noise_db: Range = (-6.0, 6.0)
    noise_attack: float = 0.001
    bursts: int = 1
    drive: Range = (0.0, 0.0)


DRUMS = {
    "kick": Drum(0.0, (42, 68), (1.5, 6), (0.06, 0.22), 3, noise_hz=(1500, 6000), noise_decay=(0.003, 0.012),
        noise_db=(-22, -6), drive=(-6, 6)),
    "boom": Drum(1.0, (36, 55), (2, 8), (0.2, 0.6), 0, noise_hz=(1000, 8000), noise_decay=(0.002, 0.006),
        noise_db=(-26, -8), drive=(0, 14)),
    "thud": Drum(-1.0, (55, 95), (1.1, 2), (0.05, 0.15), 6, noise_hz=(400, 3000), noise_decay=(0.01, 0.03),
        noise_db=(-18, -6)),
    "snare": Drum(-1.0, (150, 260), (1.05, 1.5), (0.03, 0.11), 6, noise_hz=(1000, 10000), noise_decay=(0.05, 0.16),
        noise_db=(-3, 8), drive=(-8, 4)),
    "brush": Drum(-7.0, (170, 240), (1, 1.1), (0.03, 0.06), 4, noise_hz=(900, 9000), noise_decay=(0.06, 0.14),
        noise_db=(3, 12), noise_attack=0.02),
    "clap": Drum(-2.0, noise_hz=(900, 5000), noise_decay=(0.05, 0.2), bursts=4),
    "rim": Drum(-5.0, (380, 900), (1, 1.2), (0.008, 0.025), 5, noise_hz=(1500, 8000), noise_decay=(0.004, 0.01),
        noise_db=(-8, 2)),
    "hat": Drum(-9.0, metal=40, metal_hz=(3500, 15000), metal_decay=(0.015, 0.07), noise_hz=(5500, 16000),
        noise_decay=(0.012, 0.06), noise_db=(0, 10)),
    "open": Drum(-9.0, metal=50, metal_hz=(3000, 15000), metal_decay=(0.15, 0.5), noise_hz=(5000, 16000),
        noise_decay=(0.1, 0.4), noise_db=(0, 10)),
    "ride": Drum(-10.0, metal=70, metal_hz=(600, 14000), metal_decay=(0.4, 1.4), noise_hz=(4000, 14000),
        noise_decay=(0.02, 0.3), noise_db=(-8, 2)),
    "crash": Drum(-3.0, metal=120, metal_hz=(400, 15000), metal_decay=(0.5, 1.6), noise_hz=(2500, 15000),
        noise_decay=(0.4, 1.2), noise_db=(0, 8), noise_attack=0.006),
    "low tom": Drum(-2.0, (70, 110), (1.1, 1.6), (0.15, 0.4), 6, noise_hz=(500, 4000), noise_decay=(0.01, 0.03),
        noise_db=(-18, -6)),
    "high tom": Drum(-2.0, (110, 200), (1.1, 1.6), (0.1, 0.3), 6, noise_hz=(600, 5000), noise_decay=(0.01, 0.03),
        noise_db=(-18, -6)),
    "shaker": Drum(-11.0, noise_hz=(4000, 14000), noise_decay=(0.02, 0.06), noise_attack=0.015),
    "tambourine": Drum(-9.0, metal=24, metal_hz=(4500, 15000), metal_decay=(0.05, 0.15), noise_hz=(6000, 16000),
        noise_decay=(0.03, 0.1), bursts=2),
    "cowbell": Drum(-7.0, (520, 620), (1, 1), (0.03, 0.1), 0, metal=6, metal_hz=(800, 4000), metal_decay=(0.03, 0.1),
        metal_db=(-6, 0)),
    "block": Drum(-6.0, (500, 1800), (1, 1.1), (0.01, 0.04), 3, noise_hz=(1000, 6000), noise_decay=(0.002, 0.006),
        noise_db=(-16, -6)),
    "conga": Drum(-4.0, (160, 320), (1, 1.15), (0.05, 0.2), 7, noise_hz=(600, 5000), noise_decay=(0.006, 0.02),
        noise_db=(-14, -3)),
    "bongo": Drum(-5.0, (300, 560), (1, 1.1), (0.03, 0.1), 7, noise_hz=(1000, 7000), noise_decay=(0.004, 0.015),
        noise_db=(-12, -3)),
    "timpani": Drum(0.0, (65, 130), (1, 1.03), (0.4, 1.2), 5, noise_hz=(200, 1500), noise_decay=(0.02, 0.06),
        noise_db=(-18, -8)),
    "taiko": Drum(1.0, (50, 90), (1.1, 1.5), (0.15, 0.5), 8, noise_hz=(200, 3000), noise_decay=(0.02, 0.08),
        noise_db=(-12, -2)),
    "chip": Drum(-3.0, noise_hz=(500, 15000), noise_decay=(0.02, 0.12)),
    "clank": Drum(-6.0, metal=30, metal_hz=(300, 6000), metal_decay=(0.03, 0.4), noise_hz=(1500, 8000),
        noise_decay=(0.01, 0.05), drive=(0, 12)),
}  # fmt: skip


def strike(drum: Drum, rng: np.random.Generator, noise: np.random.Generator, sr: int) -> np.ndarray:
    """One stroke (n,) float32 of a drum drawn from its ranges by `rng`, scaled to its level.

    The same state of `rng` gives the same drum; `noise` draws what differs between two strokes on it.
    """
    parts = []
    if drum.body:
        parts.append(_body(drum, drum.body, rng, sr))
    if drum.metal:
        parts.append(_metal(drum, rng, sr) * gain(between(rng, drum.metal_db)))
    if drum.noise_hz:
        level = between(rng, drum.noise_db) if parts else 0.0
        parts.append(_rattle(drum, drum.noise_hz, rng, noise, sr) * gain(level))
    out = np.zeros(max(len(part) for part in parts), np.float32)
    for part in parts:
        add(out, part, 0)
    if drum.drive != (0.0, 0.0):
        out = saturate(out, between(rng, drum.drive))
    return (out * (gain(drum.level) / (np.abs(out).max() + 1e-9))).astype(np.float32)


def _body(drum: Drum, body: Range, rng: np.random.Generator, sr: int) -> np.ndarray:
    """A sine of falling frequency and its membrane modes (n,), peak near 1."""
    freq, decay, sweep = log_between(rng, body), log_between(rng, drum.body_decay), log_between(rng, drum.sweep)
    n = int(min(5.0 * decay, 2.0) * sr) + 64
    t = np.arange(n, dtype=np.float32) / sr
    fall = log_between(rng, (0.008, 0.04))
    # The integral of freq (1 + (sweep - 1) exp(-t / fall)).
    turns = freq * (t + (sweep - 1.0) * fall * (1.0 - np.exp(-t / fall)))
    out = np.sin(2 * np.pi * turns + between(rng, (0.0, 1.0))) * np.exp(-t / decay)
    if drum.overtones:
        ratio = _MEMBRANE[: drum.overtones] * (1 + 0.03 * rng.standard_normal(drum.overtones))
        amp = between(rng, (0.2, 0.9)) * rng.random(drum.overtones) / np.arange(1, drum.overtones + 1) ** 0.7
        out += modes(freq * ratio, decay * between(rng, (0.25, 0.7)) / ratio**0.5, amp, n, sr)
    return fade(out.astype(np.float32), 0.0005, 0.01, sr)


def _metal(drum: Drum, rng: np.random.Generator, sr: int) -> np.ndarray:
    """Dense inharmonic modes (n,) as of a plate, of which high ones decay faster; peak near 1."""
    decay = log_between(rng, drum.metal_decay)
    n = int(min(4.0 * decay, 3.0) * sr) + 64
    low, high = np.log(drum.metal_hz)
    freq = np.exp(rng.uniform(low, high, drum.metal))
    ring = decay * (4000.0 / freq) ** 0.3 * rng.uniform(0.6, 1.4, drum.metal)
    amp = (freq / 4000.0) ** between(rng, (-0.6, 0.5)) * rng.exponential(1.0, drum.metal)
    out = modes(freq, ring, amp, n, sr, rng.uniform(0.0, 2 * np.pi, drum.metal))
    return fade(out, 0.0005, 0.02, sr) / (np.abs(out).max() + 1e-9)


def _rattle(drum: Drum, band: Range, rng: np.random.Generator, noise: np.random.Generator, sr: int) -> np.ndarray:
    """Bursts of noise (n,) in a band, peak 1."""
    decay = log_between(rng, drum.noise_decay)
    low, high = (edge * log_between(rng, (0.75, 1.33)) for edge in band)
    n = int(min(5.0 * decay + 0.05, 3.0) * sr)
    t = np.arange(n, dtype=np.float32) / sr
    envelope = np.exp(-t / decay) * np.minimum(t / drum.noise_attack, 1.0)
    gap = between(rng, (0.007, 0.014))
    early = t < (drum.bursts - 1) * gap
    envelope[early] *= np.exp(-(t[early] % gap) / 0.004)
    steep, peak = between(rng, (6.0, 18.0)), between(rng, (-2.0, 4.0))
    colour = {low / 8: -3 * steep, low: -3.0, (low * high) ** 0.5: peak, high: -4.0, 2 * high: -4.0 - steep}
    out = toned(white(n, noise), sr, colour) * envelope
    return out / (np.abs(out).max() + 1e-9)


def play_drums(strokes: list[tuple[str, float, float]], n: int, sr: int, rng: np.random.Generator) -> np.ndarray:
    """Render strokes (name, seconds, velocity) to (n,) float32; an open hat stops at the next stroke on the hat.

    Every drum is drawn once. A drum machine repeats one waveform of it; acoustic drums have two loud ones and a soft
    one.
    """
    machine = chance(rng, 0.35)
    drums = {name: _waveforms(DRUMS[name], machine, sr, rng) for name in sorted({stroke[0] for stroke in strokes})}
    stops = sorted(start for name, start, _ in strokes if name in ("hat", "open"))
    out = np.zeros(n, np.float32)
    for i, (name, start, velocity) in enumerate(strokes):
        waveforms = drums[name]
        x = waveforms[-1] if velocity < 0.6 else waveforms[i % max(len(waveforms) - 1, 1)]
        if name == "open":
            following = next((stop for stop in stops if stop > start + 0.02), start + 9.0)
            x = fade(x[: int((following - start) * sr) + 1].copy(), 0.0, 0.02, sr)
        add(out, x * np.float32(velocity**1.5), int(start * sr))
    return out


def _waveforms(drum: Drum, machine: bool, sr: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Strokes of one drum at a random level: one for a machine, otherwise two and a duller one for soft strokes."""
    seed, level = int(rng.integers(1 << 31)), np.float32(gain(2.5 * float(rng.standard_normal())))
    # The seed is that of the drum, which all strokes share; rng draws their noise.
    waveforms = [level * strike(drum, np.random.default_rng(seed), rng, sr) for _ in range(1 if machine else 3)]
    if not machine:
        waveforms[-1] = toned(waveforms[-1], sr, {200.0: 0.0, 3000.0: -3.0, 12000.0: between(rng, (-9.0, -3.0))})
    return waveforms
