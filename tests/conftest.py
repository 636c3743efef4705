"""What holds for every test: threads that wait sleep, as those that spin take the cores from threads that work."""

import os

# Read when torch is loaded, which no plugin does before this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
