"""What every program uses that is not audio: settings, errors, files, device, memory, signals, worker processes."""
