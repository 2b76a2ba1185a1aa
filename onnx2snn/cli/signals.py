"""What commands do at SIGTERM and SIGINT."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def takes_sigterm() -> Iterator[None]:
    """Let SIGTERM, as of timeout or a stopped service, put away what is half done, like Ctrl-C."""
    ignored = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    again = list[threading.Timer]()
    told, sys.unraisablehook = sys.unraisablehook, _sends_again(sys.unraisablehook, again)
    try:
        try:
            yield
        finally:
            # What was sent again comes now, at the latest.
            for timer in again:
                timer.join()
    finally:
        sys.unraisablehook = told
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _sends_again(
    told: Callable[[Any], None], again: list[threading.Timer]
) -> Callable[[Any], None]:
    """What Python tells of exceptions that it loses, as in a weakref's callback.

    Where a signal raised one, the signal is sent once more, soon after, by a timer in ``again``.
    """

    def hook(lost: Any) -> None:
        number = _SIGNALS.get(lost.exc_type)
        if number is None:
            told(lost)
            return
        again.append(threading.Timer(0.05, os.kill, (os.getpid(), number)))
        again[-1].start()

    return hook


_SIGNALS = {SystemExit: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
"""What raises these, while a command runs."""
