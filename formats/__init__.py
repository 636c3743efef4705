"""Reading and writing of run folders, preset sets, and names and configurations of the published release."""
