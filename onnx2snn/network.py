"""A network on its way from ANN to SNN, one change after another, each measured."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onnx2snn.graph_passes import (
    MissingThresholdError,
    PassReport,
    Refusal,
    activations_to_neurons,
    average_before_read_out,
    bound_activations,
    change_neurons,
    delay_read_out,
    dequantize_layers,
    dequantize_weights,
    fold_batch_normalization,
    fold_constants,
    fold_forward,
    infer_shapes,
    max_to_average_pool,
    max_to_spiking_pool,
    neuron_nodes,
    nonlinear_to_means,
    remove_no_ops,
    run_passes,
    set_initial_potential,
    split_fused_layers,
    thresholds_to_spiking,
    unbounded_activations,
    unquantize_activations,
    upgrade_opset,
)
from onnx2snn.graph_passes.approximate import (
    ClipFit,
    approximate_activations,
    fit_clips,
)
from onnx2snn.graph_passes.canonicalise import CANONICAL_FORM
from onnx2snn.graph_passes.driver import Pass
from onnx2snn.graph_passes.editing import type_of
from onnx2snn.graph_passes.errors import counted
from onnx2snn.graph_passes.files import Model, read_any
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.integer_layers import INTEGER_LAYERS, quantises_anew
from onnx2snn.graph_passes.io import to_parts
from onnx2snn.graph_passes.linear import MaxPool, require_channels, samples_axis
from onnx2snn.graph_passes.scalar_regions import regions_to_approximate
from onnx2snn.graph_passes.spiking import (
    DATA_NEEDED,
    NO_BOUND,
    require_finite_results,
    require_finite_weights,
    require_ranks,
)
from onnx2snn.graph_passes.thresholds import bounded_activations
from onnx2snn.graph_passes.unquantize import ROUNDING
from onnx2snn.graph_passes.weights import ModelParts
from onnx2snn.runtime.inputs import samples_in
from onnx2snn.runtime.parts import parts_of, require_affine

from .batch_axis import Sample, open_batch_axis
from .batches import may_be_of_a_graph
from .calibration import calibrate, sampled
from .calibration_data import in_no_order, notes_on_equal_samples, with_measures
from .checking import (
    APPROXIMATED,
    CLIPPED,
    EXACT,
    NOT_CHECKED,
    POOLED,
    TOGETHER,
    UNQUANTISED,
    Agreement,
    compare,
    first_inputs_that_run,
    outputs_of,
    relative_error,
    require_rounding,
    tolerance,
)
from .data import Data, Inputs, with_inputs
from .examination import (
    hidden_pools,
    import_ann,
    notes_on_spikes,
    require_activations,
    require_ann,
    require_sizes,
)
from .inspection import inputs_of
from .progress import Running
from .recipe import Neuron, Recipe, SpikingPass, reads_data
from .spiking import Spiking, over_graph

NO_CHANNELS = "there are no thresholds per channel"
"""What ``require_channels`` says of them."""


def _with_headroom(threshold: np.ndarray, headroom: float, dtype: np.dtype | None) -> np.ndarray:
    """A threshold times ``headroom``, or as much of it as its type holds."""
    largest = min((np.finfo(t).max for t in (dtype or np.float32, np.float32)), key=float)
    # Below the largest number, which is no bound.
    most = np.float32(np.nextafter(largest, np.zeros_like(largest)))
    with np.errstate(over="ignore"):
        scaled = np.float32(headroom) * threshold
    return np.where(threshold <= most, np.minimum(scaled, most), threshold)


class Network:
    """A network on its way from ANN to SNN: its graph, and what was done and found so far."""

    def __init__(
        self,
        model: Model | ModelParts,
        calibration: Data | None,
        maxpool: MaxPool,
        running: Running,
        on_means: bool = False,
    ) -> None:
        parts = read_any(model)
        self._model, self.original = model, parts
        self.calibration, self.maxpool, self.on_means = calibration, maxpool, on_means
        self.measures: dict[str, np.ndarray] = {}
        if calibration is not None:
            read = with_inputs(calibration, [info.name for info in inputs_of(parts.structure)])
            self.calibration, self.measures = with_measures(read)
        self.running = running
        self.reports: list[PassReport] = []
        self.declined: list[Refusal] = []
        self.agreements: list[Agreement] = []
        self.notes: list[str] = []
        self.hidden_pools: list[Refusal] = []
        self.clips: dict[str, ClipFit] = {}
        self.check = "there was nothing to rewrite"
        upgraded = upgrade_opset(parts)
        # A newer opset, and functions in place, are a rewriting too.
        self._translated = upgraded is not parts or bool(parts.structure.functions)
        self.graph = import_ann(upgraded)
        require_ann(self.graph)
        require_finite_weights(self.graph)
        self.current = self.unclipped = self.reference = self.original

    def _canonicalise(self) -> bool:
        """Bring the graph into canonical form; a later round is reported where it found work."""
        changed = self.run(CANONICAL_FORM)
        while again := [r for r in run_passes(self.graph, CANONICAL_FORM) if r.changed]:
            self.reports += again
        return changed

    def run(self, passes: Sequence[Pass]) -> bool:
        """Run passes; whether any changed something."""
        reports = run_passes(self.graph, passes)
        self.reports += reports
        return any(report.changed for report in reports)

    def _compare(self, change: str, before: ModelParts) -> Agreement | None:
        """With data, note how the ANN as it is now agrees with that before a change."""
        self.current = to_parts(self.graph)
        if self.calibration is None:
            return None
        agreement = compare(change, before, self.current, self.calibration, self.running)
        self.agreements.append(agreement)
        return agreement

    @property
    def unquantised(self) -> bool:
        """Whether quantisation was left out."""
        return self.reference is not self.original

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
        self._translated |= self.run([*exact, dequantize_weights, unquantize_activations])
        *_, layers, _, activations = self.reports
        if not activations.changed and not (dynamic and layers.changed):
            return
        agreement = self._compare(UNQUANTISED, self.original)
        self.unclipped = self.reference = self.current
        cost = ""
        if agreement is None and (sample := first_inputs_that_run(self.original, self.graph)):
            error = relative_error(sample[1], outputs_of(self.current, sample[0]))
            cost = f" (relative error {error:.1e} on random inputs, which its levels may not reach)"
        self.notes.append(
            f"the ANN's activations are quantised, which is left out{cost}: in T time-steps "
            "neurons round to T levels themselves"
        )

    def rewrite_exactly(self) -> None:
        """Bring the network into canonical form and fold what can be folded; check it."""
        folds: list[Pass] = [
            partial(fold_batch_normalization, declined=self.declined),
            partial(fold_forward, declined=[] if self.maxpool == "average" else self.declined),
        ]
        sample = first_inputs_that_run(self.reference, self.graph)
        self.graph, reports, note = open_batch_axis(
            self.graph, self.reference, self.calibration, sample
        )
        self.reports += reports
        self.notes += [note] if note else []
        if self.calibration is None and self.reference is self.original:
            # Its outputs are known: rather than to hold all weights twice, it is read again if
            # they should turn out to differ.
            self.original = self.reference = ModelParts(self.original.structure, {})
            self.current = self.unclipped = self.original
        rewritten = [self._canonicalise(), self.run(folds), bool(reports), self._translated]
        if any(rewritten):
            passes = [*CANONICAL_FORM, *CANONICAL_FORM, *folds]
            self._require_same(EXACT, self.reference, passes, sample)
        else:
            self.current = to_parts(self.graph)

    def _require_same(
        self,
        change: str,
        before: ModelParts,
        passes: Sequence[Pass],
        sample: Sample,
    ) -> None:
        """Raise ``PassError``, naming the pass, if the network's function has changed."""
        agreement = self._compare(change, before)
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
            self.check = NOT_CHECKED
            return
        self.check = f"on {on}; relative error {error:.1e}"
        if error > tolerance(self.graph):
            rounding = require_rounding(passes, self._again(before), next(first), error)
            self.check += f" (that of rounding the inputs is {rounding:.1e})"

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
            self._compare(POOLED, before)
            before = self.current
            folding: list[Pass] = [partial(fold_forward, declined=self.declined)]
            if self.run(folding):
                sample = None
                if self.calibration is None:
                    sample = first_inputs_that_run(before, self.graph)
                known = self.check
                self._require_same("exact folding", before, folding, sample)
                self.check = known

    def approximate(self, clips: int) -> None:
        """Let clips stand in for scalar activations between neurons."""
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
        self._compare(f"{APPROXIMATED} by {clips} clips", before)

    def bound(self, settings: Recipe) -> dict[str, str]:
        """Give activations thresholds from data, where the settings want such.

        Says where they came from, by the name of the activation's output, which is that of its
        neurons.
        """
        threshold, per_channel = settings.threshold, settings.per_channel
        recalibrate, headroom = settings.recalibrate, float(settings.headroom)
        if threshold is None:
            return {}
        self.unclipped = self.current
        bounds = bounded_activations(self.graph)
        wanted = unbounded_activations(self.graph)
        if recalibrate:
            wanted += [node for node in self.graph.nodes if node.name in bounds]
        if self.calibration is None:
            if recalibrate and bounds:
                why = "its threshold comes from data here, not from its bound"
                raise MissingThresholdError(
                    f"{DATA_NEEDED} {counted(len(wanted), 'activation')}:",
                    [Refusal(n.name, n.op, why if n.name in bounds else NO_BOUND) for n in wanted],
                )
            return {}
        if not wanted:
            return {}
        require_ranks(self.graph, wanted)
        require_sizes(wanted)
        self.notes += notes_on_equal_samples(self.calibration, self.running.batch_size)
        if per_channel:
            require_channels(self.graph, wanted, NO_CHANNELS)
        rows = [n.name for n in wanted if not samples_axis(self.graph, n.outputs[0])]
        thresholds = calibrate(
            self.current, wanted, self.calibration, threshold, per_channel, self.running, rows
        )
        thresholds = {
            node.name: _with_headroom(thresholds[node.name], headroom, type_of(node))
            for node in wanted
        }
        how = "per channel" if per_channel else "per layer"
        times = "" if headroom == 1 else f"{headroom:g} times "
        samples = counted(self.calibration.samples, "sample")
        text = f"{times}{threshold.describe()}, {how}, {samples}"
        sources = {
            node.outputs[0].name: text
            for node in wanted
            if node.name not in bounds or np.any(thresholds[node.name] < bounds[node.name])
        }
        if self.run([partial(bound_activations, thresholds=thresholds)]):
            self._compare(CLIPPED, self.unclipped)
        return sources

    def make_spiking(self, v_init: InitialPotential, seed: int) -> None:
        """Turn activations into neurons.

        And pools, ThresholdedRelus and the read-out into their spiking forms.
        """
        to_neurons = partial(activations_to_neurons, maxpool=self.maxpool, on_means=self.on_means)
        passes: list[Pass] = [to_neurons]
        if self.on_means:
            passes.append(nonlinear_to_means)
        if self.maxpool == "exact":
            passes.append(max_to_spiking_pool)
        passes += [
            thresholds_to_spiking,
            average_before_read_out,
            partial(set_initial_potential, v_init=v_init, seed=seed),
        ]
        self.run(passes)
        require_activations(
            self.graph, self.maxpool, self.on_means, self.unquantised, self.hidden_pools
        )
        if self.calibration is not None:
            self.agreements.append(
                compare(TOGETHER, self.original, self.current, self.calibration, self.running)
            )
        self.notes += notes_on_spikes(self.graph, self.maxpool)
        infer_shapes(self.graph)
        require_sizes(neuron_nodes(self.graph))
        require_affine(self.graph, parts_of(self.graph))
        require_finite_results(self.graph)

    def apply(self, passes: Sequence[SpikingPass], timesteps: int) -> None:
        """Run a recipe's passes over the spiking network, and fold what they added."""
        if not passes:
            return
        snn = Spiking(self.graph, self.unclipped, self.calibration, self.running, timesteps)
        data = self.calibration
        reads = data is not None and any(map(reads_data, passes))
        if data is not None and reads and not may_be_of_a_graph(data):
            together = snn.samples_at_once(data, timesteps)
            data, notes = in_no_order(data, self.measures, together, self.running.batch_size)
            snn = replace(snn, data=data)
            self.notes += notes
        self.run([*(over_graph(function, snn) for function in passes), fold_batch_normalization])
        require_finite_results(self.graph)

    def change(self, neuron: Neuron, delay: int, timesteps: int) -> None:
        """Let neurons be of another kind, and start again after a delay if they are of one.

        timesteps: the T that this is for.
        """
        if neuron.op != "IF":
            kind = partial(
                change_neurons,
                op=neuron.op,
                negative=neuron.negative,
                max_spikes=neuron.max_spikes,
                delay=delay,
            )
            self.run([kind])
            if neuron.op in ("ResidualIF", "OffsetIF") and not 0 < delay < timesteps:
                self.notes.append(
                    f"{neuron.op} begins again after the delay; without one (--delay 0, or T=1), "
                    "or in no more time-steps than it takes, it is an IF"
                )

    def delay(self, steps: int, timesteps: int) -> None:
        """Let the read-out begin after so many time-steps, of ``timesteps`` that this is for.

        Neurons that are outputs of the network get new output names, so run it after the passes
        that look tensors up by name.
        """
        if steps:
            self.run([partial(delay_read_out, delay=steps)])
        if steps >= timesteps:
            self.notes.append(
                f"the read-out begins after {steps} time-steps; runs of no more, as of "
                f"T={timesteps}, are read out from their start"
            )
