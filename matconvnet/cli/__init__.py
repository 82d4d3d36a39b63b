"""The command line: `matconvnet train | evaluate | predict | show | convert | parity | check`.

Commands import what is slow to load when they run, so that `--help` answers at once.
"""
