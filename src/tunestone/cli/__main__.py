"""`python -m tunestone.cli`."""

from tunestone.cli import main

main()
