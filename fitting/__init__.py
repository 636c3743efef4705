"""Fits an effect chain to dry/wet pairs by gradient descent (DiffVox)."""
