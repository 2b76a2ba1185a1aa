"""Random dyadic networks of every operator that converts, in the spellings of exporters.

Each method of ``Builder`` adds one operator: as ONNX nodes, in one of the ways in which it can
be written, and as an equation. Weights are multiples of 1/2 or 1/4 and windows of means hold
a power of two of pixels, so that float32 sums are exact. Tensors of equations have channels
first, also where those of the graph have them last.
"""

import equations as eq
import numpy as np
import onnx
from onnx import helper, numpy_helper

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class Builder:
    """A network as it grows; ``values`` holds what the ANN computes on its ``data``."""

    def __init__(
        self, seed=0, shape=(2, 4, 4), opset=17, dtype=np.float32, channels_last=False,
        samples=3, batch="N",
    ):  # fmt: skip
        self.rng = np.random.default_rng(seed)
        self.opset, self.dtype, self.batch = opset, np.dtype(dtype), batch
        self.channels_last, self.samples = channels_last, samples
        self.nodes, self.constants, self.layers, self.outputs = [], [], [], []
        self.values, self.data, self.bounded = {}, {}, {}
        self.thresholded = set()
        self.needs_data, self._count = False, 0
        self.first = self.input(shape)

    # The graph ---------------------------------------------------------------------------

    def name(self, base):
        self._count += 1
        return f"{base.lower()}{self._count}"

    def input(self, shape, name="x"):
        x = self.rng.integers(-8, 9, (self.samples, *shape)) / 8
        self.values[name] = self.data[name] = x
        return name

    def node(self, op, inputs, name=None, outputs=1, **attributes):
        """Add a node; the names of its outputs begin with its own."""
        name = name or self.name(op)
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op, list(inputs), names, name, **attributes))
        return name if outputs == 1 else names

    def constant(self, value, dtype=None):
        """A tensor of weights, in one of the forms in which a graph can hold it."""
        value = np.asarray(value, dtype or self.dtype)
        name = self.name("w")
        floating = value.dtype == self.dtype
        kinds = ["initializer", "initializer", "Constant", "Identity"]
        if floating and self.opset >= 9 and value.size and np.all(value == value.flat[0]):
            kinds += ["ConstantOfShape"] if value.ndim else []
        if self.dtype == np.float32 and floating and self.opset >= 10 and value.ndim >= 2:
            kinds += ["DequantizeLinear"]
        kind = self.rng.choice(kinds)
        if kind == "Constant":
            self.node("Constant", [], name, value=numpy_helper.from_array(value))
        elif kind == "ConstantOfShape":
            shape = self._initializer(f"{name}.shape", np.array(value.shape, np.int64))
            filled = numpy_helper.from_array(value.reshape(-1)[:1])
            self.node("ConstantOfShape", [shape], name, value=filled)
        elif kind == "DequantizeLinear" and np.all(np.abs(value * 8) < 128):
            steps = self._initializer(f"{name}.steps", np.asarray(value * 8, np.int8))
            scale = self._initializer(f"{name}.scale", np.float32(0.125))
            self.node("DequantizeLinear", [steps, scale], name)
        elif kind == "Identity":
            self.node("Identity", [self._initializer(f"{name}.held", value)], name)
        else:
            self._initializer(name, value)
        return name

    def integers(self, values):
        return self._initializer(self.name("i"), np.asarray(values, np.int64))

    def _initializer(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def layer(self, names, inputs, equation, **kind):
        """State what tensors hold, and compute it for the ANN."""
        outputs = (names,) if isinstance(names, str) else tuple(names)
        new = eq.Layer(outputs, tuple(inputs), equation, **kind)
        self.layers.append(new)
        known = {name: self.values[name] for name in inputs}
        results = eq.evaluate([new], known, eq.Analog())
        self.values |= {name: results[name] for name in outputs}
        return names

    def linear(self, op, x, equation, constants=(), name=None, **attributes):
        """A node that exists for channels first only, such as Conv."""
        name = name or self.name(op)
        self._first(op, [x], constants, name, **attributes)
        return self.layer(name, [x], lambda run, x: equation(x))

    def _first(self, op, inputs, constants, name, **attributes):
        """A node on images with channels first, between Transposes where they come last."""
        if not (self.channels_last and self.rank(inputs[0]) == 4):
            return self.node(op, [*inputs, *constants], name, **attributes)
        moved = [self.node("Transpose", [x], perm=TO_FIRST) for x in inputs]
        made = self.node(op, [*moved, *constants], f"{name}_first", **attributes)
        return self.node("Transpose", [made], name, perm=TO_LAST)

    def elementwise(self, op, inputs, equation, name=None, **attributes):
        """A node that works in either layout; ``inputs`` that are no tensors are constants."""
        tensors = [x for x in inputs if isinstance(x, str)]
        rank = self.rank(tensors[0])
        written = [x if isinstance(x, str) else self.broadcast(x, rank) for x in inputs]
        name = self.node(op, written, name, **attributes)
        return self.layer(name, tensors, lambda run, *xs: equation(*xs))

    def broadcast(self, value, rank):
        """A constant that broadcasts to one sample with channels first, in the graph's layout."""
        value = np.asarray(value)
        if self.channels_last and rank == 4 and value.ndim:
            value = value.reshape((1,) * (3 - value.ndim) + value.shape).transpose(1, 2, 0)
            value = value.reshape(-1) if value.shape[:2] == (1, 1) else value
        return self.constant(value)

    def rank(self, x):
        return self.values[x].ndim

    def shape(self, x):
        return self.values[x].shape[1:]

    def axis(self, axis, x):
        """An axis of the equations as one of the graph."""
        if self.channels_last and self.rank(x) == 4:
            return TO_LAST.index(axis)
        return axis

    def output(self, *names):
        self.outputs += names

    def model(self):
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        inputs = []
        for name, value in self.data.items():
            shape = self._outward(value).shape[1:]
            inputs.append(helper.make_tensor_value_info(name, kind, [self.batch, *shape]))
        outputs = []
        for name in self.outputs:
            shape = [f"{name}.{axis}" for axis in range(self.values[name].ndim)]
            whole = self.values[name].dtype.kind == "i"
            outputs.append(
                helper.make_tensor_value_info(
                    name, onnx.TensorProto.INT64 if whole else kind, shape
                )
            )
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", self.opset)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.checker.check_model(made)
        return made

    def _outward(self, value):
        return value.transpose(TO_LAST) if self.channels_last and value.ndim == 4 else value

    def feed(self):
        """The data as the graph takes it."""
        return {
            name: np.ascontiguousarray(self._outward(value), self.dtype)
            for name, value in self.data.items()
        }

    def outward(self, value):
        """A tensor of the equations as the graph gives it."""
        whole = value.dtype.kind == "i"
        return self._outward(value) if whole else self._outward(value).astype(self.dtype)

    def bits(self):
        """The most bits that a value of the ANN needs."""
        return max(map(_bits, self.values.values()))

    # Weights -----------------------------------------------------------------------------

    def halves(self, *shape, zeros=0.3):
        value = self.rng.integers(-2, 3, shape) / 2
        return value * (self.rng.random(shape) >= zeros)

    def powers(self, *shape):
        return self.rng.choice([0.5, 1.0, 2.0], shape)

    def per_channel(self, x, values):
        return np.asarray(values).reshape(-1, *(1,) * (self.rank(x) - 2))

    def pick(self, *options):
        return options[self.rng.integers(len(options))]

    # Linear layers -----------------------------------------------------------------------

    def conv(
        self, x, channels=2, kernel=None, strides=None, pads=None, dilations=None, group=1,
        auto_pad=None, bias=True,
    ):  # fmt: skip
        inner, *size = self.shape(x)
        dimensions = len(size)
        kernel = kernel or (3,) * dimensions
        strides, dilations = strides or (1,) * dimensions, dilations or (1,) * dimensions
        written = pads
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pads = eq.same_pads(size, kernel, strides, dilations, auto_pad == "SAME_UPPER")
        pads = (0,) * 2 * dimensions if pads is None else pads
        w = self.halves(channels, inner // group, *kernel)
        b = self.halves(channels) if bias else np.zeros(channels)
        return self.linear(
            "Conv", x, lambda x: eq.conv(x, w, b, strides, pads, dilations, group),
            [self.constant(w), *([self.constant(b)] if bias else [])],
            kernel_shape=self.pick(kernel, None), strides=strides, pads=written,
            dilations=dilations, group=group, auto_pad=auto_pad,
        )  # fmt: skip

    def conv_transpose(self, x, channels=2, kernel=(2, 2), strides=(2, 2), pads=(0,) * 4, more=0):
        w = self.halves(self.shape(x)[0], channels, *kernel)
        b = self.halves(channels)
        return self.linear(
            "ConvTranspose", x, lambda x: eq.conv_transpose(x, w, b, strides, pads, (more, more)),
            [self.constant(w), self.constant(b)],
            strides=strides, pads=pads, output_padding=[more, more],
        )  # fmt: skip

    def gemm(self, x, features=3, how=None):
        """A dense layer on [N, features], in one of its spellings."""
        inner = self.shape(x)[0]
        w, b = self.halves(inner, features), self.halves(features)
        how = how or self.pick("plain", "transB", "scaled", "transA", "no bias", "row", "one")
        attributes, scale = {}, 1.0
        if how == "transB":
            attributes["transB"] = 1
        if how == "scaled":
            attributes, scale = {"alpha": 0.5, "beta": 2.0}, 0.5
        if how == "row":
            b = b.reshape(1, -1)
        if how == "one":
            b = np.array(0.5)
        if how == "no bias":
            b = np.zeros(())
        source = x
        if how == "transA":
            source, attributes["transA"] = self.node("Transpose", [x], perm=[1, 0]), 1
        constants = [self.constant(w.T if how == "transB" else w)]
        if how != "no bias" or self.opset < 11:
            constants.append(self.constant(b))
        name = self.node("Gemm", [source, *constants], **attributes)
        return self.layer(name, [x], lambda run, x: scale * (x @ w) + b / scale)

    def matmul(self, x, features=3, how=None):
        """A dense layer on the last axis."""
        w, b = self.halves(self.values[x].shape[-1], features), self.halves(features)
        how = how or self.pick("alone", "then Add", "Add first", "Sub")
        product = self.node("MatMul", [x, self.constant(w)])
        if how == "alone":
            return self.layer(product, [x], lambda run, x: x @ w)
        if how == "Sub":
            b = -b
        bias = self.constant(-b if how == "Sub" else b)
        operands = [bias, product] if how == "Add first" else [product, bias]
        name = self.node("Sub" if how == "Sub" else "Add", operands)
        return self.layer(name, [x], lambda run, x: x @ w + b)

    def batch_norm(self, x, how=None):
        channels = self.shape(x)[0]
        scale, shift, mean = self.powers(channels), self.halves(channels), self.halves(channels)
        scale = scale * self.rng.choice([-1, 1], channels)
        root = self.powers(channels)
        a, b, m, r = (self.per_channel(x, v) for v in (scale, shift, mean, root))
        how = how or self.pick("BatchNormalization", "BatchNormalization", "unfused")
        if how == "unfused":
            centred = self.elementwise("Sub", [x, m], lambda x: x - m)
            normal = self.elementwise("Div", [centred, r], lambda x: x / r)
            scaled = self.elementwise("Mul", [normal, a], lambda x: x * a)
            shifted = self.elementwise("Add", [b, scaled], lambda x: x + b)
            return self._scaled(shifted, x, a, b - a * m / r)
        # var + epsilon is a power of 4, so that its root is exact.
        constants = [self.constant(v) for v in (scale, shift, mean, root**2 - 0.25)]
        name = self.linear(
            "BatchNormalization", x, lambda x: a * (x - m) / r + b, constants, epsilon=0.25
        )
        return self._scaled(name, x, a, b - a * m / r)

    def scale(self, x, how=None, value=None):
        """One scale or shift by a constant; a scalar, per channel, or for each place."""
        shape = self.shape(x)
        sizes = [(), (shape[0], *(1,) * (len(shape) - 1)), shape]
        value = self.powers(*self.pick(*sizes)) if value is None else np.asarray(value)
        match how or self.pick("Mul", "Div", "Add", "Sub", "minus x", "Neg", "Add first"):
            case "Mul":
                name = self.elementwise("Mul", [value, x], lambda x: x * value)
                return self._scaled(name, x, value)
            case "Div":
                name = self.elementwise("Div", [x, value], lambda x: x / value)
                return self._scaled(name, x, value)
            case "Add":
                return self.elementwise("Add", [x, value], lambda x: x + value)
            case "Add first":
                return self.elementwise("Add", [value, x], lambda x: x + value)
            case "Sub":
                return self.elementwise("Sub", [x, value], lambda x: x - value)
            case "minus x":
                return self.elementwise("Sub", [value, x], lambda x: value - x)
            case "Neg":
                return self.elementwise("Neg", [x], lambda x: -x)

    def add(self, x, y, how=None):
        """A sum of two tensors, or of x, y and x."""
        match how or self.pick("Add", "Sub", "Sum", "Sum of 3", "Mean"):
            case "Sum of 3":
                return self.elementwise("Sum", [x, y, x], lambda x, y, z: x + y + z)
            case "Mean":
                return self.elementwise("Mean", [x, y], lambda x, y: (x + y) / 2)
            case "Sub":
                return self.elementwise("Sub", [x, y], lambda x, y: x - y)
            case op:
                return self.elementwise(op, [x, y], lambda x, y: x + y)

    # Pooling ---------------------------------------------------------------------------------

    def pool(
        self, op, x, kernel=(2, 2), strides=(2, 2), pads=None, dilations=None, ceil=False,
        auto_pad=None, counted=False,
    ):  # fmt: skip
        size = self.shape(x)[1:]
        written, ones = pads, (1,) * len(kernel)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pads = eq.same_pads(size, kernel, strides, dilations or ones, auto_pad == "SAME_UPPER")
        pads = tuple(pads or (0,) * 2 * len(kernel))
        window = eq.Pool(kernel, strides, pads, dilations or ones, ceil, counted)
        attributes = {
            "kernel_shape": kernel, "strides": strides, "pads": written, "auto_pad": auto_pad,
            "dilations": dilations, "ceil_mode": int(ceil) or None,
            "count_include_pad": int(counted) or None,
        }  # fmt: skip
        name = self.name(op)
        self._first(op, [x], [], name, **attributes)
        if op == "AveragePool":
            return self.layer(name, [x], lambda run, x: window.mean(x))
        return self.layer(name, [x], lambda run, x: run.max_pool(name, x, window))

    def global_pool(self, x, op="GlobalAveragePool", keepdims=True):
        """Global pooling; ReduceMean and ReduceMax are other spellings."""
        name = self.name(op)
        if op.startswith("Global"):
            self._first(op, [x], [], name)
        else:
            axes = sorted(self.axis(axis, x) for axis in range(2, self.rank(x)))
            self.reduce(op, x, axes, keepdims, name)

        def equation(run, x):
            window = eq.whole_image(x)
            mean = op in ("GlobalAveragePool", "ReduceMean")
            pooled = window.mean(x) if mean else run.max_pool(name, x, window)
            return pooled if keepdims else pooled.reshape(pooled.shape[:2])

        return self.layer(name, [x], equation)

    def reduce(self, op, x, axes, keepdims=True, name=None):
        as_input = self.opset >= (13 if op == "ReduceSum" else 18)
        inputs = [x, self.integers(axes)] if as_input else [x]
        return self.node(op, inputs, name, axes=None if as_input else axes, keepdims=int(keepdims))

    def reduce_axis(self, x, op="ReduceSum", axis=2):
        name = self.reduce(op, x, [self.axis(axis, x)])
        f = np.sum if op == "ReduceSum" else np.mean
        return self.layer(name, [x], lambda run, x: f(x, axis, keepdims=True))

    # Shapes ----------------------------------------------------------------------------------

    def pad(self, x, pads, value=0.0, how=None):
        """Pads of the image's axes, begins then ends; ``how`` their sizes come about."""
        rank, own = self.rank(x), self.rank(x) - 2
        full = [0, 0, *pads[:own], 0, 0, *pads[own:]]
        order = TO_LAST if self.channels_last and rank == 4 else range(rank)
        written = [full[axis] for axis in order] + [full[rank + axis] for axis in order]
        if self.opset < 11:
            name = self.node("Pad", [x], pads=written, value=float(value))
        else:
            held = self.integers(written)
            if how == "run time":
                # The size of the channels, times 0, as PyTorch's arithmetic on shapes.
                zero = self.node("Mul", [self.node("Shape", [x]), self.integers([0] * rank)])
                held = self.node("Add", [held, self.node("Concat", [zero, zero], axis=0)])
            given = [self.constant(value)] if value or how == "value given" else []
            name = self.node("Pad", [x, held, *given])
        return self.layer(name, [x], lambda run, x: eq.pad(x, full, value))

    def slice(self, x, axis=2, start=1, end=None, step=1):
        end = self.values[x].shape[axis] if end is None else end
        at = self.axis(axis, x)
        if self.opset < 10:
            assert step == 1
            name = self.node("Slice", [x], starts=[start], ends=[end], axes=[at])
        else:
            name = self.node("Slice", [x, *(self.integers([v]) for v in (start, end, at, step))])
        return self.layer(name, [x], lambda run, x: x.take(range(start, end, step), axis))

    def split(self, x, axis=1):
        """Two halves."""
        half = self.values[x].shape[axis] // 2
        at, sizes = self.axis(axis, x), [half, half]
        if self.opset < 13:
            names = self.node("Split", [x], outputs=2, axis=at, split=sizes)
        else:
            names = self.node("Split", [x, self.integers(sizes)], outputs=2, axis=at)
        return self.layer(names, [x], lambda run, x: tuple(np.split(x, 2, axis)))

    def gather(self, x, axis=1, indices=(1, 0)):
        name = self.node("Gather", [x, self.integers(indices)], axis=self.axis(axis, x))
        return self.layer(name, [x], lambda run, x: x.take(indices, axis))

    def concat(self, *xs, axis=1):
        name = self.node("Concat", xs, axis=self.axis(axis, xs[0]))
        return self.layer(name, xs, lambda run, *xs: np.concatenate(xs, axis))

    def resize(self, x, mode="nearest"):
        """Twice the height and width."""
        scales = self.constant([1, 1, 2, 2], np.float32)
        if self.opset < 11:
            op = "Upsample" if self.opset < 10 else "Resize"
            if self.opset < 9:
                constants, attributes = [], {"scales": [1.0, 1.0, 2.0, 2.0]}
            else:
                constants, attributes = [scales], {}
        else:
            nothing = "" if self.opset >= 13 else self.constant([], np.float32)
            op, constants, attributes = "Resize", [nothing, scales], {}
        if mode == "linear":
            return self.linear(
                op, x, lambda x: eq.upsample_linear(x, self.opset >= 11), constants,
                mode=mode, **attributes,
            )  # fmt: skip
        return self.linear(
            op, x, lambda x: x.repeat(2, 2).repeat(2, 3), constants, mode=mode, **attributes
        )

    def depth_to_space(self, x, mode="DCR"):
        return self.linear(
            "DepthToSpace", x, lambda x: eq.depth_to_space(x, mode),
            blocksize=2, mode=mode if self.opset >= 11 else None,
        )  # fmt: skip

    def space_to_depth(self, x):
        return self.linear("SpaceToDepth", x, eq.space_to_depth, blocksize=2)

    def swap(self, x):
        """Height and width change places."""
        perm = [0, 1, 3, 2] if not self.channels_last else [0, 2, 1, 3]
        name = self.node("Transpose", [x], perm=perm)
        return self._alike(self.layer(name, [x], lambda run, x: x.swapaxes(2, 3)), x)

    def expand(self, x):
        """A row to two rows."""
        shape = [1] * self.rank(x)
        shape[self.axis(2, x)] = 2
        name = self.node("Expand", [x, self.integers(shape)])
        return self.layer(name, [x], lambda run, x: np.concatenate([x, x], 2))

    def tile(self, x):
        repeats = [1] * self.rank(x)
        repeats[self.axis(3, x)] = 2
        name = self.node("Tile", [x, self.integers(repeats)])
        return self.layer(name, [x], lambda run, x: np.concatenate([x, x], 3))

    def no_op(self, x, how=None):
        """What computes nothing at inference."""
        how = how or self.pick("Identity", "Dropout", "Cast", "Transpose", "Squeeze")
        if how == "Transpose":
            perm = list(range(self.rank(x)))
            name = self.node("Transpose", [x], perm=perm)
        elif how == "Cast":
            name = self.node("Cast", [x], to=helper.np_dtype_to_tensor_dtype(self.dtype))
        elif how == "Squeeze":
            name = self._squeeze("Squeeze", self._squeeze("Unsqueeze", x, 1), 1)
        else:
            name = self.node(how, [x])
        return self._alike(self.layer(name, [x], lambda run, x: x), x)

    def _squeeze(self, op, x, axis):
        if self.opset < 13:
            return self.node(op, [x], axes=[axis])
        return self.node(op, [x, self.integers([axis])])

    def reshape(self, x, shape):
        """To a shape of samples, channels first; -1 and 0 as in ONNX."""
        source = x
        if self.channels_last and self.rank(x) == 4:
            source = self.node("Transpose", [x], perm=TO_FIRST)
        first = 1 if self.batch == 1 else -1 if -1 not in shape else 0
        made = self.node("Reshape", [source, self.integers([first, *shape])])
        if self.channels_last and len(shape) == 3:
            made = self.node("Transpose", [made], perm=TO_LAST)
        return self.layer(made, [x], lambda run, x: x.reshape(len(x), *shape))

    def flatten(self, x, how=None):
        """To [N, features], in the graph's own layout."""
        how = how or self.pick("Flatten", "Reshape", "Shape")
        features = int(np.prod(self.shape(x)))
        if how == "Flatten":
            name = self.node("Flatten", [x], axis=self.pick(1, None))
        elif how == "Shape":
            size = self.node("Gather", [self.node("Shape", [x]), self.integers(0)], axis=0)
            size = self._squeeze("Unsqueeze", size, 0)
            shape = self.node("Concat", [size, self.integers([features])], axis=0)
            name = self.node("Reshape", [x, shape])
        else:
            target = [1, -1] if self.batch == 1 else self.pick([0, -1], [-1, features])
            name = self.node("Reshape", [x, self.integers(target)])
        return self.layer(name, [x], lambda run, x: self._outward(x).reshape(len(x), -1))

    # Activations -------------------------------------------------------------------------

    def _alike(self, name, x):
        """The same numbers, perhaps in other places: what is known of x is known of it."""
        self.bounded[name] = self.bounded.get(x)
        if x in self.thresholded:
            self.thresholded.add(name)
        return name

    def _scaled(self, name, x, scale, shift=0.0):
        """Also around a positive scale two bounds are merged."""
        if self.bounded.get(x) is not None and np.all(scale > 0) and not np.any(shift):
            self.bounded[name] = -np.inf
        return name

    def neuron(self, name, inputs, equation, data=False, bounded=None):
        """State an activation; ``data``: a threshold needs it; ``bounded``: a bound's minimum."""
        self.needs_data |= data
        self.bounded[name] = bounded
        return self.layer(name, inputs, equation, is_neuron=True)

    def relu(self, x, how="Relu"):
        match how:
            case "Relu":
                name = self.node("Relu", [x])
            case "Max":
                name = self.node("Max", [self.constant(0), x])
            case "Clip":
                name = self._clip(x, 0, None)
        return self.neuron(name, [x], lambda run, x: run.fire(name, x, None), data=True, bounded=0)

    def _clip(self, x, low, high):
        if self.opset < 11:
            bounds = {"min": low, "max": high}
            return self.node(
                "Clip", [x], **{k: None if v is None else float(v) for k, v in bounds.items()}
            )
        bounds = ["" if value is None else self.constant(value) for value in (low, high)]
        return self.node("Clip", [x, *bounds] if bounds[1] else [x, bounds[0]])

    def clip0(self, x, theta=1.0, how="Clip"):
        """Clip(x, 0, theta); theta may differ by channel."""
        match how:
            case "Clip":
                name = self._clip(x, 0, theta)
            case "Relu, Min":
                bound = self.broadcast(theta, self.rank(x))
                name = self.node("Min", [self.node("Relu", [x]), bound])
            case "Min, Relu":
                bound = self.broadcast(theta, self.rank(x))
                name = self.node("Relu", [self.node("Min", [bound, x])])
            case "Max, Min":
                bound = self.broadcast(theta, self.rank(x))
                name = self.node("Min", [self.node("Max", [x, self.constant(0)]), bound])
            case "Relu, Clip":
                name = self._clip(self.node("Relu", [x]), 0, theta)
            case "Clip, Relu":
                name = self.node("Relu", [self._clip(x, -1, theta)])
        return self.neuron(name, [x], lambda run, x: run.fire(name, x, theta), bounded=0)

    def clip(self, x, low, high, how="Clip"):
        """Clip(x, low, high), None for no bound; low may not be 0 with a high above it."""
        if how == "Clip":
            name = self._clip(x, low, high)
        else:
            bound = self.constant(low if how == "Max" else high)
            name = self.node(how, self.pick([x, bound], [bound, x]))
        b = np.inf if high is None else high
        a = -np.inf if low is None else low
        top, bottom = (None if np.isinf(v) else v for v in (b, -a))
        if a < 0 < b:

            def equation(run, x):
                positive = run.fire(f"{name}/positive", x, top)
                return positive - run.fire(f"{name}/negative", -x, bottom)

        elif a >= 0:
            above = None if np.isinf(b) else b - a

            def equation(run, x):
                return a + run.fire(f"{name}/above", x - a, above)

        else:
            below = None if np.isinf(a) else b - a

            def equation(run, x):
                return b - run.fire(f"{name}/below", b - x, below)

        return self.neuron(name, [x], equation, data=np.isinf(b - a), bounded=a)

    def hard_sigmoid(self, x, alpha=0.25, beta=0.5):
        name = self.node("HardSigmoid", [x], alpha=alpha, beta=beta)
        return self.neuron(
            name, [x], lambda run, x: run.fire(name, alpha * x + beta, 1.0), bounded=0
        )

    def leaky_relu(self, x, slope=0.25):
        return self._leaky(self.node("LeakyRelu", [x], alpha=slope), x, np.asarray(slope))

    def prelu(self, x, slope):
        held = self.broadcast(slope, self.rank(x))
        return self._leaky(self.node("PRelu", [x, held]), x, slope)

    def _leaky(self, name, x, slope):
        def equation(run, x):
            negative = run.fire(f"{name}/negative", -x, None)
            return run.fire(f"{name}/positive", x, None) - slope * negative

        return self.neuron(name, [x], equation, data=True)

    def absolute(self, x):
        name = self.node("Abs", [x])

        def equation(run, x):
            negative = run.fire(f"{name}/negative", -x, None)
            return run.fire(f"{name}/positive", x, None) + negative

        return self.neuron(name, [x], equation, data=True)

    def thresholded_relu(self, x, alpha=0.5):
        name = self.node("ThresholdedRelu", [x], alpha=alpha)
        # What is never below 0 needs no ReLU of its own.
        known = self.bounded.get(x) == 0 or x in self.thresholded
        self.thresholded.add(name)

        def equation(run, x):
            positive = x if known else run.fire(f"{name}/positive", x, None)
            return run.threshold(name, positive, alpha)

        return self.neuron(name, [x], equation, data=not known)

    def larger(self, x, y, op="Max"):
        """Max or Min of two tensors, or of one and a constant per channel."""
        constant = not isinstance(y, str)
        held = self.broadcast(y, self.rank(x)) if constant else y
        name = self.node(op, [x, held])

        def equation(run, x, *other):
            b = y if constant else other[0]
            if constant and np.all(y < 0 if op == "Max" else y > 0):
                top, bottom = (None, -b) if op == "Max" else (b, None)
                positive = run.fire(f"{name}/positive", x, top)
                return positive - run.fire(f"{name}/negative", -x, bottom)
            if op == "Max":
                return b + run.fire(f"{name}/above", x - b, None)
            return b - run.fire(f"{name}/below", b - x, None)

        # A constant makes it a bound, of which a chain is merged.
        bound = -np.inf if constant else None
        return self.neuron(name, [x] if constant else [x, y], equation, data=True, bounded=bound)

    # Read-outs ---------------------------------------------------------------------------

    def read_out(self, x, op, f, inputs=(), **attributes):
        """An operator after the last neuron that is not affine."""
        name = self.node(op, [x, *inputs], **attributes)
        return self.layer(name, [x], lambda run, x: run.read_out(name, x, f), is_read_out=True)


def _bits(value):
    """The bits of the widest dyadic number, from its last one to the first of the largest."""
    if not np.any(value) or value.dtype.kind == "i":
        return 0
    fraction = 0
    while np.any(value * 2.0**fraction % 1):
        fraction += 1
        if fraction > 60:
            return fraction
    return fraction + max(int(np.ceil(np.log2(np.abs(value).max() + 1e-30))), 0)
