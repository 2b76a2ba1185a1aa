"""A stand-in for a simulator, in a module that a process of its own can import."""

import os
import signal


class Contender:
    """A stand-in for a simulator."""

    def __init__(self, word):
        if word == "broken":
            raise ValueError("cannot be made")
        self.word = word

    def say(self, times):
        return self.word * times

    def where(self):
        return os.getpid(), sorted(os.sched_getaffinity(0))

    def heeds_interrupts(self):
        return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def fail(self):
        raise RuntimeError("out of luck")

    def end(self):
        os._exit(3)
