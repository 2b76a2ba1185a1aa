"""Whether what a network says of a sample shows that it depends on others in its batch."""

import numpy as np

from onnx2snn.graph_passes.errors import DataError

from .early_exit import depends_on_others
from .inputs import samples_in
from .result import Arrays
from .session import SpikingSession
from .sums import rows_of


def require_apart(session: SpikingSession, x: Arrays) -> None:
    """Raise ``DataError`` where a sample of x has no row in an output, or none of its own.

    As far as that shows on x after one time-step, before all neurons and behind them: between them
    spikes that are rounded otherwise among others would say the same. The session is at v(0) then.
    """
    progress, samples = session._progress, samples_in(x)
    stay = np.array([samples - 1])
    outputs = session.run(x, progress.plan.delay + 1).values
    values = progress.prologue.step_inputs(x)
    for name, value in outputs.items():
        # One row may be that of all samples.
        if value.ndim and len(value) not in (1, samples):
            session.reset()
            raise DataError(f"the output '{name}' is {list(value.shape)} for {samples} samples")
    other = None
    if progress.time_steps.states_have_rows(progress.choice(values), samples):
        alone = progress.prologue.step_inputs(rows_of(x, stay, samples))
        rows = {n: v for n, v in values.items() if v.shape[:1] == (samples,)}
        other = depends_on_others(alone, rows_of(rows, stay, samples))
        progress.keep(stay, samples)
        other = other or depends_on_others(progress.outputs(), rows_of(outputs, stay, samples))
    session.reset()
    if other is not None:
        raise DataError(f"'{other}' of a sample depends on the other samples")
