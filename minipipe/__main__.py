"""``python -m minipipe``: the same as the ``minipipe`` command."""

from minipipe.cli import main

main()
