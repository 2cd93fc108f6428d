"""Small Python functions from a sentence, graded by unit tests."""
