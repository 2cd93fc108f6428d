"""Bedrock's evaluation jobs: base against tuned on a dataset, with our paired statistics."""
