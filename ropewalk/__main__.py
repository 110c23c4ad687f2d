"""``python -m ropewalk`` is the command line."""

from ropewalk.cli.main import main

main()
