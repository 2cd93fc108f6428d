"""Jobs: runs that were asked for through the server, and everything it remembers."""
