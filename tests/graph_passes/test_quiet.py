"""A process forked while another thread is within onnx-graphsurgeon."""

import os
import subprocess
import sys

import pytest

FORKED = """
import os, threading
from onnx2snn.graph_passes.quiet import muted

inside, go = threading.Event(), threading.Event()

def other():
    with muted():
        inside.set()
        go.wait()

threading.Thread(target=other).start()
inside.wait()
child = os.fork()
if not child:
    with muted():
        os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
go.set()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_child_does_not_wait_for_a_thread_that_it_has_not():
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=60).returncode == 0
