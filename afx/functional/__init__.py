"""The mathematics of the effects: pure functions of tensors."""
