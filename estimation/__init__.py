"""Estimates the parameters of a chain from processed audio alone, and trains the estimators (BE-AFX)."""
