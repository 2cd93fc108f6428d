"""What runs inside a sandbox: standard library only, for every call forks this process."""
