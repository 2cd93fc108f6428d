"""What a person is handed at the end: pages of one file, and base against tuned as text."""
