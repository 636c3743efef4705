"""Differentiable audio effects: declarations, mathematics and sample loops."""
