"""What all tests have in common."""

import os
import sys
import zlib

import numpy as np
import pytest


def pytest_configure(config):
    """Tables are as wide wherever tests run, and each process of pytest-xdist has its own core.

    Without that threads of ONNX Runtime, which spin while they wait, take the cores of other
    processes: beside other work on two cores, three files of tests took 128 s of processor time
    with two threads, and 79 s with one.
    """
    os.environ.pop("COLUMNS", None)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker.isdigit() and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


@pytest.fixture(autouse=True)
def random_numbers_of_its_own(request):
    """A test draws the same numbers whichever tests ran before it, in whichever process."""
    seed = zlib.crc32(request.node.nodeid.encode())
    for module in (request.module, sys.modules.get("one_neuron")):
        if hasattr(module, "RNG"):
            module.RNG.bit_generator.state = np.random.default_rng(seed).bit_generator.state
