"""GSM8K itself, for models that solve some of it."""
