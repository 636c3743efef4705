"""The mathematics of the effects: tensors in, tensors out, no class, no state."""
