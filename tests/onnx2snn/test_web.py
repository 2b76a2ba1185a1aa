"""The page of ``examples/web`` in headless Chromium gives Python's answers."""

import functools
import http.server
import json
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import stock

WEB = Path(__file__).parents[2] / "examples" / "web"
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.web,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: make test-web"),
    pytest.mark.skipif(
        not (WEB / "node_modules" / "onnxruntime-web").is_dir(),
        reason="onnxruntime-web is not installed: make test-web",
    ),
]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the folder, and keeps what the page posts."""

    results: queue.Queue = queue.Queue()

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.results.put(json.loads(self.rfile.read(length)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address():
    subprocess.run([sys.executable, WEB / "build.py"], check=True)
    handler = functools.partial(Handler, directory=WEB)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_page_gives_pythons_classes(address, tmp_path):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
        "--remote-debugging-port=0", address + "?test",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as browser:
        try:
            found = Handler.results.get(timeout=240)
        finally:
            browser.terminate()
    assert not isinstance(found, str), found
    images = json.loads((WEB / "images.json").read_text())
    outputs = np.array(found)
    assert outputs.shape == (20, 10)
    assert outputs.argmax(1).tolist() == images["classes"]
    # The same file on ONNX Runtime here; its sums are rounded in another order in the browser.
    pixels = np.array(images["pixels"], np.float32).reshape(-1, 1, 28, 28)
    here = stock.run(onnx.load(WEB / "net.onnx"), {"input": pixels})["output"]
    np.testing.assert_allclose(outputs, here, atol=0.1)
