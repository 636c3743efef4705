"""Presets in the formats of other programs: a module per family, the table of them in `registry`."""
