"""JAX CNNs, in Flax and in plain jax.numpy, through jax2onnx: python build_jax.py FOLDER"""

import jax
import numpy as np
import onnx
import optax
from common import SAMPLES, digits, output_folder, save_samples
from flax import nnx
from jax import lax
from jax import numpy as jnp
from jax2onnx import to_onnx


class Cnn(nnx.Module):
    """NHWC, 'SAME' with stride 2, BatchNorm after ReLU, pooling by mean, a softmax."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), strides=(2, 2), padding="SAME", rngs=rngs)
        self.bn = nnx.BatchNorm(16, rngs=rngs)
        self.conv2 = nnx.Conv(16, 24, (3, 3), padding="SAME", rngs=rngs)
        self.conv3 = nnx.Conv(24, 24, (1, 1), rngs=rngs)
        self.linear = nnx.Linear(24, 10, rngs=rngs)

    def logits(self, x):
        x = self.bn(nnx.relu(self.conv1(x)))
        x = nnx.avg_pool(nnx.relu(self.conv2(x)), window_shape=(2, 2), strides=(2, 2))
        return self.linear(nnx.relu(self.conv3(x)).mean(axis=(1, 2)))

    def __call__(self, x):
        return nnx.softmax(self.logits(x))


def plain_parameters():
    rng = np.random.default_rng(0)
    shapes = {"conv1": (12, 1, 3, 3), "conv2": (16, 12, 3, 3), "linear": (64, 10)}
    scales = {"conv1": 0.5, "conv2": 0.15, "linear": 0.1}
    return {
        name: jnp.asarray(rng.normal(0, scales[name], shape), jnp.float32)
        for name, shape in shapes.items()
    }


def plain(parameters, x):
    """NCHW, maximum(x, 0), relu6, a window sum, a reshape."""
    x = jnp.maximum(lax.conv_general_dilated(x, parameters["conv1"], (2, 2), "SAME"), 0.0)
    x = jax.nn.relu6(lax.conv_general_dilated(x, parameters["conv2"], (1, 1), "SAME"))
    x = lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 4
    return x.reshape(x.shape[0], -1) @ parameters["linear"]


def loss(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def batches(x, y, epochs=30, size=64):
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x) - size + 1, size):
            batch = order[start : start + size]
            yield x[batch], y[batch]


def train_flax(x, y):
    model = Cnn(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.005), wrt=nnx.Param)

    @nnx.jit
    def update(model, optimizer, x, y):
        optimizer.update(model, nnx.grad(lambda model: loss(model.logits(x), y))(model))

    for batch in batches(x, y):
        update(model, optimizer, *batch)
    model.eval()
    return model


def train_plain(x, y):
    parameters = plain_parameters()
    optimizer = optax.adam(0.005)
    state = optimizer.init(parameters)

    @jax.jit
    def update(parameters, state, x, y):
        gradients = jax.grad(lambda parameters: loss(plain(parameters, x), y))(parameters)
        changes, state = optimizer.update(gradients, state)
        return optax.apply_updates(parameters, changes), state

    for batch in batches(x, y):
        parameters, state = update(parameters, state, *batch)
    return lambda x: plain(parameters, x)


def main():
    folder = output_folder()
    train_x, test_x, train_y, test_y = digits()
    for name, train, channels in (("flax", train_flax, -1), ("numpy", train_plain, 1)):
        model = train(np.expand_dims(train_x, channels), train_y)
        x = np.expand_dims(test_x[:SAMPLES], channels)
        path = folder / f"jax-{name}.onnx"
        onnx.save(to_onnx(model, [("batch", *x.shape[1:])], input_names=["x"]), path)
        save_samples(path, x, model(x), test_y[:SAMPLES])


if __name__ == "__main__":
    main()
