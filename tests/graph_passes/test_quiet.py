"""A process forked while another thread is within onnx-graphsurgeon."""

import os
import subprocess
import sys

import pytest

FORKED = """
import os, signal, threading, time
from onnx_graphsurgeon.logger import G_LOGGER
from onnx2snn.graph_passes.quiet import muted

done, level = threading.Event(), G_LOGGER.severity

def other():
    while not done.is_set():
        with muted():
            time.sleep(0)

threading.Thread(target=other).start()
ended = []
for _ in range(20):
    child = os.fork()
    if not child:
        signal.alarm(20)
        with muted():
            pass
        os._exit(7 if G_LOGGER.severity == level else 8)
    ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
assert ended == [7] * 20, ended
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_child_does_not_wait_for_a_thread_that_it_has_not():
    assert subprocess.run([sys.executable, "-P", "-c", FORKED], timeout=60).returncode == 0
