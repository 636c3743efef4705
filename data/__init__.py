"""Audio files, data sets, pairs and their alignment, chunks, excerpts, lossy codecs."""
