"""Statistics over presets."""
