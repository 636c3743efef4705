"""What every program stands on, and nothing of audio: settings, errors, files, device, memory, signals, workers."""
