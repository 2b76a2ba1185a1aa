"""Whether what a network says of a sample shows that it depends on others in its batch."""

import numpy as np

from .early_exit import depends_on_others
from .given import samples_of
from .result import Arrays
from .session import SpikingSession
from .sums import rows_of


def why_not_apart(session: SpikingSession, x: Arrays) -> str | None:
    """Why a sample of x has no row in an output, or none of its own; None where nothing shows.

    As far as that shows after one time-step, before all neurons and behind them: between them
    spikes that are rounded otherwise among others would say the same. The session is at v(0) then.
    Raises ``DataError`` where the network does not run on x.
    """
    samples = samples_of(session._plan, x)
    last = np.array([samples - 1])
    outputs = session.run(x, session._plan.delay + 1).values
    # Another one than before, where x is larger than all so far.
    progress = session._progress
    values, other = progress.prologue.step_inputs(x), None
    # One row may be that of all samples.
    wrong = [name for name, v in outputs.items() if v.ndim and len(v) not in (1, samples)]
    if not wrong and progress.time_steps.states_have_rows(progress.choice(values), samples):
        alone = progress.prologue.step_inputs(rows_of(x, last, samples))
        rows = {name: v for name, v in values.items() if v.shape[:1] == (samples,)}
        other = depends_on_others(alone, rows_of(rows, last, samples))
        progress.keep(last, samples)
        other = other or depends_on_others(progress.outputs(), rows_of(outputs, last, samples))
    session.reset()
    if wrong:
        return f"the output '{wrong[0]}' is {list(outputs[wrong[0]].shape)} for {samples} samples"
    return None if other is None else f"'{other}' of a sample depends on the other samples"
