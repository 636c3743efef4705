"""A seeded, unlimited generator of short excerpts of multi-instrument music.

| module | what it does |
|---|---|
| `song` | generates a piece: draws a style and a score, renders every track, mixes them |
| `styles` | for every style, its tracks with their parts and instruments, tempo and room |
| `score`, `parts`, `beats` | tempo and chords; notes of pitched parts; strokes of drums |
| `struck`, `sustained`, `phrased`, `voice`, `drums`, `textures` | render notes or strokes to samples |
| `synthesis`, `shaping`, `mixing` | oscillators and modes; filters and dynamics; levels, reverb and bus processing |

Everything is drawn from the seed; no samples or files are used.

Mean and standard deviation over excerpts of 10 s, mono, 44.1 kHz: of 200 seeds, and of 110 excerpts of 55 pieces of
recorded and synthesised game music.

| figure | generated | real |
|---|---|---|
| tilt of the long-term spectrum, 90 Hz to 11 kHz, dB/octave | -5.0 ± 2.3 | -5.1 ± 2.1 |
| third-octave level at 63 / 250 / 1000 Hz, dB | -25 ± 20 / -14 ± 7 / -18 ± 7 | -22 ± 14 / -16 ± 7 / -18 ± 5 |
| third-octave level at 4 / 10 / 16 kHz, dB | -25 ± 8 / -31 ± 13 / -38 ± 15 | -25 ± 6 / -30 ± 15 / -33 ± 17 |
| energy above 10 kHz, dB | -30 ± 14 | -26 ± 12 |
| crest factor, dB | 14.7 ± 3.3 | 13.3 ± 2.4 |
| range of 0.4 s levels, 95 to 10 %, dB | 6.2 ± 6.0 | 5.0 ± 5.9 |
| spectral flatness, dB | -37 ± 13 | -50 ± 14 |
| onsets per second | 8.0 ± 1.1 | 7.7 ± 1.7 |
"""

from .song import generate_music, generate_solo, generate_tracks
from .styles import STYLES

__all__ = ["STYLES", "generate_music", "generate_solo", "generate_tracks"]
