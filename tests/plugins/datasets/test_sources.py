"""Data sources: download, listing, decoding and cropping of images, and the messages when they fail."""

from __future__ import annotations

import hashlib
import pickle
import socket
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.stats
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as vision

from uebench import Source, UserError, kit
from uebench.authoring.check import check_component
from uebench.components.spec import canonical_text
from uebench.jobs.datasets import validate_dataset
from uebench_plugins.datasets import image_folder
from uebench_plugins.datasets.cifar import Cifar10, Cifar100
from uebench_plugins.datasets.crops import Boxes, draw_boxes, random_resized_crop, resized_crop
from uebench_plugins.datasets.folder import Folder
from uebench_plugins.datasets.imagenet100 import Imagenet100
from uebench_plugins.datasets.svhn import Svhn

WORDNET = [f"n{1440764 + index:08d}" for index in range(99)] + ["n01855672"]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def fake_cifar(source: type[Cifar10], scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small archive that torchvision accepts as the published one: one image of each class per batch."""
    reader, count = getattr(datasets, source.reader), 10 if source is Cifar10 else 100
    folder = scratch / reader.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)

    def batch(name: str) -> list[str]:
        pixels = generator.integers(0, 256, (count, 3072)).astype(np.uint8)
        key = "labels" if source is Cifar10 else "fine_labels"
        (folder / name).write_bytes(pickle.dumps({"data": pixels, key: list(range(count))[::-1]}))
        return [name, md5(folder / name)]

    monkeypatch.setattr(reader, "train_list", [batch(name) for name, _ in reader.train_list])
    monkeypatch.setattr(reader, "test_list", [batch(name) for name, _ in reader.test_list])
    meta = folder / reader.meta["filename"]
    meta.write_bytes(pickle.dumps({reader.meta["key"]: [f"class {label}" for label in range(count)]}))
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5(meta)})
    archive = scratch / reader.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, reader.base_folder)
    monkeypatch.setattr(reader, "tgz_md5", md5(archive))
    return archive


def fake_svhn(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return two small files that torchvision accepts as the published ones: digits 1 to 10, where 10 means 0."""
    scratch.mkdir(parents=True)
    files, split_list = [], dict(datasets.SVHN.split_list)
    for part in ("train", "test"):
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 10)).astype(np.uint8)
        url, name, _ = split_list[part]
        scipy.io.savemat(scratch / name, {"X": pixels, "y": np.arange(1, 11)[:, None].astype(np.uint8)})
        split_list[part] = [url, name, md5(scratch / name)]
        files.append(scratch / name)
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    return files


def offline(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    """Let CIFAR-10, CIFAR-100 and SVHN download small files of the same layout, without a network."""
    archives = [fake_cifar(source, scratch / source.name, monkeypatch) for source in (Cifar10, Cifar100)]
    served = {path.name: path for path in [*archives, *fake_svhn(scratch / "svhn", monkeypatch)]}

    def retrieve(url: str, path: Any, *rest: Any) -> None:
        Path(path).write_bytes(served[url.rpartition("/")[2]].read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **rest: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", retrieve)


def tiny_imagenet(root: Path, names: list[str] = WORDNET, parts: tuple[str, ...] = ("train", "val")) -> Path:
    """Write one picture for every class and part: the left half is red, the right half has the grey of the class."""
    for part in parts:
        for label, name in enumerate(names):
            (root / part / name).mkdir(parents=True)
            picture = Image.new("RGB", (20, 12), (255, 0, 0))
            picture.paste((label, label, label), (10, 0, 20, 12))
            picture.save(root / part / name / f"{name}_{label}.JPEG", "PNG")
    return root


@pytest.mark.parametrize(("source", "count"), [(Cifar10(), 10), (Cifar100(), 100)])
def test_cifar_is_read_from_an_archive_that_the_user_put_there(
    source: Cifar10, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    archive, reader = fake_cifar(type(source), tmp_path / "source", monkeypatch), getattr(datasets, source.reader)
    block_network(monkeypatch)
    (tmp_path / "data" / source.name).mkdir(parents=True)
    archive.rename(tmp_path / "data" / source.name / archive.name)
    data = source.load(tmp_path / "data")
    validate_dataset(source, data)
    assert data.classes == [f"class {label}" for label in range(count)]
    assert data.test.images.shape == (count, 3, 32, 32)
    assert data.test.labels.tolist() == list(range(count))[::-1]
    assert len(data.train.labels) == count * len(reader.train_list)
    batch = pickle.loads((tmp_path / "source" / reader.base_folder / reader.test_list[0][0]).read_bytes())
    assert torch.equal(data.test.images.flatten(1), torch.from_numpy(batch["data"]))
    assert not data.names
    assert capfd.readouterr() == ("", "")


def test_svhn_is_read_from_files_that_the_user_put_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fake_svhn(tmp_path / "data" / "svhn", monkeypatch)
    block_network(monkeypatch)
    data = Svhn().load(tmp_path / "data")
    validate_dataset(Svhn(), data)
    assert data.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0], "the file has label 10 for the digit 0"
    pixels = scipy.io.loadmat(files[1])["X"]
    assert torch.equal(data.test.images[4], torch.from_numpy(pixels[:, :, :, 4].copy()).permute(2, 0, 1))


def block_network(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    def refuse(*request: Any, **rest: Any) -> None:
        raise error or urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


DOWNLOADS = [
    (Cifar10(), "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    (Cifar100(), "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    (Svhn(), "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
]


@pytest.mark.parametrize(("source", "file", "digest"), DOWNLOADS)
def test_a_missing_download_says_which_file_to_put_where(
    source: Source, file: str, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / source.name
    block_network(monkeypatch)
    instruction = f"; put {file} (md5 {digest}) into {folder}"
    assert load_error(source, tmp_path).endswith(f"/{file} (Name or service not known){instruction}")
    block_network(monkeypatch, urllib.error.HTTPError("http://x", 404, "Not Found", {}, None))  # type: ignore[arg-type]
    assert load_error(source, tmp_path).endswith(f"/{file} (HTTP Error 404: Not Found){instruction}")
    (folder / file).write_bytes(b"half of it")
    assert f"(the {file} there is damaged or incomplete: its md5 differs){instruction}" in load_error(source, tmp_path)
    assert load_error(source, tmp_path).startswith(f"dataset {source.name}: cannot download http")


def load_error(source: Source, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        source.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_batch_with_another_md5_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cifar(Cifar10, tmp_path / "cifar10", monkeypatch)
    (tmp_path / "cifar10" / datasets.CIFAR10.filename).unlink()
    batch = tmp_path / "cifar10" / datasets.CIFAR10.base_folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes() + b" ")
    block_network(monkeypatch)
    monkeypatch.setattr(pickle, "load", lambda *given, **rest: pytest.fail("unpickled"))
    assert "cannot download" in load_error(Cifar10(), tmp_path)


def test_downloads_print_nothing_and_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    offline(monkeypatch, tmp_path / "served")
    for source in (Cifar10(), Cifar100(), Svhn()):
        first = source.load(tmp_path / "data")
        with monkeypatch.context() as patch:
            patch.setattr("torchvision.datasets.utils._urlretrieve", lambda *given: pytest.fail("second download"))
            assert torch.equal(first.train.images, source.load(tmp_path / "data").train.images)
        assert [finding for finding in check_component("dataset", source) if not finding.kept] == []
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["cifar10", "cifar100", "svhn"]
    assert capfd.readouterr() == ("", "")


def test_cifar_is_mirrored_and_svhn_is_not() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0.1, 1, 32).expand(64, 3, 32, 32)
    for source, flips in ((Cifar10(pad=0), True), (Svhn(pad=0), False)):
        views = source.augment(ramp)
        mirrored = (views[:, 0, 0, 0] > views[:, 0, 0, -1]).sum().item()
        assert (10 < mirrored < 54) if flips else mirrored == 0
    assert (Cifar10().augment(ramp) == 0).any(), "crops contain black padding"


BOXES = [(0, 0, 1, 1), (3, 5, 7, 11), (0, 0, 40, 52), (39, 51, 1, 1), (10, 2, 30, 50), (20, 0, 5, 52), (0, 50, 40, 2)]


@pytest.mark.parametrize("size", [1, 8, 64])
def test_a_crop_equals_torchvisions_and_uses_no_pixel_outside_its_box(size: int) -> None:
    images = torch.rand(len(BOXES), 3, 40, 52)
    boxes = Boxes(*(torch.tensor(side).float() for side in zip(*BOXES, strict=True)))
    crops = resized_crop(images, boxes, size)
    for index, box in enumerate(BOXES):
        expected = vision.resized_crop(images[index], *box, [size, size], InterpolationMode.BILINEAR, antialias=False)
        assert torch.allclose(crops[index], expected, atol=1e-5, rtol=0), box
        top, left, height, width = box
        outside = torch.ones(40, 52, dtype=torch.bool)
        outside[top : top + height, left : left + width] = False
        assert torch.equal(crops[index], resized_crop(images.masked_fill(outside, 9), boxes, size)[index]), box


@pytest.mark.parametrize(("height", "width"), [(48, 48), (24, 96), (96, 24)])
def test_boxes_have_the_distribution_of_torchvision(height: int, width: int) -> None:
    torch.manual_seed(0)
    scale, ratio, count = (0.08, 1.0), (3 / 4, 4 / 3), 3000
    drawn = torch.stack(draw_boxes(torch.empty(count, 1, height, width), scale, ratio))
    canvas = torch.empty(1, height, width)
    draws = [RandomResizedCrop.get_params(canvas, list(scale), list(ratio)) for _ in range(count)]
    expected = torch.tensor(draws).T.float()
    assert torch.equal(drawn, drawn.round())
    assert ((drawn[0] >= 0) & (drawn[1] >= 0) & (drawn[2] >= 1) & (drawn[3] >= 1)).all()
    assert ((drawn[0] + drawn[2] <= height) & (drawn[1] + drawn[3] <= width)).all()
    for measure in (lambda box: box[2] * box[3], lambda box: box[3] / box[2], lambda box: box[0], lambda box: box[1]):
        assert scipy.stats.ks_2samp(measure(drawn).numpy(), measure(expected).numpy()).pvalue > 1e-3
    assert len(drawn.unique(dim=1)[0]) > count / 4, "each image has a separate draw"


def test_boxes_that_never_fit_become_the_largest_box_in_the_middle() -> None:
    for height, width in ((10, 100), (100, 10), (30, 31)):
        (top, left, heights, widths) = draw_boxes(torch.empty(4, 1, height, width), (4.0, 5.0), (3 / 4, 4 / 3))
        expected = RandomResizedCrop.get_params(torch.empty(1, height, width), [4.0, 5.0], [3 / 4, 4 / 3])
        assert (top[0], left[0], heights[0], widths[0]) == expected


def test_crops_of_constant_images_stay_in_range_and_gradients_are_correct() -> None:
    for value in (0.0, 1 / 255, 0.7, 1.0):
        crops = random_resized_crop(torch.full((64, 3, 37, 41), value), 29, (0.08, 1), (3 / 4, 4 / 3))
        assert crops.shape == (64, 3, 29, 29)
        assert torch.allclose(crops, torch.tensor(value), atol=1e-6)
        assert ((crops >= 0) & (crops <= 1)).all()
    images = torch.rand(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    boxes = draw_boxes(images, (0.3, 1), (3 / 4, 4 / 3))
    assert torch.autograd.gradcheck(lambda x: resized_crop(x, boxes, 5), images)


def test_imagenet100_has_the_first_classes_in_the_right_sizes(tmp_path: Path) -> None:
    source = Imagenet100(path=str(tiny_imagenet(tmp_path / "set", [*WORDNET, "n01860187"])), size=16, crop=7)
    data = source.load(tmp_path / "data")
    validate_dataset(source, data)
    assert data.classes == WORDNET
    assert data.train.images.shape == (100, 3, 16, 16)
    assert data.test.images.shape == (100, 3, 7, 7)
    assert data.train.labels.tolist() == data.test.labels.tolist() == list(range(100))
    assert data.names[1] == f"{WORDNET[1]}/{WORDNET[1]}_1"
    assert data.train.images[40, :, 8, 0].tolist() == [255, 0, 0]
    assert data.train.images[40, :, 8, 15].tolist() == [40, 40, 40]
    with Image.open(tmp_path / "set" / "val" / WORDNET[40] / f"{WORDNET[40]}_40.JPEG") as picture:
        centre = vision.center_crop(picture.convert("RGB").resize((8, 8), Image.Resampling.BILINEAR), [7, 7])
    assert np.array_equal(data.test.images[40].permute(1, 2, 0).numpy(), np.asarray(centre))
    torch.manual_seed(0)
    views = source.augment(kit.to_float(data.train.images))
    assert views.shape == (100, 3, 7, 7)
    red_left = (views[:, 0, 0, 0] > views[:, 0, 0, -1]).sum().item()
    red_right = (views[:, 0, 0, 0] < views[:, 0, 0, -1]).sum().item()
    assert min(red_left, red_right) > 15, "half of the images are mirrored"
    assert [finding for finding in check_component("dataset", source) if not finding.kept] == []


def test_imagenet100_is_identified_by_names_and_sizes_and_has_limits(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path / "set", WORDNET[:3])
    source = Imagenet100(path=str(root), size=8, crop=7, classes=3, train_limit=2, test_limit=1)
    data = source.load(tmp_path)
    assert (len(data.train.labels), len(data.test.labels), len(data.classes)) == (2, 1, 3)
    assert canonical_text(source) == "imagenet100@1:size=8,crop=7,classes=3,train_limit=2,test_limit=1"
    before = source.fingerprint(tmp_path)
    assert before == source.fingerprint(tmp_path / "elsewhere")
    Image.new("RGB", (90, 90)).save(next((root / "train" / WORDNET[0]).iterdir()), "PNG")
    assert source.fingerprint(tmp_path) != before


def test_imagenet100_messages_say_what_it_expects(tmp_path: Path) -> None:
    def refused(root: Path, **rest: Any) -> str:
        return load_error(Imagenet100(path=str(root), size=8, crop=8, **rest), tmp_path)

    missing = tmp_path / "missing"
    assert f"{missing / 'train'} is missing; unpack ILSVRC2012_img_train.tar there, into one folder per" in refused(
        missing
    )
    few = tiny_imagenet(tmp_path / "few", WORDNET[:37])
    assert f"{few / 'train'} has 37 class folders, not 100" in refused(few)
    flat = tiny_imagenet(tmp_path / "flat", parts=("train",))
    (flat / "val").mkdir()
    assert f"{flat / 'val'} has 0 class folders, not 100; unpack ILSVRC2012_img_val.tar there" in refused(flat)
    Image.new("RGB", (8, 8)).save(flat / "val" / "ILSVRC2012_val_00000001.JPEG")
    assert f"{flat / 'val'} holds images directly, not in one folder per class" in refused(flat)
    other = tiny_imagenet(tmp_path / "other", [*WORDNET[:99], "n02099601"])
    assert "class 99 in" in refused(other)
    assert "is n02099601, not n01855672: these are not the first 100 classes of ILSVRC2012" in refused(other)
    (few / "val" / WORDNET[1]).rename(few / "val" / "n09999999")
    assert f"{few / 'val'} has no folder {WORDNET[1]}, which train/ has" in refused(few, classes=5)


def photos(root: Path, **files: Callable[[Path], Any]) -> Path:
    """Write two class folders: `else` with one plain picture, and `mine` with the files that the calls write."""
    for name in ("else", "mine"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (5, 5), (9, 9, 9)).save(root / "else" / "plain.png")
    for name, write in files.items():
        write(root / "mine" / name.replace("__", "."))
    return root


def gradient(width: int = 30, height: int = 20) -> Image.Image:
    columns, rows = np.meshgrid(np.arange(width) * 8, np.arange(height) * 12)
    return Image.fromarray(np.stack([columns, rows, np.full_like(columns, 77)], axis=2).astype(np.uint8))


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held vertically
    gradient().save(path, exif=exif, quality=95)


def grey(path: Path) -> None:
    gradient().convert("L").save(path)


def palette(path: Path) -> None:
    image = gradient().quantize(16)
    image.save(path, transparency=image.getpixel((0, 0)))


def clear(path: Path) -> None:
    image = gradient().convert("RGBA")
    image.putalpha(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)))
    image.save(path)


def cmyk(path: Path) -> None:
    gradient().convert("CMYK").save(path, quality=95)


def deep(path: Path) -> None:
    Image.fromarray((np.arange(600).reshape(20, 30) * 109).astype(np.uint16)).save(path)


def truncated(path: Path) -> None:
    gradient(300, 200).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def test_every_kind_of_picture_becomes_upright_8_bit_rgb(tmp_path: Path) -> None:
    kinds = {"a__jpg": rotated, "b__png": grey, "c__png": palette, "d__png": clear, "e__jpg": cmyk, "f__png": deep}
    source = Folder(path=str(photos(tmp_path / "set", **kinds)), size=10)
    data = source.load(tmp_path)
    assert data.names == ["else/plain", "mine/a", "mine/b", "mine/c", "mine/d", "mine/e", "mine/f"]
    assert not data.skipped
    shapes = {name: tuple(source.photo(f"mine/{name}").shape) for name in "abcdef"}
    assert shapes == {
        "a": (3, 30, 20),
        "b": (3, 20, 30),
        "c": (4, 20, 30),
        "d": (4, 20, 30),
        "e": (3, 20, 30),
        "f": (3, 20, 30),
    }
    original = torch.from_numpy(np.array(gradient())).permute(2, 0, 1)
    upright = source.photo("mine/a").int()
    assert (upright - original.transpose(1, 2).flip(2)).abs().max() < 24, "rotated clockwise"
    assert torch.equal(source.photo("mine/d")[:3], original)
    assert source.photo("mine/d")[3, 1, 1] == 31
    assert source.photo("mine/c")[3, 0, 0] == 0
    assert source.photo("mine/c")[3].max() == 255
    assert (source.photo("mine/e").int() - original).abs().max() < 30
    scaled = (np.arange(600).reshape(20, 30) * 109 / 257).round()
    assert np.array_equal(source.photo("mine/f")[0].numpy(), scaled), "scaled, not clipped"


def test_a_resized_photo_equals_the_image_of_the_set(tmp_path: Path) -> None:
    kinds = {"a__jpg": rotated, "b__png": grey, "c__png": palette, "d__png": clear, "e__jpg": cmyk, "f__png": deep}
    source = Folder(path=str(photos(tmp_path / "set", **kinds)), size=10)
    data = source.load(tmp_path)
    for name, image in zip(data.names, data.train.images, strict=True):
        photo = Image.fromarray(source.photo(name)[:3].permute(1, 2, 0).numpy())
        small = np.asarray(photo.resize((10, 10), Image.Resampling.BILINEAR))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), small), name


def test_unreadable_files_are_skipped_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: dict[str, Callable[[Path], Any]] = {
        "a__jpg": rotated,
        "b__jpg": truncated,
        "c__jpg": lambda path: path.write_text("not a picture"),
        "d__png": lambda path: path.touch(),
        "e__png": lambda path: path.symlink_to("missing"),
        "f__tif": lambda path: Image.new("F", (4, 4), 0.5).save(path),
        "g__png": grey,
        "h__HEIC": lambda path: path.touch(),
        "Thumbs__db": lambda path: path.touch(),
    }
    root = photos(tmp_path / "set", **kinds)
    (root / "mine" / "more.png").mkdir()
    (root / "loose.jpg").touch()
    for hidden in (".hidden.jpg", "._a.jpg"):
        (root / "mine" / hidden).touch()
    (root / ".thumbnails").mkdir()
    source = Folder(path=str(root), size=6)
    data = source.load(tmp_path)
    assert data.names == ["else/plain", "mine/a", "mine/g"]
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.test.images.shape == (0, 3, 6, 6)
    assert data.test.labels.dtype == torch.int64
    photo = Image.fromarray(source.photo("mine/g").permute(1, 2, 0).numpy()).resize((6, 6), Image.Resampling.BILINEAR)
    assert np.array_equal(data.train.images[2].permute(1, 2, 0).numpy(), np.asarray(photo)), (
        "no gap is left by skipped files"
    )
    mine = root / "mine"
    assert [line for line in data.skipped if "b.jpg" not in line] == [
        f"{mine / 'c.jpg'}: not a picture",
        f"{mine / 'd.png'}: not a picture",
        f"{mine / 'e.png'}: No such file or directory",
        f"{mine / 'f.tif'}: 32-bit pixels have no agreed range; save it with 8 or 16 bits",
        f"{root / 'loose.jpg'}: is not in a class folder",
        f"{mine / 'h.HEIC'}: .heic is not read; convert it to .jpg or .png",
        f"{mine / 'more.png'}: folders within a class are not read",
    ]
    assert any(f"{mine / 'b.jpg'}: image file is truncated" in line for line in data.skipped)
    assert len(source.fingerprint(tmp_path)) == 64
    with pytest.raises(UserError, match=r"cannot read .*b.jpg: image file is truncated"):
        source.photo("mine/b")
    with pytest.raises(UserError, match="holds no image called mine/x"):
        source.photo("mine/x")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert "nothing in" in (message := load_error(source, tmp_path))
    assert "a.jpg: Image size (600 pixels) exceeds limit of 400 pixels, could be decompression bomb" in message


def test_a_class_without_a_readable_picture_is_refused(tmp_path: Path) -> None:
    root = photos(tmp_path / "set", b__jpg=truncated)
    message = load_error(Folder(path=str(root), size=6), tmp_path)
    assert message.startswith(f"dataset folder: nothing in {root / 'mine'} can be read; b.jpg: image file is truncated")
    assert len(Folder(path=str(root), size=6, train_limit=1).load(tmp_path).train.labels) == 1


def test_names_are_unique_and_define_the_order(tmp_path: Path) -> None:
    files = ["z.png", "a.png", "a.jpg", "10.png", "9.png", "a.png.jpg", "été à la mer (1).png", "B.png"]
    root = photos(tmp_path / "set", **{name.replace(".", "__"): gradient().save for name in files})
    source = Folder(path=str(root), size=6)
    data = source.load(tmp_path)
    stems = ["10", "9", "B", "a.jpg", "a.png", "a.png.jpg", "z", "été à la mer (1)"]
    assert data.names == ["else/plain", *(f"mine/{stem}" for stem in stems)]
    assert all(source.photo(name) is not None for name in data.names)
    (root / "mine" / "B.png").rename(root / "mine" / "C.png")
    assert source.photo("mine/C").shape == (3, 20, 30)
    reloaded = source.load(tmp_path)
    assert torch.equal(reloaded.train.images, source.load(tmp_path).train.images)


def test_a_folder_with_both_parts_keeps_its_identity(tmp_path: Path) -> None:
    digest = hashlib.sha256()
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            path = tmp_path / "set" / part / name / "ü 1.png"
            Image.new("RGB", (4, 4), (label, 2, 3)).save(path)
            digest.update(f"{part}/{name}/ü 1.png/".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    source = Folder(path=str(tmp_path / "set"))
    assert source.fingerprint(tmp_path) == digest.hexdigest()
    assert canonical_text(source) == "folder@1:size=32,train_limit=0,test_limit=0,pad=4,flip=true"
    assert source.load(tmp_path / "data").names == ["cat/ü 1", "dog/ü 1"]
    assert source.photo("dog/ü 1")[:, 0, 0].tolist() == [1, 2, 3]
    assert list((tmp_path / "data").iterdir()) == [], "the temporary file has no name"


def test_messages_explain_wrong_folder_layouts(tmp_path: Path) -> None:
    def refused(root: Path) -> str:
        return load_error(Folder(path=str(root)), tmp_path)

    assert (
        refused(tmp_path / "no") == f"dataset folder: {tmp_path / 'no' / 'train'} is missing or has no folder per class"
    )
    loose = tmp_path / "loose"
    loose.mkdir()
    gradient().save(loose / "a.png")
    assert refused(loose) == f"dataset folder: the pictures in {loose} must be in one folder per class"
    half = tmp_path / "half"
    photos(half / "train", a__png=gradient().save)
    assert refused(half) == f"dataset folder: {half / 'test'} is missing or has no folder per class"
    photos(half / "test", a__png=gradient().save)
    assert Folder(path=str(half)).load(tmp_path).classes == ["else", "mine"]
    (half / "train").rename(half / "training")
    assert refused(half) == f"dataset folder: {half / 'train'} is missing or has no folder per class"
    assert f"class {photos(tmp_path / 'empty') / 'mine'} holds no image; known extensions are .jpg" in refused(
        tmp_path / "empty"
    )


def test_a_set_with_one_class_is_read(tmp_path: Path) -> None:
    (tmp_path / "set" / "me").mkdir(parents=True)
    gradient().save(tmp_path / "set" / "me" / "a.png")
    assert Folder(path=str(tmp_path / "set")).load(tmp_path).classes == ["me"]


def test_a_full_disk_gives_a_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_folder, "_reserve", full)
    message = load_error(Folder(path=str(photos(tmp_path / "set", a__png=grey)), size=100), tmp_path / "data")
    assert message == f"dataset folder: no room for 0.0 GB of images in {tmp_path / 'data'}: No space left on device"
