"""The loops that fit and train."""
