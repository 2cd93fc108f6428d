"""Word problems in levels: one step, two steps, and numbers that do not matter."""
