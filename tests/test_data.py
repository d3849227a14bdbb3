from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfkd.config import Data
from sfkd.data import DataError, IdxImages, create_dataset, eval_transform, train_transform

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PLAIN = ((0.0,), (1.0,))
PLAIN_RGB = ((0.0,) * 3, (1.0,) * 3)
Writer = Callable[..., Any]


def data(root: Path, **changes: Any) -> Data:
    options = {"name": "torch/mnist", "num_classes": 10, "input_size": (1, 32, 32), "mean": (0.5,), "std": (0.25,)}
    return Data(root=str(root), **options | changes)


# -- idx files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("folder", [".", "MNIST/raw"])
def test_idx_files(tmp_path: Path, idx: Writer, zipped: bool, folder: str) -> None:
    pixels = np.arange(2 * 28 * 28).reshape(2, 28, 28) % 251
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    suffix = ".gz" if zipped else ""
    idx(tmp_path / folder / f"t10k-images-idx3-ubyte{suffix}", pixels, zipped=zipped)
    idx(tmp_path / folder / f"t10k-labels-idx1-ubyte{suffix}", np.array([3, 8]), zipped=zipped)
    dataset = IdxImages(tmp_path, "test")
    assert len(dataset) == 2
    image, label = dataset[1]
    assert (image.dtype, tuple(image.shape), label) == (torch.uint8, (1, 28, 28), 8)
    np.testing.assert_array_equal(image[0], pixels[1])


def test_samples_carry_their_number(tmp_path: Path, digits: Writer) -> None:
    dataset = create_dataset(data(digits(tmp_path, train=20, test=5)), "train")
    assert len(dataset) == 20
    image, label, index = dataset[13]
    assert (tuple(image.shape), image.dtype, label, index) == ((1, 32, 32), torch.float32, 3, 13)
    assert len(create_dataset(data(tmp_path), "test")) == 5


def test_a_subset_is_the_same_every_time(tmp_path: Path, digits: Writer) -> None:
    root = digits(tmp_path, train=40, test=20)
    whole = create_dataset(data(root, augmentation="none"), "train")
    torch.manual_seed(1)
    first = create_dataset(data(root, augmentation="none", train_samples=7), "train")
    torch.manual_seed(2)
    again = create_dataset(data(root, augmentation="none", train_samples=7), "train")
    assert len(first) == len(again) == 7
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    matches = [next(i for i, (x, *_) in enumerate(whole) if torch.equal(x, image)) for image, *_ in first]
    assert len(set(matches)) == 7
    assert matches != sorted(matches)
    assert len(create_dataset(data(root, test_samples=6), "test")) == 6
    assert len(create_dataset(data(root, test_samples=999), "test")) == 20


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-100], "empty": b"", "foreign": b"\x89PNG" + content[4:]}[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "foreign"])
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_files(tmp_path: Path, digits: Writer, how: str, zipped: bool) -> None:
    root = digits(tmp_path, train=4, test=4, zipped=zipped)
    name = f"train-images-idx3-ubyte{'.gz' if zipped else ''}"
    damaged(root / name, how)
    with pytest.raises(DataError, match=f"{name} cannot be read as an idx file"):
        create_dataset(data(root), "train")


def test_a_truncated_file_inside_a_whole_archive(tmp_path: Path, digits: Writer) -> None:
    path = digits(tmp_path, train=4, test=4, zipped=True) / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(DataError, match="train-labels"):
        create_dataset(data(tmp_path), "train")


def test_images_without_as_many_labels(tmp_path: Path, digits: Writer, idx: Writer) -> None:
    digits(tmp_path, train=4, test=4)
    idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(3))
    with pytest.raises(DataError, match="4 images but 3 labels"):
        create_dataset(data(tmp_path), "train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch/fashion_mnist", r"no data set 'torch/fashion_mnist'.*data\.download=true.*apt install dataset-fashion"),
        ("torch/cifar10", r"no data set 'torch/cifar10' \(train\) in .*Set data\.root"),
        ("folder", "no data set 'folder'"),
    ],
)
def test_missing_data_say_where_they_were_looked_for(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        create_dataset(data(tmp_path / "nowhere", name=name), "train")


def test_a_missing_test_set(tmp_path: Path, digits: Writer) -> None:
    root = digits(tmp_path, train=4, test=4)
    (root / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match=r"no t10k-images-idx3-ubyte\[\.gz\]"):
        create_dataset(data(root), "test")


def test_a_folder_of_photographs(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for i, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 48), (100 * i, 0, 0)).save(tmp_path / split / name / "a.png")
    options = {"name": "", "num_classes": 2, "input_size": (3, 32, 32), "mean": PLAIN_RGB[0], "std": PLAIN_RGB[1]}
    dataset = create_dataset(data(tmp_path, **options), "test")
    assert [label for _, label, _ in dataset] == [0, 1]
    image = dataset[1][0]
    torch.testing.assert_close(image[0], torch.full((32, 32), 100 / 255))


@pytest.fixture
def photographs(tmp_path: Path) -> Callable[..., Data]:
    """A folder of twelve photographs of two classes, one of them damaged; gives its recipe."""
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 255, (40, 48, 3), dtype=np.uint8) // (1 + i)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{number}.jpg")

    def described(damage: Callable[[Path], None], **changes: Any) -> Data:
        damage(tmp_path / "train" / "dog" / "2.jpg")
        options = {"name": "", "num_classes": 2, "input_size": (3, 32, 32), "mean": PLAIN_RGB[0], "std": PLAIN_RGB[1]}
        return data(tmp_path, **options | changes)

    return described


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path) -> None:
    path.write_text("no picture")


DAMAGE = {"truncated": half, "text": text, "empty": lambda path: path.write_bytes(b"")}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_photograph_is_named(photographs: Callable[..., Data], damage: Callable[[Path], None]) -> None:
    dataset = create_dataset(photographs(damage), "train")
    with pytest.raises(
        DataError, match=r"dog/2\.jpg cannot be read as a picture .*: mend or remove it, or set data\.unr"
    ):
        list(dataset)


def test_a_photograph_that_vanishes_is_named(photographs: Callable[..., Data]) -> None:
    described = photographs(lambda path: None)
    dataset = create_dataset(described, "train")
    (Path(described.root) / "train" / "dog" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"dog/2\.jpg cannot be read as a picture"):
        list(dataset)


def test_a_damaged_photograph_is_skipped_where_asked(photographs: Callable[..., Data]) -> None:
    """The next takes its place with its own label and number."""
    dataset = create_dataset(photographs(half, unreadable="skip"), "train")
    assert "dog/2.jpg" in dataset.dataset.reader.filename(8)
    with pytest.warns(UserWarning, match=r"dog/2\.jpg cannot be read .* It is skipped\."):
        image, label, number = dataset[8]
    assert (label, number) == (1, 9)
    torch.testing.assert_close(image, dataset[9][0])


def test_many_damaged_photographs_are_no_accident(photographs: Callable[..., Data]) -> None:
    described = photographs(text, unreadable="skip")
    for path in Path(described.root).rglob("*.jpg"):
        text(path)
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(DataError, match="10 images in a row, from number 0"),
    ):
        create_dataset(described, "train")[0]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian() -> None:
    train, test = (create_dataset(data(DEBIAN, name="torch/fashion_mnist"), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (60_000, 10_000)
    images = IdxImages(DEBIAN, "train")
    assert torch.bincount(torch.from_numpy(images.labels.numpy()).long()).tolist() == [6000] * 10
    scaled = images.images[:10_000].float() / 255
    assert scaled.mean().item() == pytest.approx(0.286, abs=0.005)
    assert scaled.std().item() == pytest.approx(0.353, abs=0.005)


# -- transforms ---------------------------------------------------------------------------------------------------------


def test_small_images_are_padded_not_resampled() -> None:
    pixels = torch.randint(1, 256, (1, 28, 28), dtype=torch.uint8)
    image = eval_transform((1, 32, 32), *PLAIN)(pixels)
    torch.testing.assert_close(image[:, 2:30, 2:30], pixels.float() / 255)
    image[:, 2:30, 2:30] = 0
    assert not image.any()


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 100), (33, 300), (8, 8), (16, 8)])
def test_photographs_are_resized_and_cropped_in_the_middle(size: tuple[int, int]) -> None:
    """A red disc in the middle of a blue picture stays in the middle, and nothing is padded."""
    rows, columns = (torch.arange(n) - (n - 1) / 2 for n in size)
    disc = (rows[:, None] ** 2 + columns[None, :] ** 2) < (min(size) / 4) ** 2
    pixels = torch.stack([disc, torch.zeros_like(disc), ~disc]).to(torch.uint8) * 255
    image = eval_transform((3, 32, 32), *PLAIN_RGB)(pixels)
    assert image.shape == (3, 32, 32)
    assert image[:, 16, 16].tolist() == [1, 0, 0]
    assert image[:, 0, 0].tolist() == image[:, -1, -1].tolist() == [0, 0, 1]
    assert image[0].sum().item() == pytest.approx(3.1416 * 8**2, rel=0.15)


def test_normalisation() -> None:
    pixels = torch.full((1, 32, 32), 51, dtype=torch.uint8)
    image = eval_transform((1, 32, 32), (0.1,), (0.5,))(pixels)
    assert type(image) is torch.Tensor
    torch.testing.assert_close(image, torch.full((1, 32, 32), 0.2))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colours_are_kept_in_any_mode(mode: str) -> None:
    picture = Image.new("RGB", (32, 32), (255, 0, 0)).convert(mode)
    assert eval_transform((3, 32, 32), *PLAIN_RGB)(picture)[:, 3, 5].tolist() == [1, 0, 0]


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P"])
def test_grey_images_for_models_of_three_channels(mode: str) -> None:
    picture = Image.new("L", (32, 32), 255).convert(mode)
    assert torch.equal(eval_transform((3, 32, 32), *PLAIN_RGB)(picture), torch.ones(3, 32, 32))


def test_colour_images_for_models_of_one_channel() -> None:
    image = eval_transform((1, 32, 32), *PLAIN)(Image.new("RGB", (32, 32), (255, 0, 0)))
    assert image.shape == (1, 32, 32)
    assert image[0, 0, 0].item() == pytest.approx(0.299, abs=0.005)


def test_other_channel_counts_are_refused() -> None:
    with pytest.raises(DataError, match="1 or 3 channels, this one expects 4"):
        eval_transform((4, 32, 32), (0.0,) * 4, (1.0,) * 4)


def test_no_augmentation_is_the_test_transform() -> None:
    pixels = torch.randint(0, 256, (1, 28, 28), dtype=torch.uint8)
    options = data(Path(), augmentation="none")
    expected = eval_transform(options.input_size, options.mean, options.std)(pixels)
    assert torch.equal(train_transform(options)(pixels), expected)


@pytest.mark.parametrize("flip", [False, True])
def test_crop_shifts_by_at_most_the_padding(flip: bool) -> None:
    """The picture of one bright column, left of the middle, lands on few columns; flipped, on their mirror image too."""
    pixels = torch.zeros(1, 28, 28, dtype=torch.uint8)
    pixels[:, :, 6] = 255
    transform = train_transform(data(Path(), flip=flip, mean=PLAIN[0], std=PLAIN[1]))
    columns = {int(transform(pixels)[0].sum(0).argmax()) for _ in range(200)}
    left, right = set(range(6, 11)), set(range(21, 26))
    assert columns == (left | right if flip else left)


def test_training_and_test_images_have_one_scale() -> None:
    """Photographs are not cropped at full resolution in training and shrunk in tests; small pictures neither."""
    for side in (8, 128):
        pixels = torch.zeros(1, side, side, dtype=torch.uint8)
        pixels[:, : side // 2] = 255
        options = data(Path(), mean=PLAIN[0], std=PLAIN[1], flip=False)
        assert 0.3 < np.mean([train_transform(options)(pixels).mean().item() for _ in range(20)]) < 0.6
        assert all(train_transform(options)(pixels)[0, :, 16].unique().numel() > 1 for _ in range(20))


@pytest.mark.parametrize("channels", [1, 3])
def test_imagenet_augmentation_takes_tensors_and_pictures(channels: int) -> None:
    mean = (0.5,) * channels
    transform = train_transform(
        data(Path(), augmentation="imagenet", input_size=(channels, 32, 32), mean=mean, std=mean)
    )
    for image in (torch.zeros(1, 28, 28, dtype=torch.uint8), Image.new("RGB", (60, 50), (200, 10, 10))):
        out = transform(image)
        assert (tuple(out.shape), out.dtype) == ((channels, 32, 32), torch.float32)


def test_input_size_decides_the_padding() -> None:
    image = eval_transform((1, 28, 36), *PLAIN)(torch.full((1, 28, 28), 255, dtype=torch.uint8))
    assert image.sum(-1).unique().tolist() == [28]
    assert image[0, 0, :4].sum() == image[0, 0, -4:].sum() == 0


def test_recipes_are_values(tmp_path: Path) -> None:
    options = data(tmp_path)
    assert dataclasses.replace(options, root=str(tmp_path)) == options


# -- parts of a set ---------------------------------------------------------------------------------------------------------


def pixels(dataset: Any) -> list[int]:
    """The samples of a set by what is on them."""
    return [hash(image.numpy().tobytes()) for image, *_ in dataset]


def test_what_is_held_out_is_never_trained_on(tmp_path: Path, digits: Writer) -> None:
    root = digits(tmp_path, train=40, test=5)
    options: dict[str, Any] = {"augmentation": "none"}
    whole = pixels(create_dataset(data(root, **options), "train"))
    for trained, held_out in ((None, 15), (20, 15)):
        parts = data(root, train_samples=trained, held_out=held_out, **options)
        train, test = (pixels(create_dataset(parts, split)) for split in ("train", "test"))
        assert (len(train), len(test)) == (trained or 25, 15)
        assert not set(train) & set(test)
        assert set(train) | set(test) <= set(whole)
    # neither part depends on the size of the other
    assert train == pixels(create_dataset(data(root, train_samples=20, **options), "train"))
    assert test == pixels(create_dataset(data(root, held_out=15, **options), "test"))


def test_too_much_held_out_or_labelled(tmp_path: Path, digits: Writer) -> None:
    root = digits(tmp_path, train=40, test=5)
    with pytest.raises(DataError, match="held_out=10 leaves too few of 40 training images for train_samples=31"):
        create_dataset(data(root, held_out=10, train_samples=31), "train")
    with pytest.raises(DataError, match="labelled=41 of 40 training images"):
        create_dataset(data(root, labelled=41), "train")


def test_labels_are_kept_at_random_and_only_in_training(tmp_path: Path, digits: Writer) -> None:
    root = digits(tmp_path, train=40, test=20)
    train, test = (create_dataset(data(root, labelled=12), split) for split in ("train", "test"))
    kept = [i for i, (_, label, _) in enumerate(train) if label >= 0]
    assert len(kept) == 12
    assert kept != list(range(12))
    assert all(train[i][1] == i % 10 for i in kept)
    assert all(label >= 0 for _, label, _ in test)


def test_augmentation_is_a_function_of_seed_epoch_and_number(tmp_path: Path, digits: Writer) -> None:
    root = digits(tmp_path, train=10, test=5)
    train = create_dataset(data(root), "train", seed=4)
    first = train[3][0]
    torch.rand(7)
    assert torch.equal(train[3][0], first)
    others = [create_dataset(data(root), "train", seed=5)[3][0] for _ in range(1)]
    train.epoch = 1
    others.append(train[3][0])
    assert not any(torch.equal(x, first) for x in others)


# -- other sources ----------------------------------------------------------------------------------------------------------


def test_scikit_learns_digits() -> None:
    options: dict[str, Any] = {"name": "sklearn/digits", "augmentation": "none", "mean": PLAIN[0], "std": PLAIN[1]}
    train, test = (create_dataset(data(Path(), **options), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1297, 500)
    image, label, number = test[7]
    assert (tuple(image.shape), number) == ((1, 32, 32), 7)
    assert 0 <= label < 10
    assert not set(pixels(train)) & set(pixels(test))
    assert np.bincount([y for _, y, _ in train]).min() > 100
    raw = test.dataset[7][0]
    assert raw.max() == 255
    assert len(create_dataset(data(Path(), **options, held_out=200), "test")) == 200


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Four webdataset shards of 16 training images, one of 8 tests; red says the class, green the number."""
    import io
    import json
    import tarfile

    def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))

    splits: dict[str, Any] = {}
    for split, files, each in (("train", 4, 16), ("validation", 1, 8)):
        names = [f"x-{split}-{number:04d}.tar" for number in range(files)]
        for number, name in enumerate(names):
            with tarfile.open(tmp_path / name, "w") as archive:
                for i in range(each):
                    index = number * each + i
                    buffer = io.BytesIO()
                    Image.new("RGB", (32, 32), (index % 10 * 20, index * 3, 0)).save(buffer, "png")
                    add(archive, f"{index:06d}.png", buffer.getvalue())
                    add(archive, f"{index:06d}.cls", str(index % 10).encode())
        lengths = [each] * files
        described = {"name": split, "num_samples": files * each, "filenames": names, "shard_lengths": lengths}
        splits[split] = described
    (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}), encoding="utf-8")
    return tmp_path


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")  # as above
@pytest.mark.parametrize("workers", [0, 2])
def test_web_datasets_are_streams(shards: Path, workers: int) -> None:
    from torch.utils.data import DataLoader

    options = {"name": "wds/", "input_size": (3, 32, 32), "mean": PLAIN_RGB[0], "std": PLAIN_RGB[1], "workers": workers}
    options |= {"augmentation": "none"}

    def numbers(epoch: int) -> list[int]:
        train = create_dataset(data(shards, **options), "train", seed=1, batch_size=8)
        train.epoch = epoch
        assert len(train) == 64
        torch.manual_seed(epoch)
        batches = list(DataLoader(train, batch_size=8, num_workers=workers, drop_last=True))
        assert len(batches) == len(DataLoader(train, batch_size=8, drop_last=True)) == 8
        assert all((index == -1).all() for _, _, index in batches)
        for images, labels, _ in batches:
            assert torch.equal((images[:, 0, 0, 0] * 255 / 20).round().long(), labels)
        return [round(float(x[1, 0, 0]) * 255 / 3) for images, *_ in batches for x in images]

    first = numbers(1)
    assert sorted(first) == list(range(64))
    assert numbers(1) == first
    assert numbers(2) != first
    test = list(create_dataset(data(shards, **options), "test", batch_size=8))
    assert [label for _, label, _ in test] == list(range(8))


def test_parts_of_a_stream_are_refused(shards: Path) -> None:
    with pytest.raises(DataError, match="read as a stream: train_samples, test_samples, held_out and labelled need"):
        create_dataset(data(shards, name="wds/", train_samples=3), "train")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves closing to the collector
def test_hugging_face_data_sets(tmp_path: Path) -> None:
    """A folder of images as the hub would give it, through timm's reader, offline."""
    for split, count in (("train", 6), ("test", 4)):
        for i in range(count):
            folder = tmp_path / "set" / split / ("cat", "dog")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (100 * (i % 2), 9 * i, 0)).save(folder / f"{i}.png")
    options: dict[str, Any] = {"name": f"hfds/{tmp_path / 'set'}", "num_classes": 2, "test_split": "test"}
    options |= {"input_size": (3, 32, 32), "mean": PLAIN_RGB[0], "std": PLAIN_RGB[1], "augmentation": "none"}
    train, test = (create_dataset(data(tmp_path / "cache", **options), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (6, 4)
    assert all(round(float(x[0, 0, 0]) * 255) == 100 * y for x, y, _ in [*train, *test])


def test_a_share_of_the_shorter_side_is_looked_at() -> None:
    """A frame of one eighth on each side is cut away by crop_pct 0.75."""
    pixels = torch.full((3, 128, 128), 255, dtype=torch.uint8)
    pixels[:, 16:112, 16:112] = 0
    assert eval_transform((3, 32, 32), *PLAIN_RGB)(pixels).max() == 1
    assert eval_transform((3, 32, 32), *PLAIN_RGB, crop_pct=0.72)(pixels).max() == 0


def test_strong_augmentation_works_on_colours() -> None:
    rgb = {"input_size": (3, 32, 32), "mean": PLAIN_RGB[0], "std": PLAIN_RGB[1]}
    transform = train_transform(data(Path(), augmentation="strong", **rgb))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    assert len({hash(transform(picture).numpy().tobytes()) for _ in range(8)}) == 8
    with pytest.raises(ValueError, match='"strong" works on colours'):
        data(Path(), augmentation="strong")
