"""`python -m matconvnet`: the command line."""

from matconvnet.cli.app import main

main()
