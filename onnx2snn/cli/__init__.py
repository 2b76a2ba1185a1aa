"""The command line: a file for each command, and what they share and show."""

from .commands import main

__all__ = ["main"]
