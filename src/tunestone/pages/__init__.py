"""The pages of runs: what happened in a run folder, for a browser. Ground only, no torch."""
