"""Processes that a test starts."""

import os


def environment(*folders, **variables):
    """That of this process, with further variables, and folders to import from first."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # Nothing empty, which would stand for the working directory.
    paths = [*map(str, folders), *filter(None, inherited)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | variables
