"""Ready graders: numbers, choices, JSON, patterns, tags, penalties, expressions, reasoning-gym."""
