"""What both doors share when a model is asked: which weights answer, and how an answer is read."""
