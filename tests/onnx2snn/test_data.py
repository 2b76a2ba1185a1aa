import contextlib
import gzip
import pickle
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_text import model

from onnx2snn import DataError, ModelError, from_arrays, open_data
from onnx2snn.data.samples import rows_by_rounds, shuffled, take_turns

X = np.random.default_rng(0).normal(size=(23, 3, 4)).astype(np.float32)
Y = np.arange(23) % 5


def together(data, batch_size):
    parts = list(data.batches(batch_size))
    assert all(len(x) == batch_size for x, _ in parts[:-1])
    x = np.concatenate([x for x, _ in parts])
    y = None if parts[0][1] is None else np.concatenate([y for _, y in parts])
    return x, y


@pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 100])
def test_shuffled(tmp_path, batch_size):
    """Each sample once, with its label, in one order whatever the batches and the file."""
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    np.savez(tmp_path / "two.npz", a=X, b=-X)
    x, y = together(shuffled(from_arrays(X, Y), 4), 7)
    rows = [int(np.flatnonzero((one == X).all(axis=(1, 2)))[0]) for one in x]
    assert sorted(rows) == list(range(23)) != rows
    np.testing.assert_array_equal(y, Y[rows])
    for data in (from_arrays(X, Y), open_data(str(tmp_path / "d.npz"))):
        found, labels = together(shuffled(data, batch_size), batch_size)
        np.testing.assert_array_equal(found, x)
        np.testing.assert_array_equal(labels, y)
    for part, _ in shuffled(open_data(str(tmp_path / "two.npz")), 5).batches(batch_size):
        np.testing.assert_array_equal(part["a"], -part["b"])


def test_what_takes_much_memory_is_not_shuffled(monkeypatch):
    monkeypatch.setattr("onnx2snn.data.samples.MOST_HELD", X.nbytes)
    assert shuffled(from_arrays(X), 5) is not None
    monkeypatch.setattr("onnx2snn.data.samples.MOST_HELD", X.nbytes - 1)
    assert shuffled(from_arrays(X), 5) is None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_npz(tmp_path, save, order, batch_size):
    save(tmp_path / "d.npz", x=np.asarray(X, order=order), y=Y.astype(np.uint8))
    data = open_data(str(tmp_path / "d.npz"))
    assert (data.samples, data.shape) == (23, X.shape)
    x, y = together(data, batch_size)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(together(data, 7)[0], X)


def test_an_npz_with_other_files_and_an_x_that_holds_no_numbers(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=X)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "arrays of 23 images")
    assert open_data(str(path)).shapes is None
    for others in ({}, {"z": X}):
        np.savez(path, x=np.full(23, "text"), **others)
        with pytest.raises(DataError, match=r"d\.npz': x holds no numbers"):
            open_data(str(path))


@pytest.mark.parametrize("held", [22, 24])
def test_data_that_reads_other_samples_than_its_shape_says(held):
    data = replace(from_arrays(np.ones((held, 4))), shape=(23, 4))
    with pytest.raises(DataError, match=rf"holds 23 samples, but {held} were read"):
        list(data.batches(5))


def test_npz_without_labels_and_big_endian(tmp_path):
    np.savez(tmp_path / "d.npz", x=X.astype(">f4"))
    x, y = together(open_data(str(tmp_path / "d.npz")), 4)
    np.testing.assert_array_equal(x, X)
    assert y is None


def test_npy(tmp_path):
    np.save(tmp_path / "d.npy", X)
    x, y = together(open_data(str(tmp_path / "d.npy")), 4)
    np.testing.assert_array_equal(x, X)
    assert y is None


@pytest.mark.parametrize("samples", [1, 10, 23, 1000])
def test_first_samples(tmp_path, samples):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    data = open_data(str(tmp_path / "d.npz"), samples=samples)
    assert data.samples == min(samples, 23)
    x, y = together(data, 4)
    np.testing.assert_array_equal(x, X[:samples])
    np.testing.assert_array_equal(y, Y[:samples])


@pytest.mark.parametrize("batch", [1, 4, 100])
@pytest.mark.parametrize("several", [False, True])
def test_so_many_of_what_lies_class_by_class_are_of_all_classes(tmp_path, batch, several):
    y = np.repeat([3, 0, 1], [10, 6, 4])
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    inputs = {"a": x, "b": -x} if several else {"x": x}
    np.savez(tmp_path / "d.npz", y=y, **inputs)
    data = open_data(str(tmp_path / "d.npz"), samples=6)
    batches = list(data.batches(batch))
    assert [len(labels) for _, labels in batches] == {1: 6 * [1], 4: [4, 2], 100: [6]}[batch]
    rows = [0, 3, 6, 10, 13, 16]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), y[rows])
    for name, values in inputs.items():
        got = np.concatenate([found[name] if several else found for found, _ in batches])
        np.testing.assert_array_equal(got, values[rows])
    assert data.shape == (6, 2)
    # Also where labels are not wanted, which may be no classes.
    data = open_data(str(tmp_path / "d.npz"), samples=6, labels=False)
    x, labels = next(data.batches(6))
    assert labels is None
    for name, values in inputs.items():
        np.testing.assert_array_equal(x[name] if several else x, values[rows])
    for other in (y / 2, np.stack([y, y], 1), np.array([str(label) for label in y], object)):
        np.savez(tmp_path / "d.npz", y=other, **inputs)
        x, _ = next(open_data(str(tmp_path / "d.npz"), samples=6, labels=False).batches(6))
        for name, values in inputs.items():
            np.testing.assert_array_equal(x[name] if several else x, values[:6])


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_sizes_of_batches_that_are_none(size):
    with pytest.raises(DataError, match="batch_size must be a whole number"):
        list(from_arrays(X).batches(size))


def test_rows_by_rounds_of_classes():
    """In each of them in another order, so that no stride finds one class alone."""
    labels = np.array([2, 2, 2, 0, 5, 5])
    rows = rows_by_rounds(labels).tolist()
    assert [sorted(rows[:3]), sorted(rows[3:5]), rows[5]] == [[0, 3, 4], [1, 5], 2]
    assert rows_by_rounds(labels[:0]).tolist() == []
    many = np.arange(40).repeat(6)
    rows = rows_by_rounds(many)
    assert [sorted(part) for part in many[rows].reshape(6, 40).tolist()] == [list(range(40))] * 6
    assert not take_turns(many[rows])


def test_classes_that_take_turns():
    assert take_turns(np.tile([0, 1], 9))
    assert take_turns(np.tile([3, 1, 2], 5)[:13])
    assert not take_turns(np.zeros(8, np.int64))
    assert not take_turns(np.arange(8))
    assert not take_turns(np.array([0, 1, 0, 0, 1, 1, 0, 1]))


@pytest.mark.parametrize("samples", [0, -1, 2.5, "3", True])
def test_numbers_of_samples_that_are_none(tmp_path, samples):
    np.savez(tmp_path / "d.npz", x=X)
    with pytest.raises(DataError, match="samples must be a whole number"):
        open_data(str(tmp_path / "d.npz"), samples=samples)


@pytest.mark.parametrize(
    "y", [[0, 1, 2, 0, 1, 2, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1],
          [0, 1, 2, 3, 4, 5, 6, 7]]
)  # fmt: skip
def test_other_labels_leave_the_first_samples(tmp_path, y):
    np.savez(tmp_path / "d.npz", x=np.arange(8.0), y=np.array(y))
    x, labels = together(open_data(str(tmp_path / "d.npz"), samples=4), 3)
    assert x.tolist() == [0, 1, 2, 3]
    assert labels.tolist() == y[:4]


def idx(path, array, opener=open):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    with opener(path, "wb") as file:
        file.write(header + array.tobytes())


@pytest.mark.parametrize("opener", [open, gzip.open])
def test_fashion_mnist(tmp_path, opener):
    suffix = ".gz" if opener is gzip.open else ""
    images = np.random.default_rng(0).integers(0, 256, (9, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        idx(tmp_path / f"{prefix}-images-idx3-ubyte{suffix}", images, opener)
        idx(tmp_path / f"{prefix}-labels-idx1-ubyte{suffix}", Y[:9].astype(np.uint8), opener)
    for train in (False, True):
        data = open_data("fashion-mnist", tmp_path, train)
        x, y = together(data, 4)
        assert data.shape == x.shape == (9, 1, 28, 28)
        np.testing.assert_array_equal(x, images[:, None] / np.float32(255))
        np.testing.assert_array_equal(y, Y[:9])
    for shape, sizes in (("N, 784", (9, 784)), ("N, 28, 28", (9, 28, 28))):
        ann = model(f"g (float[{shape}] x) => (float[N, K] y) {{ y = Flatten(x) }}")
        data = open_data("fashion-mnist", tmp_path, model=ann)
        x, _ = together(data, 4)
        assert data.shape == x.shape == sizes
        np.testing.assert_array_equal(x, images.reshape(sizes) / np.float32(255))


def test_fashion_mnist_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        open_data("fashion-mnist", tmp_path)


@pytest.mark.parametrize("shape", [(3, 0, 0), (3, 0, 5), (0, 28, 28)])
def test_fashion_mnist_without_pixels(tmp_path, shape):
    idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros(shape, np.uint8))
    idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(shape[0], np.uint8))
    with pytest.raises(DataError, match="fashion-mnist"):
        open_data("fashion-mnist", tmp_path)


def test_of_an_npz_the_networks_inputs_are_taken(tmp_path):
    """Not what is beside them, be it as long: with time first that looked like samples."""
    one = model("net (float[N, 4] in) => (float[N, 4] y) { y = Neg(in) }")
    two = model("net (float[N, 4] x, float[N] z) => (float[N, 4] y) { y = Neg(x) }")
    x, z = np.ones((5, 3, 4), np.float32), np.ones(5, np.float32)
    path = str(tmp_path / "d.npz")
    np.savez(path, t=np.full(5, np.nan), x=x)
    assert open_data(path, model=one).shapes is None
    np.savez(path, t=z, x=x[:, 0], z=z)
    assert set(open_data(path, model=two).shapes) == {"x", "z"}
    assert set(open_data(path).shapes) == {"t", "x", "z"}
    np.savez(path, **{"x": x[:, 0], "in": 2 * x[:, 0]})
    (batch,) = open_data(path, model=one).batches(5)
    assert np.all(batch[0] == 2)


@pytest.mark.parametrize(
    "other", [np.array("text"), np.float32(2), np.arange(5), np.array(["a", "b"]), np.ones(3)]
)
def test_what_no_input_reads_is_not_looked_at(tmp_path, other):
    """Whatever it is, beside inputs of their own names as beside one that is called x."""
    two = model("net (float[N, 4] a, float[N] b) => (float[N, 4] y) { y = Neg(a) }")
    given = {"a": np.ones((5, 4), np.float32), "b": np.ones(5, np.float32)}
    path = tmp_path / "d.npz"
    for name in ("other", "x"):
        np.savez(path, **{name: other}, **given)
        assert set(open_data(path, model=two).shapes) == {"a", "b"}


def test_fashion_mnist_that_is_damaged(tmp_path):
    idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((9, 28, 28), np.uint8))
    content = (tmp_path / "t10k-images-idx3-ubyte").read_bytes()
    idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(9, np.uint8))
    for broken in (content[:-1], content[:7], b"hello"):
        (tmp_path / "t10k-images-idx3-ubyte").write_bytes(broken)
        with pytest.raises(DataError, match="fashion-mnist"):
            open_data("fashion-mnist", tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:30], lambda c: b"hello", lambda c: c[:35] + b"\xff" * 5 + c[40:]]
)
def test_of_compressed_files_the_damaged_one_is_named(tmp_path, damage):
    for name, array in (("images-idx3", np.zeros((9, 28, 28), np.uint8)), ("labels-idx1", Y[:9])):
        idx(tmp_path / f"t10k-{name}-ubyte.gz", array.astype(np.uint8), gzip.open)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path} is damaged"):
        open_data("fashion-mnist", tmp_path)


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def test_nothing_is_unpickled(tmp_path):
    array = np.array([Malicious()], dtype=object)
    np.savez(tmp_path / "x.npz", x=array)
    np.savez(tmp_path / "y.npz", x=X[:1], y=array)
    np.save(tmp_path / "x.npy", array)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Malicious()))
    for name in ("x.npz", "y.npz", "x.npy", "raw.npy"):
        with pytest.raises(DataError, match="pickled"):
            open_data(str(tmp_path / name))


@pytest.mark.parametrize("name", ["d.npz", "d.npy"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_truncated(tmp_path, name, share):
    path = tmp_path / name
    np.savez(path, x=X) if name == "d.npz" else np.save(path, X)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="cannot read"):
        open_data(str(path))


def test_what_is_no_whole_file_is_to_be_saved_again(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X)
    array, archive = ((tmp_path / name).read_bytes() for name in ("x.npy", "x.npz"))
    inside = {
        "cut.npz": array[:-9], "head.npz": array[:40], "none.npz": b"", "text.npz": b"hello, you",
    }  # fmt: skip
    for name, content in inside.items():
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("x.npy", content)
    whole = {
        "empty.npy": b"", "short.npy": array[:-9], "hello.npy": b"hello, you",
        "empty.npz": b"", "short.npz": archive[:-99], "hello.npz": b"hello, you",
        "bytes.npz": archive[:300] + b"!" + archive[301:],
    }  # fmt: skip
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    for name in (*inside, *whole):
        path = tmp_path / name
        said = rf"cannot read '{path}': it is empty, cut off, damaged or no {path.suffix} file; "
        with pytest.raises(DataError, match=rf"{said}save it again \(.+\)$"):
            list(open_data(path).batches(8))


def test_damaged_inside(tmp_path):
    np.savez_compressed(
        tmp_path / "d.npz", x=np.zeros((1000, 100), np.float32), y=np.zeros(1000, int)
    )
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[200:210] = b"\xff" * 10
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot read"):
        list(open_data(str(tmp_path / "d.npz")).batches(10))


@pytest.mark.parametrize("name", ["d.npz", "d.npy"])
def test_any_damaged_byte_is_read_or_refused(tmp_path, name):
    path = tmp_path / name
    np.savez_compressed(path, x=X, y=Y) if name == "d.npz" else np.save(path, X)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, min(len(content), 1500), 300):
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            list(open_data(str(path)).batches(10))


def test_nan_is_placed_in_the_whole_file(tmp_path):
    x = X.copy()
    x[13, 1, 2] = np.nan
    np.savez(tmp_path / "d.npz", x=x)
    with pytest.raises(DataError, match=r"d\.npz' holds NaN or infinity, first at x\[13, 1, 2\]"):
        list(open_data(str(tmp_path / "d.npz")).batches(5))


@pytest.mark.parametrize("label", [True, False])
def test_an_only_array_has_the_name_of_the_only_input(tmp_path, label):
    np.savez(tmp_path / "d.npz", image=X, **({"y": Y} if label else {}))
    data = open_data(str(tmp_path / "d.npz"))
    (x, y), *_ = data.batches(5)
    np.testing.assert_array_equal(x["image"], X[:5])
    assert (y is not None) == label
    assert data.shape == X.shape


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": Y}, "no array x"),
        ({"x": X[:0]}, "no samples"),
        ({"x": np.float32(1)}, "no samples"),
        ({"a": X, "s": np.float32(1)}, r"no samples: s has shape \[\]"),
        ({"x": X, "y": Y[:3]}, "one integer label"),
        ({"x": X, "y": Y.astype(float)}, "one integer label"),
        ({"x": X, "y": Y[:, None]}, "one integer label"),
        ({"x": X, "y": np.full(len(X), 2**63, np.uint64)}, "the label 9223372036854775808"),
    ],
)
def test_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_data(str(tmp_path / "d.npz"))


def test_names_of_files_in_capitals(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=np.sort(Y))
    (tmp_path / "d.npz").rename(tmp_path / "D.NPZ")
    np.save(tmp_path / "d.npy", X)
    (tmp_path / "d.npy").rename(tmp_path / "D.NPY")
    for source in ("D.NPZ", "D.NPY"):
        np.testing.assert_array_equal(together(open_data(tmp_path / source), 23)[0], X)
    found = open_data(tmp_path / "D.NPZ", samples=5, labels=False)
    np.testing.assert_array_equal(together(found, 5)[0], X[[0, 4, 9, 13, 18]])


@pytest.mark.parametrize("source", ["", "nothing.npz", "nothing.npy", "nothing", "data.csv"])
def test_no_data(source):
    with pytest.raises(DataError, match=r"cannot read|is no data"):
        open_data(source)


@pytest.mark.parametrize(
    ("y", "cure"),
    [(np.eye(3)[[0, 1, 2]], r"y\.argmax\(1\)"), (np.ones((3, 1), int), r"y\.ravel\(\)"),
     (np.ones(3), r"astype\(int\)"), (np.ones(4), r"\[4\];"), (np.full(3, 0.5), r"\[3\];"),
     (["cat", "dog", "cat"], r"np\.unique\(y, return_inverse=True\)\[1\] makes labels"),
     (np.array(["cat", "dog", "cat"], object), r"np\.unique\(y"), (["cat"], r"\[1\];"),
     (["2", "10", "0"], r"which y\.astype\(int\)"),
     (np.array([3, 7, 9], object), r"which y\.astype\(int\)")],
)  # fmt: skip
def test_what_makes_labels_is_told(y, cure):
    with pytest.raises(DataError, match=f"y must hold one integer label .*{cure}"):
        from_arrays(np.ones((3, 2)), y)


def test_labels_that_are_objects_of_a_file_are_to_be_numbered(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=np.array(["cat"] * 23, object))
    with pytest.raises(DataError, match=r"never loaded: save numbers .*np\.unique\(y"):
        open_data(tmp_path / "d.npz")


@pytest.mark.parametrize("path", ["images.npz", Path("images.npz")])
def test_paths_are_for_open_data(path):
    with pytest.raises(DataError, match=r"'data' is a path, .* open_data"):
        from_arrays(path)


def test_images_for_a_flat_input_are_to_be_reshaped(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 2, 3), np.float32))
    flat = model("net (float[N, 6] x) => (float[N, 6] y) { y = Relu(x) }")
    with pytest.raises(DataError, match=r"\[4, 2, 3\], the network needs \[\*, 6\]: reshape it$"):
        open_data(tmp_path / "x.npy", model=flat)


def test_from_arrays():
    x, y = together(from_arrays(X, Y), 10)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


def test_lists_are_arrays():
    data = from_arrays([[1.0, 2.0], [3.0, 4.0]], [0, 1])
    x, y = together(data, 10)
    np.testing.assert_array_equal(x, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(y, [0, 1])
    with pytest.raises(DataError, match="is no array"):
        from_arrays([[1.0], [2.0, 3.0]])


class Stored:
    """An array as HDF5 has it: read by slices, or as a whole by numpy."""

    def __init__(self, values):
        self._values, self.shape, self.dtype = values, values.shape, values.dtype

    def __len__(self):
        return len(self._values)

    def __getitem__(self, rows):
        return self._values[rows]

    def __array__(self, dtype=None, copy=None):
        return self._values


def test_arrays_in_a_file_are_read_as_they_are_needed():
    x, y = together(from_arrays(Stored(X), Stored(Y)), 4)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


class Series(Stored):
    """As those of pandas, of which a part is another one."""

    def __getitem__(self, rows):
        return Series(self._values[rows])


def test_parts_of_what_is_no_array_become_arrays():
    (x, _), *_ = from_arrays(Series(X)).batches(4)
    assert type(x) is np.ndarray
    np.testing.assert_array_equal(x, X[:4])


class Sparse:
    """As those of SciPy: like an array, but that it is none, and has no length."""

    dtype, shape = np.dtype(np.float32), (4, 3)

    def __len__(self):
        raise TypeError("sparse array length is ambiguous")


def test_what_is_like_an_array_and_none():
    with pytest.raises(DataError, match="is no array, but of the type Sparse"):
        from_arrays(Sparse())


def test_what_makes_an_array_another_kind_is_left_out():
    """As a matrix of NumPy's, whose rows have two axes."""
    data = from_arrays(np.ones((4, 3), np.float32).view(np.recarray))
    ((batch, _),) = data.batches(4)
    assert type(batch) is np.ndarray


def test_paths_as_names_of_files(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    assert open_data(tmp_path / "d.npz").samples == len(X)
    with pytest.raises(DataError, match="cifar-100"):
        open_data("cifar100", str(tmp_path))


@pytest.mark.parametrize("other", [np.float32(1), np.ones((3, 4), np.float32)])
def test_the_only_input_may_be_called_x_whatever_has_its_name(tmp_path, other):
    one = model("net (float[N, 4] in) => (float[N, 4] y) { y = Neg(in) }")
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", **{"x": x, "in": other})
    data = open_data(str(tmp_path / "d.npz"), model=one)
    (batch,) = data.batches(5)
    np.testing.assert_array_equal(batch[0], x)


TABLE = model(
    "net (float[N, 3] p, int64[N] y) => (float[N, 2] z) "
    "{ e = Gather(t, y) a = Add(p, e) r = Relu(a) z = MatMul(r, w) }",
    {"t": np.ones((10, 3), np.float32), "w": np.ones((3, 2), np.float32)},
)


def test_y_is_an_input_where_the_network_has_one_of_that_name(tmp_path):
    arrays = {"p": np.ones((23, 3), np.float32), "y": Y}
    np.savez(tmp_path / "d.npz", **arrays)
    data = open_data(tmp_path / "d.npz", model=TABLE, samples=20)
    ((x, y),) = data.batches(20)
    assert y is None
    np.testing.assert_array_equal(x["y"], Y[:20])
    # Class by class it were the labels, it is none without them either.
    np.savez(tmp_path / "d.npz", p=arrays["p"], y=np.sort(Y))
    for labels in (True, False):
        data = open_data(tmp_path / "d.npz", model=TABLE, samples=20, labels=labels)
        ((x, _),) = data.batches(20)
        np.testing.assert_array_equal(x["y"], np.sort(Y)[:20])
    np.savez(tmp_path / "d.npz", **arrays)
    # Without the network's word for it, or its other inputs, it is the labels.
    assert open_data(tmp_path / "d.npz").labels is not None
    np.savez(tmp_path / "d.npz", x=arrays["p"], y=Y)
    assert open_data(tmp_path / "d.npz", model=TABLE).labels is not None


def test_an_only_input_called_y_may_be_called_x(tmp_path):
    network = model("net (float[N, 3] y) => (float[N, 3] z) { z = Relu(y) }", {})
    np.savez(tmp_path / "x.npz", x=X[..., 0], y=Y)
    data = open_data(tmp_path / "x.npz", model=network)
    assert (data.shapes, data.shape) == (None, (23, 3))
    np.testing.assert_array_equal(data.labels, Y)
    np.savez(tmp_path / "y.npz", y=X[..., 0])
    assert open_data(tmp_path / "y.npz", model=network).shapes == {"y": (23, 3)}


def test_a_network_that_is_not_there_is_missed(tmp_path):
    np.savez(tmp_path / "d.npz", x=X)
    with pytest.raises(ModelError, match=r"missing\.onnx"):
        open_data(tmp_path / "d.npz", model="missing.onnx")


def test_a_pickled_y_is_left_out_where_labels_are_not_needed(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=np.array([{}] * 23, dtype=object))
    assert open_data(tmp_path / "d.npz", train=True).labels is None
    with pytest.raises(DataError, match="pickled objects"):
        open_data(tmp_path / "d.npz")


def test_a_folder_of_images_needs_a_model_that_says_how(tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "a.png").touch()
    with pytest.raises(DataError, match="no model says how they become its input"):
        open_data(tmp_path)
