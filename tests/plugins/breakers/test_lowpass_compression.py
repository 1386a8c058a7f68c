"""Low-pass filters and compressions, compared with OpenCV and Pillow, and the rules for all filters."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from uebench import Breaker, UserError, kit
from uebench.authoring.check import check_component
from uebench.components.registry import Registry
from uebench.jobs import training_set
from uebench.jobs.training_set import apply_filters
from uebench_plugins.breakers import compression, lowpass
from uebench_plugins.breakers.adv_linf import AdvLinf
from uebench_plugins.breakers.compression import BitDepth, Grayscale, Jpeg
from uebench_plugins.breakers.lowpass import Bilateral, Gaussian, Mean, Median

LOWPASS: list[Callable[..., Breaker]] = [Mean, Gaussian, Median, Bilateral]
EVERY: list[Breaker] = [
    *(make() for make in LOWPASS),
    *(make(size=5) for make in LOWPASS),
    Grayscale(),
    Jpeg(),
    Jpeg(quality=75),
    BitDepth(),
]
LABELS = torch.empty(0)  # these filters do not use the labels
NAMES = [f"{breaker.name}-{index}" for index, breaker in enumerate(EVERY)]


def sample(*shape: int) -> Tensor:
    """Return random uint8 images, which depend only on the shape; one half is dark and smooth."""
    generator = torch.Generator().manual_seed(sum(shape))
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    images[..., : shape[-1] // 2] //= 16
    return images


def filter_images(breaker: Breaker, images: Tensor) -> Tensor:
    """Return uint8 images after the filter, as the engine applies it."""
    return filter_with_chain((breaker,), images)


def filter_with_chain(chain: tuple[Breaker, ...], images: Tensor) -> Tensor:
    return apply_filters(chain, images, torch.zeros(len(images), dtype=torch.int64), 0)


# A 6x5 image of three channels, and the results of OpenCV 4.5.5 and 5.0, which are equal, in order (c, h, w):
# cv2.blur(b, (s, s)), cv2.GaussianBlur(b, (s, s), 0), cv2.medianBlur(b, s), cv2.bilateralFilter(b, d, colour, space).
IMAGE = [
    [
        [0, 37, 148, 77, 80],
        [53, 181, 127, 147, 241],
        [106, 250, 250, 217, 146],
        [159, 250, 250, 31, 51],
        [212, 101, 64, 101, 212],
        [9, 245, 43, 171, 117],
    ],
    [
        [149, 79, 83, 161, 57],
        [202, 223, 62, 231, 218],
        [255, 3, 3, 45, 123],
        [52, 3, 3, 115, 28],
        [105, 143, 255, 185, 189],
        [158, 31, 234, 255, 94],
    ],
    [
        [42, 121, 18, 245, 34],
        [95, 9, 253, 59, 195],
        [148, 128, 128, 129, 100],
        [201, 128, 128, 199, 5],
        [254, 185, 190, 13, 166],
        [51, 73, 169, 83, 71],
    ],
]
OPENCV: dict[str, tuple[Breaker, str]] = {
    "blur 3": (
        Mean(),
        "64658294917a809f9f96bbb5bda288bbb6a8937baf948c746e93756e798f"
        "b28f9793c18776636d8d6b5a4c5c804f5b5469724a6d88979e6f9fbbcdbf"
        "396372928059697981856c87818577a5a688766a8e9982725ca1ac7a7645",
    ),
    "blur 5": (
        Mean(size=5),
        "9d9997abab9f948e98989a8f8c8d8ea2a0959a8f9d9b9390859f968a7d72"
        "667a8274685e7579766963707776746c7781838971727e8394696d758496"
        "736d767a897572777b8b85827f7b818d7e7e74829d8e8673789f93877579",
    ),
    "GaussianBlur 3": (
        Gaussian(),
        "44607c83886c879f9fa2a9c6cea896bac5b37f69a19679727d8e80687b96"
        "a38a7b97a7a7826587a17d51335a744d414761685d71a0aa9b6d8ac7cfb5"
        "43547a8b85516281877f7b7e888173ac9d8d7966a6a18c6a5a8d94866353",
    ),
    "GaussianBlur 5": (
        Gaussian(size=5),
        "66738891937f8b9b9c99aab1b2a094b5b3a58c7f9f98877c7b9188797a80"
        "95887d8c99897a6d7d8b6a5c52647157565d6d7564728d9b9b7185a8b5b2"
        "525f7884855f697b83827e80847f7a9a9689786f9f99876f649a96856b5e",
    ),
    "medianBlur 3": (
        Median(),
        "25357f7f50357f9493929fb5d993929fd4d992929f9f6565756540657575"
        "95535353a1ca534f537bca342d3e7b69342d737b69698fb9738f9eeaeab9"
        "2a2a793b3b5f798080648080808064b994808064b9a980804749a9535347",
    ),
    "medianBlur 5": (
        Median(size=5),
        "354d507f7f6a6a7f927f7f7f9292927f939393926a9f9292754065757575"
        "9595534f539573534f3e697373737b8f8f7b7b7b8f8f735e739e9e8f5e5e"
        "2a5f64643b79807979648080808080948080808094808064648053535347",
    ),
    "bilateralFilter 9 75 75": (
        Bilateral(),
        "14308c4a5141a68398e856f4f6ea8b9bf7f63141c15e456bca2cf53c9e7e"
        "925f5f8a3cc7dd45dfd4f00c09178340080a81296196efbbb6aa0de4ee75"
        "368220e81f6419f532bb9b7c7e805acb7b7bc20cf0b5b516aa3c75ae4e54",
    ),
    "bilateralFilter 3 30 2": (
        Bilateral(size=3, sigma_colour=30 / 255, sigma_space=2),
        "0025944d5035b57f93f16afafada929ffafa1f33d4653e65d409f52eab75"
        "954f53a139cadf3ee7daff03042c7b340303731c698ffdb9bd9e1fedff5e"
        "2a7912f5225f09fd3bc39480808164c98080c705feb9bc0da63349ac5347",
    ),
}


@pytest.mark.parametrize("function", OPENCV)
def test_filters_equal_opencv(function: str) -> None:
    breaker, expected = OPENCV[function]
    filtered = filter_images(breaker, torch.tensor([IMAGE], dtype=torch.uint8))
    assert torch.equal(filtered.flatten(), torch.tensor(list(bytes.fromhex(expected)), dtype=torch.uint8))


@pytest.mark.parametrize(
    ("size", "row"),
    [  # first half of the middle row of cv2.GaussianBlur(z, (size, size), 0); z is 0 except for one pixel of 255
        (3, [0, 0, 0, 0, 0, 0, 0, 32, 64]),
        (5, [0, 0, 0, 0, 0, 0, 6, 24, 36]),
        (7, [0, 0, 0, 0, 0, 2, 8, 16, 20]),
        (9, [0, 0, 0, 0, 1, 3, 7, 12, 14]),
        (11, [0, 0, 0, 0, 1, 3, 6, 9, 11]),
        (15, [0, 0, 0, 1, 2, 3, 5, 6, 6]),
    ],
)
def test_gaussian_kernels_equal_opencv_for_sigma_zero(size: int, row: list[int]) -> None:
    point = torch.zeros(1, 1, 17, 17, dtype=torch.uint8)
    point[..., 8, 8] = 255
    assert filter_images(Gaussian(size=size), point)[0, 0, 8].tolist() == [*row, *row[-2::-1]]


def test_a_gaussian_mean_of_one_half_is_rounded_up() -> None:
    point = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    point[..., 4, 4] = 4  # the mean beside it is 4/8 = 0.5; rounding half to even would give 0
    expected = torch.zeros_like(point)
    expected[..., 4, 3:6] = expected[..., 3:6, 4] = 1
    assert torch.equal(filter_images(Gaussian(), point), expected)


def test_borders_mirror_without_the_edge_except_for_the_median_which_repeats_it() -> None:
    rows = torch.tensor([90, 0, 0, 0, 0, 0, 0, 90], dtype=torch.uint8).view(1, 1, 8, 1).expand(1, 3, 8, 8)
    assert filter_images(Mean(), rows)[0, 0, :, 3].tolist() == [30, 30, 0, 0, 0, 0, 30, 30]
    assert filter_images(Gaussian(), rows)[0, 0, :, 3].tolist() == [45, 23, 0, 0, 0, 0, 23, 45]
    assert filter_images(Median(), rows)[0, 0, :, 3].tolist() == [90, 0, 0, 0, 0, 0, 0, 90]


@pytest.mark.parametrize("size", [3, 5, 7, 17])
def test_median_is_computed_for_each_channel(size: int) -> None:
    images = sample(3, 3, 20, 18)
    radius = size // 2
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (radius, radius), (radius, radius)), "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    assert np.array_equal(filter_images(Median(size=size), images).numpy(), np.median(windows, (-2, -1)))


@pytest.mark.parametrize("size", [3, 9, 15])
def test_mean_is_exact(size: int) -> None:
    images = sample(2, 1, 15, 21)
    radius = size // 2
    padded = np.pad(images.numpy().astype(int), ((0, 0), (0, 0), (radius, radius), (radius, radius)), "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    assert np.array_equal(filter_images(Mean(size=size), images).numpy(), np.rint(windows.mean((-2, -1))))


def test_bilateral_keeps_an_edge_that_the_gaussian_blurs() -> None:
    images = torch.full((1, 3, 16, 16), 10, dtype=torch.uint8)
    images[..., 8:] = 240
    assert torch.equal(filter_images(Bilateral(), images), images)
    assert not torch.equal(filter_images(Gaussian(size=9), images), images)


@pytest.mark.parametrize(
    "breaker", [*(make(size=1) for make in LOWPASS), BitDepth(bits=8)], ids=lambda breaker: breaker.name
)
def test_size_one_and_eight_bits_change_nothing(breaker: Breaker) -> None:
    images = sample(4, 3, 9, 12)
    assert torch.equal(filter_images(breaker, images), images)
    assert torch.equal(breaker.filter(kit.to_float(images), LABELS), kit.to_float(images))


@pytest.mark.parametrize(
    "breaker", [make(size=size) for make in LOWPASS for size in (3, 7)], ids=lambda breaker: breaker.name
)
def test_a_constant_image_stays(breaker: Breaker) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(256, 3, 8, 8)
    assert torch.equal(filter_images(breaker, images), images)


def test_grayscale_equals_pillows() -> None:
    steps = torch.tensor([*range(0, 256, 5), 1, 127, 128, 254], dtype=torch.uint8)
    colours = torch.cartesian_prod(steps, steps, steps).T.reshape(1, 3, -1, len(steps))
    picture = Image.fromarray(colours[0].movedim(0, -1).contiguous().numpy())
    grey = filter_images(Grayscale(), colours)
    assert np.array_equal(grey[0, 0].numpy(), np.asarray(picture.convert("L")))
    assert torch.equal(grey, grey[:, :1].expand_as(grey)), "three equal channels"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [1, 10, 75, 100])
def test_jpeg_equals_pillows(quality: int, channels: int) -> None:
    images = sample(3, channels, 13, 18)
    decoded = filter_images(Jpeg(quality=quality), images)
    for image, result in zip(images, decoded, strict=True):
        file = io.BytesIO()
        Image.fromarray(image.movedim(0, -1).squeeze(-1).numpy()).save(file, "JPEG", quality=quality)
        assert np.array_equal(np.asarray(Image.open(file)), result.movedim(0, -1).squeeze(-1).numpy())
    assert not torch.equal(decoded, images)


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_depth_equals_pillows_posterize(bits: int) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = np.asarray(ImageOps.posterize(Image.fromarray(images[0, 0].numpy()), bits))
    posterised = filter_images(BitDepth(bits=bits), images)
    assert np.array_equal(posterised[0, 0].numpy(), expected)
    assert len(posterised.unique()) == 2**bits


@pytest.mark.parametrize("breaker", EVERY, ids=NAMES)
def test_filtering_in_parts_gives_the_same_images(breaker: Breaker) -> None:
    assert breaker.by_image
    images = kit.to_float(sample(11, 3, 10, 8))
    whole = breaker.filter(images, LABELS)
    assert whole.dtype == torch.float32
    assert bool(((whole >= 0) & (whole <= 1)).all()), "in range, so none is NaN"
    assert torch.equal(whole, kit.to_float(kit.to_bytes(whole))), "whole steps of 1/255"
    for size in (1, 4, 11):
        assert torch.equal(torch.cat([breaker.filter(part, LABELS) for part in images.split(size)]), whole)
    assert breaker.filter(images[:0], LABELS).shape == images[:0].shape


@pytest.mark.parametrize("breaker", EVERY, ids=NAMES)
def test_filters_keep_the_contract(breaker: Breaker) -> None:
    findings = check_component("breaker", breaker)
    assert [finding for finding in findings if not finding.kept] == []
    assert "filter keeps shape and type" in [finding.rule for finding in findings]


@pytest.mark.parametrize("breaker", EVERY, ids=NAMES)
def test_grey_data_sets_are_filtered(breaker: Breaker) -> None:
    images = sample(2, 1, 8, 8)
    colours = filter_images(breaker, images.expand(-1, 3, -1, -1))
    if isinstance(breaker, Bilateral):  # three channels count three times
        assert filter_images(breaker, images).shape == images.shape
    elif isinstance(breaker, Jpeg):  # the conversion to YCbCr may round differently
        assert (filter_images(breaker, images).int() - colours[:, :1].int()).abs().max() <= 1
    else:
        assert torch.equal(filter_images(breaker, images), colours[:, :1])


class Dim(Breaker):
    """Reduces the brightness by a tenth, which gives values between the steps of 1/255."""

    name = "dim"

    def filter(self, images: Tensor, labels: Tensor) -> Tensor:
        return images * 0.9


def test_a_chain_filters_in_order_and_rounds_after_each_filter() -> None:
    images = sample(4, 3, 12, 12)
    median, mean, attack = Median(), Mean(), AdvLinf()
    assert torch.equal(
        filter_with_chain((median, attack, mean), images), filter_images(mean, filter_images(median, images))
    )
    assert torch.equal(filter_with_chain((median, attack), images), filter_images(median, images))
    assert not torch.equal(filter_with_chain((median, mean), images), filter_with_chain((mean, median), images))
    rounded = kit.to_bytes(kit.to_float(images) * 0.9)
    assert torch.equal(filter_with_chain((Dim(), mean), images), filter_images(mean, rounded))


class ByLabel(Breaker):
    """Gives each image the brightness of its label, and then overwrites its copy of the labels."""

    name = "by-label"

    def filter(self, images: Tensor, labels: Tensor) -> Tensor:
        result = torch.zeros_like(images) + labels[:, None, None, None] / 255
        labels.zero_()
        return result


class ByLabelInParts(ByLabel):
    """The same filter, applied image by image."""

    name = "by-label-in-parts"
    by_image = True


@pytest.mark.parametrize("breaker", [ByLabel(), ByLabelInParts()], ids=lambda breaker: breaker.name)
def test_a_filter_gets_a_copy_of_the_labels_of_its_images(breaker: Breaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_set, "split_into_chunks", lambda count, size: [slice(0, 3), slice(3, count)])
    images, labels = sample(5, 3, 4, 4), torch.tensor([4, 0, 2, 7, 1])
    filtered = apply_filters((breaker, breaker), images, labels, 0)
    assert filtered[:, 0, 0, 0].tolist() == labels.tolist() == [4, 0, 2, 7, 1]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Mean(size=4), "lowpass-mean: size must be odd, not 4"),
        (lambda: Median(size=2), "lowpass-median: size must be odd, not 2"),
        (lambda: Bilateral(size=8), "lowpass-bilateral: size must be odd, not 8"),
        (lambda: Gaussian(size=0), "lowpass-gaussian: size must be at least 1, not 0"),
        (lambda: Mean(size=-3), "lowpass-mean: size must be at least 1, not -3"),
        (lambda: Bilateral(sigma_colour=0), "lowpass-bilateral: sigma_colour must be at least 1e-06, not 0"),
        (lambda: Bilateral(sigma_space=-1), "lowpass-bilateral: sigma_space must be at least 1e-06, not -1"),
        (lambda: Jpeg(quality=0), "jpeg: quality must be at least 1, not 0"),
        (lambda: Jpeg(quality=101), "jpeg: quality must be at most 100, not 101"),
        (lambda: BitDepth(bits=0), "bitdepth: bits must be at least 1, not 0"),
        (lambda: BitDepth(bits=9), "bitdepth: bits must be at most 8, not 9"),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("breaker", "shape", "expected"),
    [
        (Mean(size=9), (1, 3, 8, 10), "lowpass-mean: size must be at most 8 on images of 8x10, not 9"),
        (Median(size=11), (1, 1, 12, 10), "lowpass-median: size must be at most 10 on images of 12x10, not 11"),
        (Bilateral(), (1, 3, 4, 8), "lowpass-bilateral: size must be at most 7 on images of 4x8, not 9"),
        (Grayscale(), (1, 4, 8, 8), "grayscale: images must have 1 or 3 channels, not 4"),
        (Jpeg(), (1, 2, 8, 8), "jpeg: images must have 1 or 3 channels, not 2"),
    ],
)
def test_unsuitable_images_are_refused(breaker: Breaker, shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(UserError) as error:
        filter_images(breaker, sample(*shape))
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lowpass-mean:size=3.5", "size must be a whole number, not '3.5'"),
        ("lowpass-gauss", "unknown breaker 'lowpass-gauss'; did you mean lowpass-gaussian?"),
        ("lowpass-gaussian:sigma=1", "breaker lowpass-gaussian has no parameter 'sigma'"),
        ("jpeg:quality=low", "quality must be a whole number, not 'low'"),
        ("jpeg:qualty=5", "breaker jpeg has no parameter 'qualty'; did you mean quality?"),
        ("bitdepth:bits=nan", "bits must be a whole number, not 'nan'"),
    ],
)
def test_both_modules_register_and_errors_name_the_parameter(text: str, expected: str) -> None:
    registry = Registry()
    for module in (lowpass, compression):
        registry.load(EntryPoint(module.__name__.rpartition(".")[2], module.__name__, "uebench"))
    assert not registry.problems
    assert len(registry.entries["breaker"]) == 7
    with pytest.raises(UserError) as error:
        registry.build("breaker", text)
    assert expected in str(error.value)
