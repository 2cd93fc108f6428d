"""Grade-school word problems that a 135M model can learn on a laptop in minutes."""
