"""Statistics of preset sets."""
