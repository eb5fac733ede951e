"""CUB in its original layout, and the pipeline of large images: crops, workers, devices.

The trees are of the real format, small, and made here.
"""

import fcntl
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import scipy.stats
import torch
from data_files import part_digests
from helpers import run_python, wait_until, wrong
from PIL import Image
from sim_cuda import simulated_cuda
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from harness.data import Dataset, ImageSet, PackedImages, ResizedCrop, load
from harness.data.batches import Batch, epoch_generator
from harness.data.cache import Contents, cached_store
from harness.data.loader import LoaderImages, ResidentImages, center_crops, random_crops
from harness.data.placement import on_device
from harness.data.resize import resize_crops
from harness.data.sets import cub
from harness.data.sets.cub import IMAGENET_MEAN, IMAGENET_STD, CubOptions
from harness.data.views import join_validation

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("data_root")
NAMES = ("001.Crow", "002.Gull", "003.Wren")
EACH = 12  # images of each class; every third one is for the test


def picture(seed: int, height: int, width: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def size_of(i: int) -> tuple[int, int]:
    """Height and width of image i: wide, high, square and small ones."""
    return [(75, 100), (110, 80), (64, 64), (50, 41), (60, 160)][i % 5]


def write_tree(folder: Path, kind: str = "jpeg") -> Path:
    """The five parts of CUB_200_2011; one image is grey, as some of the real ones are."""
    images, labels, split = [], [], []
    for i in range(1, len(NAMES) * EACH + 1):
        c, k = divmod(i - 1, EACH)
        name = f"{NAMES[c]}/Bird_{k:04}_{i}.jpg"
        (folder / "images" / NAMES[c]).mkdir(parents=True, exist_ok=True)
        image = picture(i, *size_of(i))
        image = image.convert("L") if i == 5 else image
        image.save(folder / "images" / name, kind, quality=95)
        images.append(f"{i} {name}")
        labels.append(f"{i} {c + 1}")
        split.append(f"{i} {int(k % 3 < 2)}")
    classes = [f"{c + 1} {name}" for c, name in enumerate(NAMES)]
    lines = zip(cub.TABLES, (images, labels, split, classes), strict=True)
    for table, rows in lines:
        (folder / table).write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("cub") / "CUB_200_2011")


def options(path: Path | None, **fields: object) -> CubOptions:
    values = {"path": path, "label": "cub3", "image_size": 56, "validation": 6} | fields
    return CubOptions.model_validate(values)


@pytest.fixture
def dataset(original: Path) -> Dataset:
    return load(options(original))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree to break."""
    return write_tree(tmp_path / "CUB_200_2011")


# The files.


def test_official_split(dataset: Dataset, original: Path) -> None:
    assert dataset.name == "cub3" and dataset.class_names == NAMES
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [18, 6, 12]
    assert dataset.test.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert np.bincount(dataset.validation.labels).tolist() == [2, 2, 2]
    assert dataset.mean == IMAGENET_MEAN and dataset.std == IMAGENET_STD
    assert dataset.augmentation == ResizedCrop(56, flip=True)
    # Images 3, 6, 9, ... are for the test; kept with the shorter side that Resize(64) gives.
    assert isinstance(dataset.test.images, PackedImages)
    for k, i in enumerate(range(3, 37, 3)):
        (file,) = (original / "images").glob(f"*/*_{i}.jpg")
        expected = np.asarray(TF.resize(Image.open(file).convert("RGB"), [64]))
        np.testing.assert_array_equal(dataset.test.images[k], expected)
    assert len(np.unique(dataset.test.images.shapes, axis=0)) == 5


def test_parts_are_frozen(tmp_path: Path) -> None:
    """The images are stored without loss, so every version of the JPEG library reads them alike."""
    tree = write_tree(tmp_path / "CUB_200_2011", kind="png")
    assert part_digests(load(options(tree))) == "62106c5d6b1a 8126d2584ad0 565ed420e8ee"
    assert (
        part_digests(load(options(tree, split_seed=3, validation=0.3)))
        == "e4096936cf24 5826e3a429f8 565ed420e8ee"
    )


def test_defaults() -> None:
    chosen = CubOptions()
    assert (chosen.label, chosen.image_size, chosen.validation) == ("cub200", 224, 0.1)


def test_some_classes_need_a_name_of_their_own(original: Path) -> None:
    wrong(lambda: load(CubOptions(path=original)), "dataset.label: ", "3 of", "cub3")


def test_in_the_data_root_or_at_a_path(original: Path, data_root: Path) -> None:
    first = load(options(original)).digest
    assert load(options(original.parent)).digest == first
    data_root.mkdir(exist_ok=True)
    os.symlink(original, data_root / "CUB_200_2011")
    assert load(options(None)).digest == first
    nowhere = data_root.parent / "nowhere"
    wrong(lambda: load(options(nowhere)), "dataset.path: ", str(nowhere), cub.ARCHIVE.md5)


def test_grey_images_become_rgb(dataset: Dataset) -> None:
    images = join_validation(dataset).train.images
    assert isinstance(images, PackedImages)
    grey = [i for i in range(len(images)) if (np.ptp(images[i].astype(int), axis=-1) == 0).all()]
    assert len(grey) == 1


@pytest.mark.parametrize(
    ("table", "old", "new", "parts"),
    [
        ("image_class_labels.txt", "7 1", "", ["image 7"]),
        ("train_test_split.txt", "7 1", "", ["image 7"]),
        ("classes.txt", "2 002.Gull", "", ["class 2", "image 13"]),
        ("image_class_labels.txt", "7 1", "7 2", ["image 7", "001.Crow/", "002.Gull"]),
        ("train_test_split.txt", "7 1", "7 2", ["'2' of image 7"]),
        ("image_class_labels.txt", "7 1", "7 1\n7 2", ["line 8", "7"]),
        ("classes.txt", "3 003.Wren", "3 003.Wren\n4 004.Auk", ["'004.Auk'"]),
        ("classes.txt", "3 003.Wren", "3 003.Wren\n4", ["line 4"]),
    ],
)
def test_wrong_tables(tree: Path, table: str, old: str, new: str, parts: list[str]) -> None:
    text = (tree / table).read_text()
    assert f"\n{old}\n" in text
    (tree / table).write_text(text.replace(f"\n{old}\n", f"\n{new}\n"))
    place = str(tree) if "Auk" in new else str(tree / table)
    wrong(lambda: load(options(tree)), "dataset: ", place, *parts)


def test_a_changed_table_is_read_again(tree: Path) -> None:
    """Also if every image is the same: the order of classes.txt numbers the classes."""
    before = load(options(tree))
    lines = (tree / "classes.txt").read_text().splitlines()
    (tree / "classes.txt").write_text("\n".join(lines[::-1]))
    after = load(options(tree))
    assert after.class_names == NAMES[::-1] and before.test is not None and after.test is not None
    assert after.test.labels.tolist() == (2 - before.test.labels).tolist()


def test_tables_may_begin_with_a_byte_order_mark(tree: Path, original: Path) -> None:
    for table in tree.glob("*.txt"):
        table.write_text(table.read_text(), encoding="utf-8-sig")
    assert load(options(tree)).digest == load(options(original)).digest


def test_a_pipe_is_no_file(tree: Path) -> None:
    (file,) = tree.glob("images/*/*_7.jpg")
    for replaced in (file, tree / "classes.txt"):
        replaced.unlink()
        os.mkfifo(replaced)
        wrong(lambda: load(options(tree)), "dataset: ", str(replaced), "a pipe")


def test_a_library_warns_of_no_large_picture(tmp_path: Path) -> None:
    Image.new("1", (10_000, 9_000)).save(tmp_path / "large.png")
    program = (
        "from pathlib import Path; from harness.data.decode import Encoded, read_rgb; "
        "print(read_rgb(Encoded(Path('large.png'), 'x')).size)"
    )
    done = run_python(program, folder=tmp_path)
    assert (done.stdout, done.stderr) == ("(10000, 9000)\n", "")


def test_broken_files(tree: Path) -> None:
    (file,) = tree.glob("images/*/*_7.jpg")
    content = file.read_bytes()
    file.write_bytes(content[:200])
    wrong(lambda: load(options(tree)), f"dataset: {file}: ", "remove it")
    for missing in (file, tree / "classes.txt"):
        missing.unlink()
        wrong(lambda: load(options(tree)), "dataset: ", str(missing), "restore it")
        file.write_bytes(content)


def test_without_test_images_their_files_stay_closed(tree: Path) -> None:
    (file,) = tree.glob("images/*/*_3.jpg")
    file.write_bytes(b"broken")
    blind = load(options(tree), with_test=False)
    assert blind.test is None and len(blind.train) == 18
    wrong(lambda: load(options(tree)), f"dataset: {file}: ")


def test_archive(original: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extracted from the data root; without a network and an archive, the message says which."""
    assert cub.ARCHIVE.url.startswith("https://data.caltech.edu/records/65de6-vp158/")
    offline = replace(cub.ARCHIVE, url="http://127.0.0.1:9/CUB_200_2011.tgz")
    monkeypatch.setattr(cub, "ARCHIVE", offline)
    wrong(lambda: load(options(None)), "dataset: ", offline.description, str(data_root))

    path = data_root / "CUB_200_2011.tgz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("attributes.txt"), io.BytesIO())  # as in the real one
        tar.add(original, "CUB_200_2011")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(cub, "ARCHIVE", replace(offline, md5=md5, sha256=""))
    assert load(options(None)).digest == load(options(original)).digest
    assert CubOptions.find() == data_root / "CUB_200_2011"


# The parameters of the crops.

SHAPES = [(64, 85), (120, 64), (64, 64), (64, 640)]  # the last one often finds no crop


@pytest.mark.parametrize("shape", SHAPES)
def test_crops_are_distributed_as_torchvisions(shape: tuple[int, int]) -> None:
    n = 2500
    augmentation = ResizedCrop(56, flip=True)
    crops = random_crops(np.tile(shape, (n, 1)), augmentation, epoch_generator(0, 0))
    assert sorted(crops.order) == list(range(n))
    assert (crops.boxes[:, :2] >= 0).all() and (crops.boxes[:, 2:] > 0).all()
    assert (crops.boxes[:, :2] + crops.boxes[:, 2:] <= shape).all()
    assert abs(crops.flips.mean() - 0.5) < 0.03

    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(56)
    image = torch.empty(3, *shape)
    drawn = [transform.make_params([image]) for _ in range(n)]
    theirs = np.array([[d[k] for k in ("top", "left", "height", "width")] for d in drawn])
    for ours, other in zip(crops.boxes.T, theirs.T, strict=True):
        assert scipy.stats.ks_2samp(ours, other).pvalue > 1e-3


@pytest.mark.parametrize(
    ("shape", "box"), [((9, 400), (0, 194, 9, 12)), ((400, 9), (194, 0, 12, 9))]
)
def test_where_no_crop_fits_the_central_one_is_taken(
    shape: tuple[int, int], box: tuple[int, ...]
) -> None:
    always_too_large = ResizedCrop(8, flip=False, scale=(1.0, 1.0))
    crops = random_crops(np.array([shape] * 3), always_too_large, epoch_generator(0, 0))
    assert crops.boxes.tolist() == [list(box)] * 3
    transform = v2.RandomResizedCrop(8, scale=(1.0, 1.0))
    theirs = transform.make_params([torch.empty(3, *shape)])
    assert tuple(theirs[k] for k in ("top", "left", "height", "width")) == box
    assert not crops.flips.any()


# The pixels.


def epoch(images: LoaderImages, seed: int = 1, number: int = 2, size: int = 5) -> list[Batch]:
    return list(images.augmented(size, epoch_generator(seed, number)))


def pixels(batches: list[Batch], dataset: Dataset) -> torch.Tensor:
    """(N, 3, H, W) of 0 to 255, the normalisation undone."""
    x = torch.cat([b.x for b in batches])
    std, mean = (torch.tensor(v)[:, None, None] for v in (dataset.std, dataset.mean))
    return (x * std + mean) * 255


def test_training_pixels_are_torchvisions(dataset: Dataset) -> None:
    """For the same parameters: equal to its transforms of uint8 tensors, within one level of
    those of PIL images; the device's float pixels within rounding of both."""
    images = dataset.train.images
    assert isinstance(images, PackedImages)
    crops = random_crops(images.shapes, ResizedCrop(56, flip=True), epoch_generator(1, 2))
    assert 0 < crops.flips.sum() < len(crops.flips)
    batches = epoch(LoaderImages(dataset, dataset.train, CPU))
    on_cpu = pixels(batches, dataset)
    resident = pixels(epoch(ResidentImages(dataset, dataset.train, CPU)), dataset)
    assert torch.cat([b.y for b in batches]).tolist() == dataset.train.labels[crops.order].tolist()

    for k, (i, box, flip) in enumerate(zip(crops.order, crops.boxes, crops.flips, strict=True)):
        image = torch.from_numpy(np.array(images[int(i)])).permute(2, 0, 1)
        box = box.tolist()
        expected = TF.resized_crop(image, *box, [56, 56], antialias=True)
        exact = TF.resized_crop(image.float(), *box, [56, 56], antialias=True)
        pil = TF.pil_to_tensor(TF.resized_crop(Image.fromarray(images[int(i)]), *box, [56, 56]))
        if flip:
            expected, exact, pil = (TF.horizontal_flip(x) for x in (expected, exact, pil))
        torch.testing.assert_close(on_cpu[k], expected.float(), rtol=0, atol=1e-3)
        torch.testing.assert_close(on_cpu[k], pil.float(), rtol=0, atol=1.001)
        torch.testing.assert_close(resident[k], exact, rtol=0, atol=1e-2)


def test_normalisation_is_torchvisions(dataset: Dataset) -> None:
    (batch,) = epoch(LoaderImages(dataset, dataset.train, CPU), size=99)
    assert batch.x.shape == (18, 3, 56, 56) and batch.x.dtype == torch.float32
    assert batch.x.is_contiguous(memory_format=torch.channels_last)
    raw = pixels([batch], dataset).round().to(torch.uint8)
    scaled = TF.to_dtype(raw, torch.float32, scale=True)
    expected = TF.normalize(scaled, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(batch.x, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", [LoaderImages, ResidentImages])
def test_evaluation_is_the_central_crop(kind: type[LoaderImages], dataset: Dataset) -> None:
    """Neither test nor validation images are augmented, whatever training does."""
    for part in (dataset.test, dataset.validation):
        assert part is not None and isinstance(part.images, PackedImages)
        got = pixels(list(kind(dataset, part, CPU).plain(5)), dataset)
        for k in range(len(part)):
            image = torch.from_numpy(np.array(part.images[k])).permute(2, 0, 1)
            expected = TF.center_crop(image, [56, 56]).float()
            torch.testing.assert_close(got[k], expected, rtol=0, atol=1e-3)
        labels = torch.cat([b.y for b in kind(dataset, part, CPU).plain(5)])
        assert labels.tolist() == part.labels.tolist()


def test_center_crops_of_odd_sizes() -> None:
    for shape in ((64, 81), (65, 64), (67, 70)):
        box = center_crops(np.array([shape]), 56).boxes[0].tolist()
        image = torch.arange(shape[0] * shape[1]).view(1, *shape)
        assert torch.equal(TF.crop(image, *box), TF.center_crop(image, [56, 56]))


def test_any_number_of_workers_gives_the_same(dataset: Dataset) -> None:
    alone = LoaderImages(dataset, dataset.train, CPU, n_workers=0)
    helped = LoaderImages(dataset, dataset.train, CPU, n_workers=2)
    for make in (epoch, lambda images: list(images.plain(4))):
        pairs = list(zip(make(alone), make(helped), strict=True))
        assert len(pairs) > 3
        for a, b in pairs:
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.y, b.y) and torch.equal(a.y_cpu, b.y_cpu)


@pytest.mark.parametrize("kind", [LoaderImages, ResidentImages, partial(LoaderImages, n_workers=2)])
def test_index_names_the_images(kind: Callable[..., LoaderImages], dataset: Dataset) -> None:
    """Each image has one colour, which no crop changes: image i has the value i."""
    labels = np.arange(23) % 5
    colours = [np.full((9 + i % 3, 9 + i % 2, 3), i, np.uint8) for i in range(23)]
    store = cached_store({"path": "colours"}, lambda: Contents(colours, labels, list("abcde")))
    part = ImageSet(store.images(), labels)
    coloured = replace(dataset, train=part, augmentation=ResizedCrop(8, flip=True))
    images = kind(coloured, part, CPU)
    for batches in (list(images.plain(6)), epoch(images, size=6)):
        for batch in batches:
            assert batch.index.dtype == torch.int64
            value = pixels([batch], coloured).round().long()
            assert (value == batch.index[:, None, None, None]).all()
            assert torch.equal(batch.y, batch.index % 5) and torch.equal(batch.y_cpu, batch.y)
        assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(23))


@pytest.mark.parametrize("kind", [LoaderImages, ResidentImages])
def test_an_epoch_is_a_function_of_seed_and_epoch(
    kind: type[LoaderImages], dataset: Dataset
) -> None:
    images = kind(dataset, dataset.train, CPU)
    first = pixels(epoch(images), dataset)
    epoch(images, number=3)
    assert torch.equal(first, pixels(epoch(kind(dataset, dataset.train, CPU)), dataset))
    assert not torch.equal(first, pixels(epoch(images, number=3), dataset))
    assert not torch.equal(first, pixels(epoch(images, seed=2), dataset))


def test_the_global_random_stream_is_left_alone(dataset: Dataset) -> None:
    """Dropout draws from it: it must not depend on the number of workers."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for n_workers in (0, 1):
        images = LoaderImages(dataset, dataset.train, CPU, n_workers)
        epoch(images)
        list(images.plain())
    assert torch.equal(before, torch.get_rng_state())


def test_an_epoch_can_be_left_early(dataset: Dataset) -> None:
    images = LoaderImages(dataset, dataset.train, CPU, n_workers=2)
    batches = iter(images.augmented(5, epoch_generator(1, 2)))
    first = next(batches)
    batches.close()
    assert torch.equal(first.x, epoch(images)[0].x)


KILLED = """
import fcntl, sys, time, torch
import torch.utils.data._utils.worker as worker
worker.MP_STATUS_CHECK_INTERVAL = 1e6  # torch's own look for the parent
from harness.data import load
from harness.data.batches import epoch_generator
from harness.data.loader import LoaderImages
from harness.data.sets.cub import CubOptions
dataset = load(CubOptions(path=sys.argv[1], label="cub3", image_size=56, validation=6))
with open(sys.argv[2], "a") as lease:
    fcntl.flock(lease, fcntl.LOCK_EX)
    images = LoaderImages(dataset, dataset.train, torch.device("cpu"), n_workers=2)
    for batch in images.augmented(2, epoch_generator(0, 0)):
        print("training", flush=True)
        time.sleep(1e6)
"""


def is_free(lease: IO[str]) -> bool:
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_workers_end_with_a_killed_process(original: Path, tmp_path: Path) -> None:
    """They share its open files, and so the lease of the cell, until they end."""
    command = [sys.executable, "-c", KILLED, str(original), str(tmp_path / "lease")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b"training\n"
        process.kill()
        process.wait()
        with open(tmp_path / "lease", "a") as lease:
            assert wait_until(lambda: is_free(lease))


def test_autocast_does_not_reach_the_pixels(dataset: Dataset) -> None:
    images = ResidentImages(dataset, dataset.train, CPU)
    expected = epoch(images)[0].x
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(epoch(images)[0].x, expected)


def test_resampling_up_down_and_not_at_all() -> None:
    generator = torch.Generator().manual_seed(0)
    canvas = torch.randint(0, 256, (4, 90, 70, 3), dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([[90, 70], [20, 13], [32, 32], [1, 1]])
    flips = torch.tensor([False, True, False, True])
    got = resize_crops(canvas, sizes, flips, 32).permute(0, 3, 1, 2)
    for k, (height, width) in enumerate(sizes.tolist()):
        image = canvas[k, :height, :width].permute(2, 0, 1).float()
        expected = TF.resize(image, [32, 32], antialias=True)
        expected = TF.horizontal_flip(expected) if flips[k] else expected
        torch.testing.assert_close(got[k], expected, rtol=0, atol=1e-2)
    assert torch.equal(got[2], canvas[2, :32, :32].permute(2, 0, 1).float())


# What the cell asks for.


def test_on_a_cpu_a_loader_with_the_wanted_workers(dataset: Dataset) -> None:
    images = on_device(dataset, dataset.train, CPU, 3)
    assert type(images) is LoaderImages and images.n_workers == 3 and len(images) == 18


def test_train_and_validation_join(dataset: Dataset) -> None:
    joined = join_validation(dataset)
    assert joined.validation is None and len(joined.train) == 24
    assert isinstance(joined.train.images, PackedImages)
    assert isinstance(dataset.validation.images, PackedImages)
    np.testing.assert_array_equal(joined.train.images[20], dataset.validation.images[2])
    assert joined.train.labels[20] == dataset.validation.labels[2]
    assert joined.digest != dataset.digest
    assert len(epoch(LoaderImages(joined, joined.train, CPU), size=24)[0].y) == 24


def test_a_gpu_cuts_four_batches_with_one_gather(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.data.loader.CUT_AT_ONCE", 9)
    on_cpu = list(ResidentImages(dataset, dataset.train, CPU).augmented(2, epoch_generator(0, 0)))
    assert len(on_cpu) == 9
    with simulated_cuda() as gpu:
        images = ResidentImages(dataset, dataset.train, torch.device("cuda"))
        batches = iter(images.augmented(2, epoch_generator(0, 0)))
        on_gpu = [next(batches) for _ in range(4)]
        gpu.reset()
        on_gpu += [next(batches) for _ in range(4)]
        assert gpu.waits == [] and gpu.copies == []
        assert gpu.launches["index"] == 1 and sum(gpu.launches.values()) <= 4 * 10
        on_gpu += batches
        for ours, expected in zip(on_gpu, on_cpu, strict=True):
            assert torch.equal(ours.x.cpu(), expected.x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_images_lie_there(dataset: Dataset) -> None:
    images = on_device(dataset, dataset.train, torch.device("cuda"), 2)
    assert isinstance(images, ResidentImages)
    on_cpu = epoch(LoaderImages(dataset, dataset.train, CPU))
    for a, b in zip(epoch(images), on_cpu, strict=True):
        assert a.x.device.type == "cuda" and torch.equal(a.y_cpu, b.y_cpu)
        assert a.index.device.type == "cuda" and torch.equal(a.index.cpu(), b.index)
        torch.testing.assert_close(a.x.cpu(), b.x, rtol=0, atol=0.03)  # a level is up to 0.018
