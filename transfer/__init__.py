"""Style transfer: settings that make a raw recording sound like a reference, with what presets tell as a prior."""
