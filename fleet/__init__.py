"""Fits of many songs by worker processes, a Ray cluster or Slurm, and what shows how far they are."""
