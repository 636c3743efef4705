"""What is written and read back: run folders, preset sets, published names and configurations."""
