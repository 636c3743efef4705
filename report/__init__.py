"""Output for users: tables, figures, the progress bar and TensorBoard."""
