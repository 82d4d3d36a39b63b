"""The errors that are more than a wrong value; wrong arguments are ValueError and TypeError."""


class GraphError(ValueError):
    """A network whose wiring cannot be evaluated: a cycle, a variable with two writers."""


class FormatError(ValueError):
    """A file or a network structure that does not say what its format requires."""


class RecordError(RuntimeError):
    """An evaluation record asked for a value that it no longer holds."""


class DivergenceError(ArithmeticError):
    """Training met a number that is not finite; the message names where it first appeared."""


class MatFileError(FormatError):
    """A `.mat` file that is damaged, hostile, or of a kind that cannot be read."""
