"""Signs that a run goes wrong: rules with thresholds, and a watch that tells each sign once."""
