"""Read and write files: completely or not at all, and without running code."""
