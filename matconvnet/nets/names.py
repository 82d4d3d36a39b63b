"""Names for what is made: like the name of what it was made from, and new."""

from collections.abc import Container


def unique_name(name: str, taken: Container[str], mark: str = "", first: int = 1) -> str:
    """The name; if it is taken, with the first number behind it that makes it a new one.

    Args:
        name: what it should be.
        taken: the names that there are.
        mark: what stands between the name and the number.
        first: the least number.
    """
    new, number = name, first
    while new in taken:
        new = f"{name}{mark}{number}"
        number += 1
    return new
