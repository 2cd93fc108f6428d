"""The server: three dialects over the same jobs, models and files."""
