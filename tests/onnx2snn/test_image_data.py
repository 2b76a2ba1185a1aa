"""Image data sets, from small files in the formats of the real ones, and how they are prepared."""

import dataclasses
import pickle
import shutil

import numpy as np
import onnx
import pytest

from onnx2snn import DataError, ModelError, open_data, write_model
from onnx2snn.models.datasets import DATASETS
from onnx2snn.models.image_folder import read_images
from onnx2snn.models.preprocessing import KEY, Preprocessing

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
FLAT = PIXELS.reshape(10, -1)
LABELS = np.arange(10, dtype=np.uint8)


def everything(data):
    x, y = zip(*data.batches(4), strict=True)
    return np.concatenate(x), np.concatenate(y)


def cifar_file(path, classes, pixels, labels, pickled):
    """A batch as the author's two distributions have it; coarse labels are all 0."""
    if pickled:
        key = b"labels" if classes == 10 else b"fine_labels"
        content = {b"data": pixels.reshape(len(pixels), -1), key: labels.tolist()}
        content |= {b"batch_label": b"a batch", b"coarse_labels": [0] * len(labels)}
        path.write_bytes(pickle.dumps(content, protocol=2))
        return
    columns = [labels] if classes == 10 else [np.zeros_like(labels), labels]
    rows = np.concatenate([np.stack(columns, 1), pixels.reshape(len(pixels), -1)], axis=1)
    path.with_suffix(".bin").write_bytes(rows.astype(np.uint8).tobytes())


@pytest.mark.parametrize("pickled", [True, False])
def test_cifar10(tmp_path, pickled):
    folder = tmp_path / ("cifar-10-batches-py" if pickled else "cifar-10-batches-bin")
    folder.mkdir()
    for i in range(5):
        part = slice(2 * i, 2 * i + 2)
        cifar_file(folder / f"data_batch_{i + 1}", 10, PIXELS[part], LABELS[part], pickled)
    cifar_file(folder / "test_batch", 10, PIXELS[:3], LABELS[:3], pickled)
    for root in (tmp_path, folder):
        x, y = everything(open_data("cifar10", root, train=True))
        np.testing.assert_array_equal(x, PIXELS / np.float32(255))
        np.testing.assert_array_equal(y, LABELS)
        assert open_data("cifar10", root).shape == (3, 3, 32, 32)


@pytest.mark.parametrize("pickled", [True, False])
def test_cifar100(tmp_path, pickled):
    folder = tmp_path / ("cifar-100-python" if pickled else "cifar-100-binary")
    folder.mkdir()
    cifar_file(folder / "test", 100, PIXELS, LABELS + 90, pickled)
    x, y = everything(open_data("cifar100", tmp_path))
    np.testing.assert_array_equal(x, PIXELS / np.float32(255))
    np.testing.assert_array_equal(y, LABELS + 90)


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({b"data": Malicious()}), "damaged"),
        (pickle.dumps({b"data": PIXELS}), "damaged"),
        (pickle.dumps({b"data": FLAT, b"labels": [1]}), "do not match"),
        (pickle.dumps({b"data": FLAT, b"labels": [10] * 10}), "label 10"),
        (pickle.dumps({b"data": FLAT / 255, b"labels": [1] * 10}), "not float64 and int64"),
        (
            pickle.dumps({b"data": FLAT.astype(np.int64) * 2, b"labels": [1] * 10}),
            "uint8, 0 to 255",
        ),
        (pickle.dumps({b"data": FLAT, b"labels": np.arange(10) + 256}), "label 256"),
        (pickle.dumps({b"data": FLAT, b"labels": [-1] * 10}), "label -1"),
        (pickle.dumps({b"data": FLAT, b"labels": [0.5] * 10}), "labels integers"),
        (b"", "damaged"),
    ],
)
def test_damaged_cifar(tmp_path, content, reason):
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        open_data("cifar10", tmp_path)


def test_damaged_binary_cifar(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match="whole number"):
        open_data("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet"])
def test_what_is_not_there_is_named(tmp_path, name):
    model = with_preprocessing(Preprocessing(32, 3))
    with pytest.raises(DataError, match=f"{tmp_path}.*--data-root"):
        open_data(name, tmp_path, model=model)


def test_imagenet_that_is_not_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"no folder val in {tmp_path}: name .*--data-root"):
        open_data("imagenet", model=with_preprocessing(Preprocessing(32, 3)))


def test_digits():
    pytest.importorskip("sklearn")
    x, y = everything(open_data("digits"))
    assert x.shape == (360, 1, 8, 8)
    assert (x.min(), x.max(), sorted(set(y))) == (0, 1, list(range(10)))
    assert open_data("digits", train=True).samples == 1437


def with_preprocessing(preprocessing):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 4, 4])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3, 4, 4])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out]))
    if preprocessing is not None:
        onnx.helper.set_model_props(model, {KEY: str(preprocessing)})
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """ImageNet's layout: val/<class>/<image>; images of several sizes, one of them grey."""
    known = DATASETS["imagenet"]
    monkeypatch.setitem(DATASETS, "imagenet", dataclasses.replace(known, classes=2))
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for label, name in enumerate(("n01", "n02")):
            (tmp_path / split / name).mkdir(parents=True)
            for i, size in enumerate([(8, 8, 3), (8, 12, 3), (16, 8)]):
                pixels = rng.integers(0, 256, size, dtype=np.uint8)
                image.fromarray(pixels).save(tmp_path / split / name / f"{label}{i}.png")
    return tmp_path


def test_imagenet_is_prepared_as_the_model_says(folder, tmp_path):
    from PIL import Image

    mean, std = (0.5, 0.25, 0.125), (0.5, 0.25, 2.0)
    model = with_preprocessing(Preprocessing(4, 3, 8, mean, std))
    x, y = everything(open_data("imagenet", folder, model=model))
    assert x.shape == (6, 3, 4, 4)
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    for i, rows, columns in ((0, slice(2, 6), slice(2, 6)), (1, slice(2, 6), slice(4, 8))):
        pixels = np.asarray(Image.open(folder / "val" / "n01" / f"0{i}.png"))[rows, columns]
        wanted = (pixels / np.float32(255) - np.float32(mean)) / np.float32(std)
        np.testing.assert_allclose(x[i], wanted.transpose(2, 0, 1), rtol=1e-6)
    # The same by the folder's path, and from a file.
    write_model(model, tmp_path / "m.onnx")
    again, _ = everything(open_data(str(folder / "val"), model=tmp_path / "m.onnx"))
    np.testing.assert_array_equal(again, x)


@pytest.mark.parametrize(
    "settings", [(0, 3), (224, 2), (224, 3, 2.5), (224, 3, 256, (1,), (1,)),
                 (224, 1, 256, (0.5,), (0.0,))]
)  # fmt: skip
def test_preprocessing_that_is_none(settings):
    with pytest.raises(ValueError, match=r"sizes must|mean and std must"):
        Preprocessing(*settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [("pixels / 255", "it is no JSON"), ('{"size": 4}', "it wants size and channels"), ("4", "")],
)
def test_preprocessing_that_cannot_be_understood(folder, text, said):
    model = with_preprocessing(None)
    onnx.helper.set_model_props(model, {KEY: text})
    with pytest.raises(ModelError, match=rf"cannot be understood: {said}.*channels.*ImageNet"):
        open_data(str(folder / "val"), model=model)


def test_preprocessing_of_numbers_beyond_all():
    with pytest.raises(ValueError, match="too large"):
        Preprocessing.parse(f'{{"size": 28, "channels": 1, "mean": [{10**400}]}}')


def test_a_folder_without_images_is_no_class(folder):
    model = with_preprocessing(Preprocessing(4, 3, 8))
    before = everything(open_data(str(folder / "val"), model=model))
    # As Jupyter makes them.
    (folder / "val" / ".ipynb_checkpoints").mkdir()
    (folder / "val" / "n01" / "a.png").mkdir()
    for was, now in zip(
        before, everything(open_data(str(folder / "val"), model=model)), strict=True
    ):
        np.testing.assert_array_equal(was, now)
    (folder / "val" / "a").mkdir()
    with pytest.raises(DataError, match="a' holds no images, and would be a class: remove"):
        open_data(str(folder / "val"), model=model)


def test_hidden_files_are_no_images(folder):
    model = with_preprocessing(Preprocessing(4, 3, 8))
    (folder / "val" / "n01" / "._00.png").write_bytes(b"as macOS archives have it")
    kept = folder / "val" / "n02" / ".ipynb_checkpoints"
    kept.mkdir()
    shutil.copy(folder / "val" / "n02" / "10.png", kept)
    assert everything(open_data(str(folder / "val"), model=model))[1].tolist() == [0] * 3 + [1] * 3


@pytest.mark.parametrize("train", [True, False])
def test_a_folder_of_train_and_val_is_divided(folder, train):
    """Not two classes of that name."""
    model = with_preprocessing(Preprocessing(4, 3, 8))
    part = folder / ("train" if train else "val")
    found = open_data(str(folder), train=train, model=model)
    wanted = everything(open_data(str(part), train=train, model=model))
    for one, other in zip(everything(found), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.name == f"{folder} ({'training' if train else 'validation'} images)"
    # Images of trains, and of something else.
    shutil.rmtree(folder / "train")
    (folder / "val" / "n01").rename(folder / "train")
    (folder / "val" / "n02").rename(folder / "cars")
    shutil.rmtree(folder / "val")
    assert sorted(set(everything(open_data(str(folder), model=model))[1])) == [0, 1]


@pytest.mark.parametrize(
    "names", [("train", "test"), ("train",), ("Validation", "Testing"), ("meta", "train")]
)
def test_parts_of_a_data_set_are_no_classes(folder, names):
    shutil.rmtree(folder / "train")
    parts = folder / "parts"
    for name in names:
        shutil.copytree(folder / "val", parts / name)
    model = with_preprocessing(Preprocessing(4, 3, 8))
    first = parts / min(set(names) - {"meta"})
    with pytest.raises(DataError, match=f"and no classes: name '{first}'"):
        open_data(str(parts), model=model)
    assert open_data(str(first), model=model).samples == 6


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_images_of_16_bits_keep_their_high_ones(folder, suffix):
    """A .pgm opens as "I", which may be 32 bits, too; so does a .png in earlier Pillows."""
    from PIL import Image

    levels = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096
    path = folder / f"levels{suffix}"
    Image.fromarray(levels).save(path)
    for channels in (1, 3):
        preprocessing = Preprocessing(4, channels, 4, (0,) * channels, (1,) * channels)
        (image,) = read_images([path], preprocessing)
        np.testing.assert_array_equal(image, np.broadcast_to(levels >> 8, (channels, 4, 4)))


@pytest.mark.parametrize("what", ["cut", "float32", "int32", "avif", "bomb"])
def test_an_image_that_cannot_be_read_is_named(folder, what, monkeypatch):
    from PIL import Image

    path = folder / "val" / "n02" / "11.png"
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif what in ("float32", "int32"):
        Image.fromarray(np.ones((8, 8), what)).save(path, format="TIFF")
    elif what == "avif":
        pytest.importorskip("PIL._avif")
        Image.new("RGB", (8, 8)).save(path, format="AVIF")
        head, name, pixels = path.read_bytes().partition(b"mdat")
        path.write_bytes(head + name + bytes(len(pixels)))
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    model = with_preprocessing(Preprocessing(4, 3, 8))
    name = "n01/00.png" if what == "bomb" else "n02/11.png"
    with pytest.raises(DataError, match=rf"^\S*{name}: .*\w\)?; remove or replace it$"):
        everything(open_data(str(folder / "val"), model=model))


@pytest.mark.parametrize("samples", [None, 4])
def test_images_of_a_folder_come_in_rounds_in_training(folder, samples):
    """Of one of each class, in any order."""
    model = with_preprocessing(Preprocessing(4, 3, 8))
    source = str(folder / "train")
    x, y = everything(open_data(source, model=model, samples=samples))
    mixed, classes = everything(open_data(source, train=True, model=model, samples=samples))
    assert y.tolist() == sorted(y)
    assert [sorted(pair) for pair in classes.reshape(-1, 2).tolist()] == [[0, 1]] * (len(y) // 2)
    for label in (0, 1):
        np.testing.assert_array_equal(mixed[classes == label], x[y == label])


def test_so_many_images_of_a_folder_are_of_all_classes(folder, monkeypatch):
    from onnx2snn.data import files as data_files

    read = []

    def noting(files, preprocessing):
        read.extend(path.name for path in files)
        return read_images(files, preprocessing)

    read_images = data_files.read_images
    monkeypatch.setattr(data_files, "read_images", noting)
    model = with_preprocessing(Preprocessing(4, 3, 8))
    _, y = everything(open_data(str(folder / "val"), model=model, samples=3))
    assert y.tolist() == [0, 0, 1]
    # No other file is read for them.
    assert read == ["00.png", "02.png", "11.png"]


def test_scaling(folder):
    model = with_preprocessing(Preprocessing(16, 1, 16))
    x, _ = everything(open_data(str(folder / "val"), model=model))
    assert x.shape == (6, 1, 16, 16)


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (500, 375), (224, 999), (64, 64)])
def test_the_longer_side_is_scaled_as_torchvision_does(tmp_path, size):
    """Of a white image, what the cut finds none of is black."""
    image = pytest.importorskip("PIL.Image")
    image.new("L", size, 255).save(tmp_path / "white.png")
    longer = int(256 * max(size) / min(size))
    pixels = read_images([tmp_path / "white.png"], Preprocessing(1200, 1, 256))[0, 0]
    assert sorted(np.count_nonzero(pixels.max(axis)) for axis in (0, 1)) == [256, longer]


def test_images_are_those_of_torchvision(tmp_path):
    image = pytest.importorskip("PIL.Image")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    for number, size in enumerate([(427, 640, 3), (300, 401, 3), (401, 300, 3), (20, 33, 3)]):
        pixels = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
        image.fromarray(pixels).save(tmp_path / "a.png")
        wanted = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(image.open(tmp_path / "a.png"))
        found = read_images([tmp_path / "a.png"], Preprocessing(224, 3, 256))[0]
        np.testing.assert_array_equal(found, np.asarray(wanted).transpose(2, 0, 1))


@pytest.mark.parametrize("side", [25, 26, 27, 28, 29, 31])
def test_cuts_larger_than_an_image_are_those_of_torchvision(tmp_path, side):
    image = pytest.importorskip("PIL.Image")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    pixels = np.random.default_rng(side).integers(1, 256, (side, 30), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "a.png")
    wanted = v2.CenterCrop(28)(image.open(tmp_path / "a.png"))
    found = read_images([tmp_path / "a.png"], Preprocessing(28, 1))[0, 0]
    np.testing.assert_array_equal(found, np.asarray(wanted))


def test_linked_folders_are_followed(folder):
    model = with_preprocessing(Preprocessing(4, 3, 8))
    own, other = folder / "val" / "n01", folder / "other"
    other.mkdir()
    (own / "00.png").rename(other / "00.png")
    (own / "a").symlink_to(other)
    assert everything(open_data(str(folder / "val"), model=model))[1].tolist() == [0] * 3 + [1] * 3
    # Links in a circle end.
    (own / "self").symlink_to(own)
    (other / "back").symlink_to(own)
    (other / "nowhere").symlink_to(other / "nowhere")
    assert open_data(str(folder / "val"), model=model).samples == 6


@pytest.mark.parametrize(
    ("shape", "arranged"),
    [
        (["N", 4, 4, 3], lambda x: x.transpose(0, 2, 3, 1)),
        (["N", None, None, 3], lambda x: x.transpose(0, 2, 3, 1)),
        (["N", 3, 4, 3], np.asarray),
        (["N", 3, 4, 4], np.asarray),
        (["N", 4, 4, 1], np.asarray),
        (["N", 48], lambda x: x.reshape(-1, 48)),
        (["N", 47], np.asarray),
        (["N", 4, 4], np.asarray),
        ([], np.asarray),
    ],
)
def test_channels_are_where_the_input_has_them(folder, shape, arranged):
    model = with_preprocessing(Preprocessing(4, 3, 8))
    wanted, _ = everything(open_data(str(folder / "val"), model=model, samples=5))
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    model.graph.input[0].CopyFrom(info)
    # As a state in a spiking network, whose default is no input of the user's.
    model.graph.input.insert(0, onnx.helper.make_tensor_value_info("v", 1, ["N", 1, 1, 1]))
    model.graph.initializer.append(onnx.helper.make_tensor("v", 1, [1, 1, 1, 1], [0.0]))
    data = open_data(str(folder / "val"), model=model, samples=5)
    found, labels = everything(data)
    np.testing.assert_array_equal(found, arranged(wanted))
    assert data.shape == found.shape
    assert len(labels) == 5


def test_an_imagenet_that_lacks_classes_has_no_labels(folder, monkeypatch):
    monkeypatch.undo()
    model = with_preprocessing(Preprocessing(4, 3))
    with pytest.raises(DataError, match="' holds 2 classes, and ImageNet has 1000"):
        open_data("imagenet", folder, model=model)
    # To calibrate and to run no labels are needed.
    assert open_data("imagenet", folder, model=model, train=True).samples == 6
    assert open_data("imagenet", folder, model=model, labels=False).samples == 6


def test_images_need_a_preprocessing(folder):
    with pytest.raises(DataError, match=r'preprocessing = \{"size": 224, .* "std": \[0.229'):
        open_data("imagenet", folder)
    with pytest.raises(DataError, match="metadata"):
        open_data("imagenet", folder, model=with_preprocessing(None))


def test_a_damaged_image_and_an_empty_folder(folder, tmp_path):
    model = with_preprocessing(Preprocessing(4, 3))
    (folder / "val" / "n01" / "00.png").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"^\S*00\.png: no image, or damaged; remove or replace it$"
    ):
        everything(open_data("imagenet", folder, model=model))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="one for each class"):
        open_data(str(tmp_path / "empty"), model=model)


def test_a_network_for_other_images(tmp_path):
    (tmp_path / "test_batch").write_bytes(
        pickle.dumps({b"data": PIXELS.reshape(10, -1), b"labels": LABELS.tolist()})
    )
    with pytest.raises(DataError, match="28 x 28"):
        open_data("cifar10", tmp_path, model=with_preprocessing(Preprocessing(28, 3)))
    normalised = with_preprocessing(Preprocessing(32, 3, mean=(0.5,) * 3))
    x, _ = everything(open_data("cifar10", tmp_path, model=normalised))
    np.testing.assert_allclose(x, PIXELS / np.float32(255) - 0.5, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"size": 4, "channels": 2}', '{"size": 4, "channels": 3, "mean": [0]}',
     '{"size": "4", "channels": 3}', '{"size": 4, "channels": 1, "crop": 3}', "null",
     '{"size": 4, "channels": 3, "mean": "123"}', '{"size": 4, "channels": 1, "std": [0]}',
     '{"size": 4, "channels": 1, "mean": [NaN]}',
     '{"size": 4, "channels": 1, "resize": 3000000000}'],
)  # fmt: skip
def test_damaged_preprocessing(tmp_path, text):
    model = with_preprocessing(text)
    with pytest.raises(ModelError, match="cannot be understood"):
        open_data(str(tmp_path), model=model)


def test_preprocessing_takes_numpys_values():
    means = np.float32([0.25, 0.5, 0.75])
    how = Preprocessing(np.int64(8), 3, mean=means, std=[1, 2, 3])
    assert how == Preprocessing(8, 3, mean=(0.25, 0.5, 0.75), std=(1.0, 2.0, 3.0))
    assert Preprocessing.parse(str(how)) == how


@pytest.mark.parametrize("values", [{"mean": 0.5}, {"mean": "1"}, {"std": ["a"]}, {"resize": 8.0}])
def test_preprocessing_of_what_are_no_numbers(values):
    with pytest.raises(ValueError, match=r"mean must|std must|sizes must"):
        Preprocessing(8, 1, **values)


@pytest.mark.parametrize("text", ["null", '"size channels"', "[8, 1]"])
def test_preprocessing_that_is_no_json_object(text):
    with pytest.raises(ValueError, match="it is no JSON object"):
        Preprocessing.parse(text)
