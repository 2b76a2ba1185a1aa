"""An ANN on its way to a spiking network, one change after another, each measured."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from onnx2snn.ann import import_ann
from onnx2snn.data.calibration_data import with_measures
from onnx2snn.data.ranges import Ranges, with_ranges
from onnx2snn.data.samples import Data, Inputs, with_inputs
from onnx2snn.graph_passes import (
    MissingThresholdError,
    PassReport,
    Refusal,
    dequantize_layers,
    dequantize_weights,
    fold_batch_normalization,
    fold_constants,
    fold_forward,
    max_to_average_pool,
    remove_no_ops,
    run_passes,
    split_fused_layers,
    unquantize_activations,
    upgrade_opset,
)
from onnx2snn.graph_passes.approximate import ClipFit, approximate_activations, fit_clips
from onnx2snn.graph_passes.canonicalise import CANONICAL_FORM
from onnx2snn.graph_passes.driver import Pass
from onnx2snn.graph_passes.errors import counted
from onnx2snn.graph_passes.graph.editing import until_done
from onnx2snn.graph_passes.graph.finite import require_finite_weights
from onnx2snn.graph_passes.graph.operators import INTEGER_LAYERS, MaxPool
from onnx2snn.graph_passes.graph.scalar_regions import regions_to_approximate
from onnx2snn.graph_passes.model_files.files import Model, read_any
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.graph_passes.spellings.integer_layers import quantises_anew
from onnx2snn.graph_passes.spellings.scikit_learn import is_of_scikit_learn
from onnx2snn.graph_passes.unquantize import ROUNDING
from onnx2snn.inspection import inputs_of
from onnx2snn.running import Running
from onnx2snn.runtime.inputs import samples_in

from .batch_axis import Sample, open_batch_axis
from .calibration import sampled
from .checking import (
    APPROXIMATED,
    EXACT,
    FOLDED,
    NOT_CHECKED,
    POOLED,
    UNQUANTISED,
    Agreement,
    compare,
    first_inputs_that_run,
    outputs_of,
    relative_error,
    require_rounding,
    tolerance,
)
from .examination import hidden_pools, require_ann

MOST_UNQUANTISED = 0.4
"""How far, relative to them, outputs may be off without quantisation that rounds alone: trained in
2 bits a network was by 0.27, in 4 by 0.09, 60 of 8 and 16 bits by up to 0.05, and one of whose
HardTanhs only the quantisers were left by 0.72.
"""


class Network:
    """A network on its way from ANN to SNN: its graph, and what was done and found so far.

    ``original``: the ANN as it was given. ``reference``: what exact passes must keep, which is the
    original unless its quantisation was left out. ``unclipped``: the ANN before thresholds from
    data bound it. ``current``: as it is now.
    """

    def __init__(
        self,
        model: Model,
        calibration: Data | None,
        maxpool: MaxPool,
        running: Running,
        on_means: bool = False,
    ) -> None:
        parts = read_any(model)
        self._model, self.original = model, parts
        self.calibration, self.maxpool, self.on_means = calibration, maxpool, on_means
        self.measures: dict[str, np.ndarray] = {}
        self.input_ranges = Ranges()
        if calibration is not None:
            read = with_inputs(calibration, [info.name for info in inputs_of(parts.structure)])
            measured, self.measures = with_measures(read)
            self.calibration, self.input_ranges = with_ranges(measured)
        self.running = running
        self.reports: list[PassReport] = []
        # Since ``reference``, whose function they must keep.
        self._ran: list[Pass] = []
        self.declined: list[Refusal] = []
        self.agreements: list[Agreement] = []
        self.notes: list[str] = []
        self.hidden_pools: list[Refusal] = []
        self.clips: dict[str, ClipFit] = {}
        self.ranges = dict[str, float]()
        self.check = "not checked: there was nothing to rewrite"
        upgraded = upgrade_opset(parts)
        # A newer opset, functions in place, and other domains' operators are a rewriting too.
        self._translated = upgraded is not parts or bool(parts.structure.functions)
        self._translated |= any(is_of_scikit_learn(node) for node in parts.structure.graph.node)
        self.graph = import_ann(upgraded)
        require_ann(self.graph)
        require_finite_weights(self.graph)
        self.current = self.reference = self.original
        self.unclipped: ModelParts

    def run(self, passes: Sequence[Pass]) -> bool:
        """Run passes; whether any changed something."""
        return self._note(passes, run_passes(self.graph, passes))

    def _note(self, passes: Sequence[Pass], reports: list[PassReport]) -> bool:
        """Note what passes did that have run; whether any changed something."""
        self.reports += reports
        self._ran += passes
        return any(report.changed for report in reports)

    def _canonicalise(self) -> bool:
        """Bring the graph into canonical form; a later round is reported where it found work."""
        later = len(self.reports) + len(CANONICAL_FORM)
        changed = until_done(lambda _: self.run(CANONICAL_FORM), self.graph)
        self.reports[later:] = [report for report in self.reports[later:] if report.changed]
        return changed

    @property
    def unquantised(self) -> bool:
        """Whether quantisation was left out."""
        return self.reference is not self.original

    def note_agreement(self, change: str, before: ModelParts) -> Agreement | None:
        """With data, note how the ANN as it is now agrees with that before a change."""
        self.current = to_parts(self.graph)
        if self.calibration is None:
            return None
        agreement = compare(change, before, self.current, self.calibration, self.running)
        self.agreements.append(agreement)
        return agreement

    def unquantize(self) -> None:
        """Let clips stand for quantised activations; the result is what later passes must keep.

        It comes first, since what other passes change by rounding would change levels.
        """
        dynamic = any(quantises_anew(node) for node in self.graph.nodes)
        known = any(node.op in (*ROUNDING, *INTEGER_LAYERS) for node in self.graph.nodes)
        if not dynamic and not known:
            return
        # PyTorch puts a Cast to the same type behind each quantiser.
        exact: list[Pass] = [split_fused_layers, fold_constants, remove_no_ops, dequantize_layers]
        unquantize = partial(unquantize_activations, ranges=self.ranges)
        self._translated |= self.run([*exact, dequantize_weights, unquantize])
        *_, layers, _, activations = self.reports
        if not activations.changed and not (dynamic and layers.changed):
            return
        agreement = self.note_agreement(UNQUANTISED, self.original)
        self.reference = self.current
        self._ran = []
        cost = ""
        if agreement is None and (sample := first_inputs_that_run(self.original, self.graph)):
            error = relative_error(sample[1], outputs_of(self.current, sample[0]))
            cost = f" (relative error {error:.1e} on random inputs, which its levels may not reach)"
        self.notes.append(
            f"the ANN's activations are quantised, which is left out{cost}: in T time-steps "
            "neurons round to T levels themselves"
        )
        if agreement is not None and agreement.error > MOST_UNQUANTISED:
            self.notes.append(
                f"without quantisation the ANN's outputs are {100 * agreement.error:.0f} % off, "
                "more than rounding makes: a HardTanh, or another clip of both signs, may be gone "
                "that a tool had folded into a quantiser's range; quantise with symmetric "
                "activations, or convert the network as it was before"
            )

    def rewrite_exactly(self) -> None:
        """Bring the network into canonical form and fold what can be folded; check it."""
        folds: list[Pass] = [
            partial(fold_batch_normalization, declined=self.declined),
            partial(fold_forward, declined=[] if self.maxpool == "average" else self.declined),
        ]
        sample = first_inputs_that_run(self.reference, self.graph)
        self.graph, passes, reports, note = open_batch_axis(
            self.graph, self.reference, self.calibration, sample
        )
        opened = self._note(passes, reports)
        self.notes += [note] if note else []
        if self.calibration is None and not self.unquantised:
            # Its outputs are known: rather than to hold all weights twice, it is read again if
            # they should turn out to differ.
            self.original = self.reference = ModelParts(self.original.structure, {})
            self.current = self.original
        rewritten = [self._canonicalise(), self.run(folds), opened, self._translated]
        if any(rewritten):
            self.check = self._require_same(EXACT, self.reference, self._ran, sample)
        else:
            self.current = to_parts(self.graph)

    def _require_same(
        self,
        change: str,
        before: ModelParts,
        passes: Sequence[Pass],
        sample: Sample,
    ) -> str:
        """Raise ``PassError``, naming the pass, if the network's function has changed.

        Returns how that was checked, or why not.
        """
        agreement = self.note_agreement(change, before)
        first: Iterator[Inputs]
        if self.calibration is not None and agreement is not None:
            first = (x for x, _ in self.calibration.batches(self.running.batch_size))
            error = agreement.error
            on = f"{counted(self.calibration.samples, 'sample')} of the calibration data"
        elif sample is not None:
            first = iter([sample[0]])
            error = relative_error(sample[1], outputs_of(self.current, sample[0]))
            count = samples_in(sample[0])
            on = f"{counted(count, 'random input')} (seed 0) of the declared shape"
        else:
            return NOT_CHECKED
        check = f"checked on {on}; relative error {error:.1e}"
        if error > tolerance(self.graph):
            rounding = require_rounding(passes, self._again(before), next(first), error)
            check += f" (that of rounding the inputs is {rounding:.1e})"
        return check

    def _again(self, model: ModelParts) -> ModelParts:
        """The same, its weights read again if it is the original and they were let go."""
        return read_any(self._model) if model is self.original else model

    def replace_pools(self) -> None:
        """Replace max-pooling by average-pooling, if so wanted, and fold what that lets fold."""
        self.hidden_pools = self.hidden_pools or hidden_pools(self.graph)
        if self.maxpool != "average":
            return
        before, declined = self.current, list[Refusal]()
        replaced = self.run([partial(max_to_average_pool, declined=declined)])
        # Those that are left when it runs once more are known.
        self.declined += [refusal for refusal in declined if refusal not in self.declined]
        if replaced:
            self.note_agreement(POOLED, before)
            before = self.current
            folding: list[Pass] = [partial(fold_forward, declined=self.declined)]
            if self.run(folding):
                sample = None
                if self.calibration is None:
                    sample = first_inputs_that_run(before, self.graph)
                self._require_same(FOLDED, before, folding, sample)

    def approximate(self, clips: int) -> None:
        """Let clips stand in for scalar activations."""
        regions = regions_to_approximate(self.graph)
        if not regions:
            return
        if self.calibration is None:
            raise MissingThresholdError(
                "the range of these activations is needed to approximate them "
                "(--calibration DATA):",
                [Refusal(region.name, region.op, "no calibration data") for region in regions],
            )
        watched = {region.name: region.source.name for region in regions}
        seen = sampled(self.current, watched, self.calibration, self.running)
        self.replace_by_clips(fit_clips(self.graph, seen, clips, self.notes))

    def replace_by_clips(self, fits: dict[str, ClipFit]) -> None:
        """Let the clips that were fitted, as many for each, stand in for scalar activations."""
        before, clips = self.current, len(next(iter(fits.values())).knots) - 1
        self.run([partial(approximate_activations, fits=fits)])
        self.clips = fits
        self.note_agreement(f"{APPROXIMATED} by {clips} clips", before)
