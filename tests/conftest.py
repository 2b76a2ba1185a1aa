"""What all tests have in common."""

import sys
import zlib

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def random_numbers_of_its_own(request):
    """A test draws the same numbers whichever tests ran before it, in whichever process."""
    seed = zlib.crc32(request.node.nodeid.encode())
    for module in (request.module, sys.modules.get("one_neuron")):
        if hasattr(module, "RNG"):
            module.RNG.bit_generator.state = np.random.default_rng(seed).bit_generator.state
