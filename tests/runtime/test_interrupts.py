"""Sessions that are interrupted, shared by threads, and results that leave the process."""

import copy
import pickle
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import dyadic
import numpy as np
import pytest
import stock
from alike import same

from onnx2snn import DataError, EarlyExit, SpikingSession, convert
from onnx2snn.runtime.choices import groups
from onnx2snn.runtime.result import Later

NETWORK = dyadic.finish(3)
SNN = convert(dyadic.to_onnx(NETWORK)).model
FILES = {"progress.py", "prologue.py", "session.py", "states.py", "sums.py", "time_steps.py"}
LOCKED = {"values", "__call__", "in_turn"}


def images(samples):
    return dyadic.images(NETWORK, samples, seed=samples)


def interrupted_at(number, work):
    """Whether work was interrupted at the line of this number, of those that keep states."""
    left = number

    def trace(frame, event, _):
        nonlocal left
        if Path(frame.f_code.co_filename).name not in FILES or frame.f_code.co_name in LOCKED:
            return trace if event == "call" else None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("plan", ["auto", "step"])
@pytest.mark.parametrize("samples", [2, 3])
def test_an_interrupted_run_leaves_nothing(plan, samples):
    reference = SpikingSession(SNN, plan="step", threads=1)
    wanted = {n: reference.run(images(n), 21, [6]) for n in (2, 3)}
    session = SpikingSession(SNN, plan=plan, threads=1)
    # Runs of other samples than the one before make buffers anew.
    session.run(images(3), 21)
    number = 1
    while interrupted_at(number, lambda: session.run(images(samples), 21, [6])):
        for n in (3, 2, 3):
            same(session.run(images(n), 21, [6]), wanted[n])
        number += 9
    assert number > 200


def test_an_interrupted_step_begins_anew():
    session = SpikingSession(SNN, threads=1)
    first = session.step(images(2))
    session.step(images(2))
    assert interrupted_at(5, lambda: session.step(images(2)))
    np.testing.assert_array_equal(session.step(images(2)), first)


class TimeLimitError(Exception):
    """As task queues have one, which a signal handler raises."""


@pytest.mark.parametrize("raised", [TimeoutError, TimeLimitError])
@pytest.mark.parametrize(("where", "name"), stock.CALLS)
def test_a_time_limit_arrives_as_what_it_is(where, name, raised):
    wanted = SpikingSession(SNN, threads=1).run(images(2), 21)
    session = SpikingSession(SNN, threads=1)
    session.run(images(2), 3)
    # Other lengths need other graphs, others N other buffers.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(where, name, Mock(side_effect=raised("30 s")))
        with pytest.raises(raised, match="30 s"):
            session.run(images(3), 21)
    same(session.run(images(2), 21), wanted)


@pytest.mark.parametrize("error", [DataError, MemoryError])
def test_a_step_without_an_output_begins_anew(error, monkeypatch):
    session = SpikingSession(SNN, threads=1)
    first = session.step(images(2))
    session.step(images(2))
    with monkeypatch.context() as patched:
        patched.setattr(session._progress.averages, "of_one", Mock(side_effect=error("no memory")))
        with pytest.raises(DataError):
            session.step(images(2))
    np.testing.assert_array_equal(session.step(images(2)), first)


def test_memory_that_a_result_lacks_is_an_error_of_this_package():
    with pytest.raises(DataError, match="out of memory"):
        Later(Mock(side_effect=MemoryError))()


def test_wrong_calls_leave_the_state():
    session = SpikingSession(SNN, threads=1)
    session.step(images(2))
    before = session.state
    with pytest.raises(DataError, match="mapping of names"):
        session.state = None
    with pytest.raises(TypeError):
        session.chosen()
    with pytest.raises(DataError, match="Poisson"):
        session.run(images(2) + 2, 4, coding="poisson")
    for name, value in session.state.items():
        np.testing.assert_array_equal(value, before[name])


def test_what_interrupts_a_run_cannot_use_its_session(monkeypatch):
    """As a signal handler does, in the same thread."""
    session = SpikingSession(SNN, threads=1)
    wanted, advance = session.run(images(2), 9), session._progress.advance_to

    def interrupted(t, values):
        for use in (lambda: session.run(images(3), 4), session.reset, lambda: session.state):
            with pytest.raises(RuntimeError, match="SpikingSession is at work in this thread"):
                use()
        advance(t, values)

    monkeypatch.setattr(session._progress, "advance_to", interrupted)
    same(session.run(images(2), 9), wanted)
    monkeypatch.setattr(session._progress, "advance_to", lambda *_: session.reset())
    with pytest.raises(RuntimeError):
        session.run(images(2), 9)
    monkeypatch.undo()
    same(session.run(images(2), 9), wanted)
    later = Later(lambda: later())
    with pytest.raises(RuntimeError, match="being worked out"):
        later()


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_threads_share_a_session(plan, monkeypatch):
    monkeypatch.setattr(groups, "CACHE", 1)
    session = SpikingSession(SNN, plan=plan, threads=1)
    given = [images(2), images(2)[::-1].copy(), images(3)]
    wanted = [SpikingSession(SNN, threads=1).run(x, 9, [4]) for x in given]
    found = [[] for _ in given]

    def runs(x, results):
        for _ in range(30):
            results.append(session.run(x, 9, [4]))

    threads = [threading.Thread(target=runs, args=pair) for pair in zip(given, found, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, result in zip(found, wanted, strict=True):
        assert len(results) == 30
        for each in results:
            same(each, result)


@pytest.mark.parametrize("rule", [None, EarlyExit(0.2, stable=1, every=2)])
@pytest.mark.parametrize("send", [lambda r: pickle.loads(pickle.dumps(r)), copy.deepcopy])
def test_results_go_to_other_processes(rule, send):
    session = SpikingSession(SNN, threads=1)
    result = session.run(images(3), 9, None if rule else [4], early_exit=rule)
    sent = send(result)
    session.run(images(2), 5)
    same(sent, result)
    np.testing.assert_array_equal(sent.sample_timesteps, result.sample_timesteps)
