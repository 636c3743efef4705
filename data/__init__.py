"""Recordings as they come: audio files, datasets, pairs and their alignment, chunks, excerpts, lossy codecs."""
