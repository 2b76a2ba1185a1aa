"""Training: the paper's settings, exact resume, and what happens when it fails."""

import dataclasses
import errno
import io
import os
import re
import shutil
import struct
import sys

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner

from onnx2snn import ModelError
from onnx2snn.cli import main
from onnx2snn.models import shipped
from onnx2snn.models.configs import CONFIGS, Config, read_config
from onnx2snn.models.preprocessing import KEY, Preprocessing

try:
    import torch
    from torch import nn
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")


def test_the_papers_settings():
    """Of the section "Implementation details"; 300 epochs on CIFAR, 120 on ImageNet."""
    for name in ("vgg16", "resnet18", "resnet20"):
        ten, hundred = CONFIGS[f"{name}-cifar10"], CONFIGS[f"{name}-cifar100"]
        assert (ten.epochs, hundred.epochs) == (300, 300)
        assert (ten.learning_rate, hundred.learning_rate) == (0.1, 0.02)
        assert (ten.cutout, hundred.cutout) == (16, 8)
        assert ten.auto_augment
        assert hundred.auto_augment
        assert ten.theta_weight_decay == (1e-3 if name == "vgg16" else 5e-4)
        for config in (ten, hundred):
            assert (config.momentum, config.weight_decay, config.width) == (0.9, 5e-4, 1)
    imagenet = CONFIGS["vgg16-imagenet"]
    assert (imagenet.epochs, imagenet.learning_rate, imagenet.weight_decay) == (120, 0.1, 1e-4)
    assert imagenet.color_jitter > 0
    assert imagenet.label_smoothing > 0


def test_a_config_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "resnet20-cifar10"\nepochs = 3\nlearning_rate = 1\n')
    name, config = read_config(str(path))
    expected = dataclasses.replace(CONFIGS["resnet20-cifar10"], epochs=3, learning_rate=1.0)
    assert (name, config) == ("mine", expected)
    # Off is nothing to use.
    path.write_text('base = "resnet20-cifar10"\ndataset = "folder"\ncutout = 0\ndropout = 0')
    assert read_config(str(path))[1].cutout == 0
    # In UTF-8, as TOML is, whatever the locale, and as Windows' editors begin it.
    path.write_bytes('\ufeff# é\nbase = "resnet20-cifar10"\nepochs = 3'.encode())
    assert read_config(str(path))[1].epochs == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("epochs = 3", "network, dataset, learning_rate must be given"),
        ('base = "nothing"', "base must be one of"),
        ('base = "vgg16-cifar10"\nepoch = 3', "no setting 'epoch'"),
        ('base = "vgg16-cifar10"\nepochs = 0.5', "epochs must be of type int"),
        ('base = "vgg16-cifar10"\nepochs = true', "epochs must be of type int"),
        (f'base = "vgg16-cifar10"\nlearning_rate = 1{"0" * 400}', "learning_rate is too large"),
        ('base = "vgg16-cifar10"\nepochs = 0', "epochs must be above 0"),
        ('base = "vgg16-cifar10"\nbatch_size = 1', "batch_size must be 2 or more"),
        ('base = "vgg16-cifar10"\nnetwork = "vgg19"', "network must be one of"),
        ('base = "vgg-fashion-mnist"\nlevels = 4', "no.* trainable clips|has none"),
        ('base = ["x"]', "base must be one of"),
        ('base = "vgg16-cifar10"\nwidth = inf', "width must be above 0"),
        ('base = "vgg16-cifar10"\nlevels = -2', "levels must be 0 or more"),
        ('base = "vgg16-cifar10"\nweight_decay = -1.0', "weight_decay must be 0 or more"),
        ('base = "vgg16-cifar10"\ndropout = 1.5', "dropout must be from 0 to below 1"),
        ('base = "vgg16-cifar10"\nlabel_smoothing = 2.0', "label_smoothing must be from 0"),
        ('base = "vgg-fashion-mnist"\ndataset = "cifar10"', "for images of 28 x 28"),
        ('base = "vgg16-cifar10"\ndataset = "digits"', "for images of 16 x 16 .* these are 8 x 8"),
        ('base = "vgg16-cifar10"\ndataset = "folder"\nsize = 128', "224 .* these are 128 x 128"),
        ('base = "vgg-fashion-mnist"\ndataset = "imagenet"\nsize = 28', "these are 224 x 224"),
        ('base = "resnet20-cifar10"\nwidth = 0.03', "first 16: take 0.0625 or more"),
        ('base = "resnet18-cifar10"\nwidth = 1e-9', "first 64: take 0.015625 or more"),
        ('base = "vgg16-cifar10"\nseed = 9223372036854775807', "seed must be above"),
        ('base = "vgg16-cifar10"\nseed = -99999999999999999999', "seed must be above"),
        (
            'base = "resnet18-cifar10"\ndataset = "folder"\ncutout = 8\nauto_augment = true',
            "resnet18 on dataset folder does not use auto_augment True, cutout 8: leave it out",
        ),
        (
            'base = "resnet20-cifar10"\nhidden = 8\ndropout = 0.1\ncolor_jitter = 0.4\nsize = 28',
            "use size 28, hidden 8, dropout 0.1, color_jitter 0.4",
        ),
        ('base = "mobilenet-fashion-mnist"\nwidth = 0.5', "does not use width 0.5"),
        ('base = "vgg-fashion-mnist"\ntheta_weight_decay = 1', "not use theta_weight_decay 1"),
        ("epochs 3", "mine.toml"),
    ],
)
def test_a_wrong_config_file(tmp_path, text, reason):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_config(str(path))
    result = CliRunner().invoke(main, ["train", str(path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "mine.toml" in result.output
    assert not (tmp_path / "out").exists()


def test_a_file_named_as_another_run_is_refused(tmp_path):
    """What it trained would be taken for that run's, as by ``reproduce``."""
    path = tmp_path / "resnet20-cifar10.toml"
    path.write_text('base = "resnet20-cifar10"\nepochs = 3')
    with pytest.raises(ValueError, match="resnet20-cifar10 is a run of other settings"):
        read_config(str(path))
    path.write_text('base = "resnet20-cifar10"')
    assert read_config(str(path)) == ("resnet20-cifar10", CONFIGS["resnet20-cifar10"])


@pytest.fixture
def data(tmp_path):
    """Fashion-MNIST of 50 images, in the format of its files: one grey level for each class."""
    folder = tmp_path / "data"
    folder.mkdir()
    labels = np.arange(50, dtype=np.uint8) % 10
    noise = np.random.default_rng(0).integers(0, 20, (50, 28, 28), dtype=np.uint8)
    images = noise + 20 * labels[:, None, None]
    for prefix in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return folder


TINY = Config(
    "vgg16", "fashion-mnist", epochs=3, learning_rate=0.05, width=0.0625, hidden=8, batch_size=20,
    auto_augment=True, cutout=8,
)  # fmt: skip


def train_tiny(folder, data, config=TINY, tell=lambda done, history: None):
    """Train without exporting; the weights, and what the epochs came to."""
    from onnx2snn.models.images import describe, open_images
    from onnx2snn.models.training import build, train

    folder.mkdir(exist_ok=True)
    network = build(config, describe(config, data)[0])
    images, test = open_images(config, data)
    history = train(network, config, images, test, folder / "checkpoint.pt", tell=tell)
    return network.state_dict(), history


def assert_same(weights, expected):
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)


@needs_torch
def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path, data):
    expected, history = train_tiny(tmp_path / "whole", data)
    assert [row["epoch"] for row in history] == [1, 2, 3]

    class Killed(BaseException):
        pass

    def kill(at):
        def tell(done, history):
            if done >= at:
                raise Killed

        return tell

    for at in (0.1, 1.0, 1.9, 2.5):
        with pytest.raises(Killed):
            train_tiny(tmp_path / "killed", data, tell=kill(at))
    weights, again = train_tiny(tmp_path / "killed", data)
    assert_same(weights, expected)
    seconds = [row.pop("seconds") for row in (*history, *again)]
    assert all(value > 0 for value in seconds)
    assert again == history


@needs_torch
def test_a_run_does_not_go_on_with_other_images(tmp_path, data):
    from onnx2snn.models.training import CheckpointError

    train_tiny(tmp_path / "run", data)
    file = data / "train-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="is of a run on other training images"):
        train_tiny(tmp_path / "run", data)


@needs_torch
@pytest.mark.parametrize(
    ("part", "said"),
    [("network", "holds another network"), ("config", "no checkpoint of a training run of this")],
)
def test_a_checkpoint_of_another_version_is_told_as_such(tmp_path, data, part, said):
    import torch

    from onnx2snn.models.training import CheckpointError

    train_tiny(tmp_path / "run", data)
    path = tmp_path / "run" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    content[part] = content[part] | {"another": 1}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=said):
        train_tiny(tmp_path / "run", data)


@needs_torch
def test_a_run_without_a_whole_epoch_begins_anew_with_other_images(tmp_path, data):
    """As after the repair of those at which it stopped; from the weights that it starts from."""
    from onnx2snn.models import run

    class Stopped(BaseException):
        pass

    def stop(done, history):
        raise Stopped

    config = dataclasses.replace(TINY, network="resnet20", width=0.25, epochs=1, learning_rate=1e-6)
    run.run("first", config, tmp_path / "first", data)
    again = dataclasses.replace(config, start=str(tmp_path / "first" / "first.onnx"))
    with pytest.raises(Stopped):
        run.run("run", again, tmp_path / "run", data, tell=stop)
    (data / "train-images-idx3-ubyte").write_bytes(
        (data / "train-images-idx3-ubyte").read_bytes()[:-1] + b"\x01"
    )
    _, history = run.run("run", again, tmp_path / "run", data)
    _, wanted = run.run("other", again, tmp_path / "other", data)
    assert history[0]["accuracy"] == wanted[0]["accuracy"]
    assert history[0]["loss"] == wanted[0]["loss"]


@needs_torch
def test_what_has_diverged_though_its_loss_is_finite(data):
    """Of the last step of an epoch no loss tells."""
    import torch

    from onnx2snn.models.images import describe
    from onnx2snn.models.training import _diverged, bounds, build

    network = build(TINY, describe(TINY, data)[0])
    found = bounds(network)
    assert _diverged(torch.ones(()), network, found) == ""
    assert _diverged(torch.tensor(np.inf), network, found) == "the loss is not finite"
    found[-1].data.fill_(-2.0)
    assert _diverged(torch.ones(()), network, found) == "a clip's bound fell to -2"
    network[-1].weight.data[0] = np.nan
    assert _diverged(torch.ones(()), network, found).endswith("weight' is not finite")


@needs_torch
@pytest.mark.parametrize("batch_size", [7, 49])
def test_a_last_batch_of_one_image_is_left_out(tmp_path, data, batch_size):
    """A layer of 1 x 1 places has no variance over one image."""
    config = dataclasses.replace(TINY, epochs=1, batch_size=batch_size)
    told = []
    train_tiny(tmp_path / "run", data, config, lambda done, _: told.append(done))
    steps = 50 // batch_size
    assert told == [*((step + 1) / (steps + 1) for step in range(steps)), 1]


@needs_torch
@pytest.mark.parametrize(
    ("processes", "reason"),
    [
        ("3", "batch_size 20 cannot be divided among 3 processes"),
        ("20", "batch_size 20 is one image for each of 20 processes.* take 40 or more"),
    ],
)
def test_a_batch_that_cannot_be_divided(tmp_path, data, monkeypatch, processes, reason):
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(ValueError, match=reason):
        train_tiny(tmp_path / "run", data)
    assert not list((tmp_path / "run").iterdir())


@needs_torch
def test_the_command(tmp_path, data):
    config = tmp_path / "tiny.toml"
    config.write_text(
        'network = "resnet20"\ndataset = "fashion-mnist"\nepochs = 1\nlearning_rate = 0.1\n'
        'width = 0.25\nbatch_size = 25\nprecision = "bfloat16"\n'
    )
    out = tmp_path / "out"
    arguments = ["train", str(config), "-o", str(out), "--data-root", str(data)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint.pt", "log.csv", "tiny.md", "tiny.onnx",
    ]  # fmt: skip
    card = (out / "tiny.md").read_text()
    assert "width 0.25" in card
    assert "cutout 0" in card
    assert not re.search("hidden|dropout|color_jitter|size 224", card)
    model = onnx.load(out / "tiny.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert Preprocessing.parse(metadata[KEY]) == Preprocessing(28, 1)
    # The clips' bounds are the thresholds, and the metadata goes along.
    snn = tmp_path / "snn.onnx"
    result = CliRunner().invoke(main, ["convert", str(out / "tiny.onnx"), "-o", str(snn)])
    assert result.exit_code == 0, result.output
    assert "19 layers of neurons" in result.output
    arguments = ["evaluate", str(snn), "--data", "fashion-mnist", "--data-root", str(data)]
    result = CliRunner().invoke(main, [*arguments, "-T", "2", "--json"])
    assert result.exit_code == 0, result.output
    # Another run does not overwrite it.
    config.write_text(config.read_text() + "seed = 1\n")
    result = CliRunner().invoke(
        main, ["train", str(config), "-o", str(out), "--data-root", str(data)]
    )
    assert result.exit_code == 1
    assert "another run (seed 0, now 1)" in result.output


@needs_torch
def test_what_is_known_beforehand_is_said_beforehand(tmp_path, data, monkeypatch):
    arguments = ["train", "resnet20-fashion-mnist", "--data-root", str(data), "-o"]
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "file" / "runs")])
    assert result.exit_code == 1
    assert "cannot make the folder" in result.output
    result = CliRunner().invoke(main, ["train", "resnet20-cifar10", "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "--data-root" in result.output
    config = tmp_path / "mine.toml"
    config.write_text('base = "resnet20-cifar10"\ndataset = "folder"\n')
    result = CliRunner().invoke(
        main, ["train", str(config), "--data-root", str(data), "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert f"no folder train in {data}" in result.output
    assert "--data-root" in result.output
    usage = shutil.disk_usage(tmp_path)._replace(free=1200)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "full")])
    assert result.exit_code == 1
    assert "MB are needed" in result.output
    assert "1.2 KB are free" in " ".join(result.output.split())


@needs_torch
def test_a_disk_that_fills_up_harms_no_checkpoint(tmp_path, data, monkeypatch):
    expected, _ = train_tiny(tmp_path / "whole", data)

    def full(descriptor):
        if (tmp_path / "out" / "checkpoint.pt").exists():
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as raised:
        train_tiny(tmp_path / "out", data)
    assert raised.value.filename == str(tmp_path / "out" / "checkpoint.pt")
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["checkpoint.pt"]
    assert_same(train_tiny(tmp_path / "out", data)[0], expected)


@needs_torch
@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_interruption_while_a_checkpoint_is_written_is_one(tmp_path, monkeypatch, end):
    """Torch says then that the file is too short."""
    from onnx2snn.models import training

    class Interrupted(io.BytesIO):
        def write(self, content):
            if self.tell() > 1000:
                raise end
            return super().write(content)

    monkeypatch.setattr(training, "whole_file", lambda path: Interrupted())
    part = torch.nn.Linear(64, 64)
    with pytest.raises(end):
        training._save(tmp_path / "checkpoint.pt", CONFIGS["vgg16-cifar10"], "", {"n": part}, [])


@needs_torch
def test_a_checkpoint_that_is_cut_off_is_named(tmp_path, data, monkeypatch):
    # Else Python would keep modules that it compiles as far as they are written.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    arguments = ["train", "resnet20-fashion-mnist", "--data-root", str(data), "-o"]
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        result = CliRunner().invoke(main, [*arguments, str(tmp_path / "out")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 1
    assert result.stderr == f"Error: File too large: '{tmp_path / 'out' / 'checkpoint.pt'}'\n"
    assert not (tmp_path / "out").exists()


@needs_torch
def test_a_loss_that_is_no_number_is_an_error(tmp_path, data):
    config = dataclasses.replace(TINY, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="learning rate"):
        train_tiny(tmp_path / "out", data, config)


@needs_torch
def test_quantised_clips_start_from_an_exported_network(tmp_path, data):
    """Batch normalization that was folded is undone: the network is the exported one."""
    from onnx2snn.models.images import describe, open_images, some_images
    from onnx2snn.models.run import run, start_from
    from onnx2snn.models.training import build
    from onnx2snn.runtime.sessions import create_session

    start, _ = run("tiny", TINY, tmp_path / "start", data)
    assert len((tmp_path / "start" / "log.csv").read_text().splitlines()) == 4
    network = build(TINY, describe(TINY, data)[0])
    images = some_images(open_images(TINY, data)[0])
    start_from(str(start), network, images)
    session = create_session(onnx.load(start), ["CPUExecutionProvider"], None)
    (expected,) = session.run(None, {"input": images.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(network(images).numpy(), expected, rtol=1e-4, atol=1e-5)
    config = dataclasses.replace(TINY, levels=4, start=str(start), epochs=1)
    path, _ = run("fine", config, tmp_path / "fine", data)
    assert "quantised to 4 levels" in path.with_suffix(".md").read_text()
    assert "Floor" not in [node.op_type for node in onnx.load(path).graph.node]
    other = dataclasses.replace(config, network="resnet20")
    with pytest.raises(ValueError, match="another network"):
        run("other", other, tmp_path / "other", data)


@needs_torch
def test_a_folder_of_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("torchvision")
    from onnx2snn.models.run import run

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ants", "bees"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    config = Config(
        "resnet18", "folder", epochs=1, learning_rate=0.1, width=0.0625, size=32, color_jitter=0.4,
        label_smoothing=0.1, batch_size=3,
    )  # fmt: skip
    path, history = run("ants", config, tmp_path / "out", tmp_path, workers=0)
    assert len(history) == 1
    # Whichever process reads an image.
    _, again = run("ants", config, tmp_path / "again", tmp_path, workers=2)
    assert again[0]["loss"] == history[0]["loss"]
    card = path.with_suffix(".md").read_text()
    assert "size 32" in card
    assert "color_jitter 0.4" in card
    assert not re.search("cutout|auto_augment", card)
    model = onnx.load(path)
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 2
    arguments = ["convert", str(path), "-o", str(tmp_path / "snn.onnx")]
    arguments += ["--calibration", str(tmp_path / "train"), "--recipe", "opi"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (tmp_path / "val" / "bees" / "0.png").write_bytes(b"no image")
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"^.*bees/0.png: no image, or damaged") as error:
            run("other", config, tmp_path / "other", tmp_path, workers=workers)
        assert "\n" not in str(error.value)
    (tmp_path / "val" / "bees").rename(tmp_path / "val" / "wasps")
    with pytest.raises(ValueError, match="must have the same classes, but bees is in one"):
        run("third", config, tmp_path / "third", tmp_path)


@needs_torch
def test_a_start_sees_all_classes_of_a_folder(tmp_path):
    """Images come class by class there; and of large ones fewer go through a network at once."""
    image = pytest.importorskip("PIL.Image")
    from onnx2snn.models.images import FolderImages, some_images

    for label in range(5):
        (tmp_path / str(label)).mkdir()
        for i in range(20):
            pixels = np.full((8, 8, 3), 50 * label, np.uint8)
            image.fromarray(pixels).save(tmp_path / str(label) / f"{i:02}.png")
    found = some_images(FolderImages(tmp_path, Preprocessing(8, 3)))
    assert found.shape == (100, 3, 8, 8)
    shown = some_images(FolderImages(tmp_path, Preprocessing(256, 3)))
    assert shown.shape == (64, 3, 256, 256)
    counts = np.unique(shown.amax((1, 2, 3)), return_counts=True)[1]
    assert sorted(counts) == [12, 13, 13, 13, 13]


@needs_torch
def test_images_that_are_not_the_data_sets_are_refused(tmp_path, data):
    labels = data / "train-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.write_bytes(content[:-1] + b"\x1a")
    with pytest.raises(ValueError, match="label 26 is none of 10 classes"):
        train_tiny(tmp_path / "out", data)
    labels.write_bytes(content)
    small = struct.pack(">HBB3I", 0, 8, 3, 50, 8, 8) + bytes(50 * 64)
    (data / "t10k-images-idx3-ubyte").write_bytes(small)
    with pytest.raises(ValueError, match=r"images are \[50, 1, 8, 8\]"):
        train_tiny(tmp_path / "out", data)


@needs_torch
def test_a_log_that_is_missing_is_written(tmp_path, data):
    """As after a kill between the last checkpoint and the log."""
    from onnx2snn.models.run import run

    run("tiny", TINY, tmp_path / "out", data)
    log = tmp_path / "out" / "log.csv"
    content = log.read_text()
    log.unlink()
    run("tiny", TINY, tmp_path / "out", data)
    assert log.read_text() == content


@needs_torch
def test_a_start_of_another_network(tmp_path, data):
    from onnx2snn.models.run import run

    start = "vgg-fashion-mnist.onnx"
    config = dataclasses.replace(CONFIGS["resnet20-qcfs-fashion-mnist"], start=start)
    with pytest.raises(ValueError, match=f"'{start}' is of another network than the run's: its w"):
        run("other", config, tmp_path / "other", data)


@needs_torch
@pytest.mark.parametrize("inputs", ["x", "x, w"])
def test_a_start_of_other_types_and_nodes(tmp_path, data, inputs):
    """Torch makes no tensor of bfloat16 in NumPy; a Min may have one input."""
    from onnx2snn.models.run import run

    text = f"g (bfloat16[1] x) => (bfloat16[1] y) {{ y = Min({inputs}) }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    if "w" in inputs:
        weight = onnx.helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [1], [1.0])
        model.graph.initializer.append(weight)
    onnx.save(model, tmp_path / "start.onnx")
    config = dataclasses.replace(TINY, start=str(tmp_path / "start.onnx"))
    with pytest.raises(ValueError, match=r"start\.onnx' is of another network than the run's"):
        run("other", config, tmp_path / "other", data)


@needs_torch
def test_a_start_that_cannot_be_read(tmp_path, data):
    from onnx2snn.models.run import run

    path = tmp_path / "start.onnx"
    model = onnx.load(shipped("resnet20-fashion-mnist.onnx"))
    onnx.save(model, path, save_as_external_data=True, location="start.data")
    (tmp_path / "start.data").unlink()
    config = dataclasses.replace(TINY, start=str(path))
    with pytest.raises(ModelError, match=r"'start\.data', which is not there"):
        run("none", config, tmp_path / "none", data)
    with pytest.raises(ModelError, match=f"'{__file__}' is not an ONNX model"):
        run("none", dataclasses.replace(config, start=__file__), tmp_path / "none", data)
    with pytest.raises(ValueError, match=r"^start: there is no file 'nothing\.onnx'"):
        run("none", dataclasses.replace(config, start="nothing.onnx"), tmp_path / "none", data)


@needs_torch
@pytest.mark.parametrize(
    ("name", "clips", "size"),
    [("vgg16", 15, 32), ("resnet18", 17, 32), ("resnet20", 19, 32), ("vgg16", 15, 64)],
)
def test_the_networks(name, clips, size):
    from onnx2snn.models import networks
    from onnx2snn.models.clips import TrainableClip

    imagenet = size == 64
    network = getattr(networks, name)(3, 10, width=0.125, imagenet=imagenet).eval()
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(TrainableClip) == clips
    assert not {nn.ReLU, nn.MaxPool2d} & set(kinds)
    side = 224 if imagenet else size
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, side, side)).shape == (1, 10)


@needs_torch
def test_full_width_networks_have_the_papers_sizes():
    """Parameters of the published architectures, but for batch normalization and bounds."""
    from onnx2snn.models.networks import resnet18, resnet20, vgg16

    def weights(network):
        return sum(p.numel() for p in network.parameters() if p.ndim > 1)

    with torch.device("meta"):
        assert weights(resnet18(3, 1000, imagenet=True)) == 11_678_912
        assert weights(vgg16(3, 1000, imagenet=True)) == 138_344_128
        assert weights(resnet20(3, 10)) == 270_896


@needs_torch
def test_augmentation():
    from onnx2snn.models.augmentation import crop_and_flip, cutout

    torch.manual_seed(0)
    images = torch.arange(1.0, 28 * 28 + 1).reshape(1, 1, 28, 28).repeat(50, 1, 1, 1)
    moved = crop_and_flip(images)
    assert moved.shape == images.shape
    # A shifted image keeps most of its pixels, each at most once.
    for image in moved:
        values = image[image > 0]
        assert len(values.unique()) == len(values) >= 24 * 24
    holes = cutout(torch.ones(200, 3, 32, 32), 16, (0.25, 0.5, 0.75))
    for channel, fill in enumerate((0.25, 0.5, 0.75)):
        covered = (holes[:, channel] == fill).flatten(1).sum(1)
        assert set(holes[:, channel].unique().tolist()) == {fill, 1.0}
        assert covered.max() == 16 * 16
        assert covered.min() >= 8 * 8
