"""A seeded, unlimited generator of short excerpts of multi-instrument music."""

from .song import generate_music, generate_tracks
from .styles import STYLES

__all__ = ["STYLES", "generate_music", "generate_tracks"]
