"""Pictures of a noise: each pixel of the sheet recomputed from the images that it shows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from uebench.jobs.gallery import GAP, SHEET_COLUMNS, SIDE, make_sheet


def before_and_after(count: int, shape: tuple[int, int, int], most: int = 8) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    clean = torch.randint(20, 230, (count, *shape), generator=draw)
    noise = torch.randint(-most, most + 1, clean.shape, generator=draw)
    noise[:, 0, 0, 0] = -most  # so that the largest noise of any choice of images is known
    return clean.to(torch.uint8), (clean + noise).to(torch.uint8)


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        return np.asarray(image)


def tile(array: np.ndarray[Any, Any], row: int, column: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """Return a tile of the sheet as (3, height, width), and check its margin."""
    whole = array[row * (height + GAP) : (row + 1) * (height + GAP), column * (width + GAP) :][:, : width + GAP]
    assert (whole[height:] == 255).all()
    assert (whole[:, width:] == 255).all()
    return whole[:height, :width].transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("shape", "scale"),
    [((3, 8, 8), 8), ((1, 8, 8), 8), ((3, 20, 31), 2), ((3, 64, 64), 1), ((3, 65, 40), 1), ((3, 90, 100), 1)],
    ids=["small", "grey", "oblong", "full", "just-larger", "large"],
)
@pytest.mark.parametrize("most", [1, 8, 16])
def test_the_three_rows_are_clean_protected_and_amplified(shape: tuple[int, int, int], scale: int, most: int) -> None:
    clean, released = before_and_after(9, shape, most)
    labels = torch.tensor([2, 0, 2, 1, 0, 1, 2, 0, 1])
    array = pixels(make_sheet(clean, released, labels))
    height, width = (side * scale for side in shape[1:])
    assert max(height, width) <= max(SIDE, *shape)
    assert array.shape == (3 * (height + GAP), 3 * (width + GAP), 3)
    for column, place in enumerate((1, 3, 0)):  # the first image of each class, in label order
        x, z = (images[place].expand(3, -1, -1).numpy().astype(int) for images in (clean, released))
        noise = np.rint(128 + (z - x) * 127 / most)
        for row, expected in enumerate((x, z, noise)):
            shown = tile(array, row, column, height, width)
            assert (shown == expected.repeat(scale, 1).repeat(scale, 2)).all()
    assert int(tile(array, 2, 0, height, width).min()) == 1, "the largest noise fills the range"


def test_of_many_classes_the_first_ten_are_shown_in_order() -> None:
    clean, released = before_and_after(40, (3, 32, 32))
    labels = torch.arange(40).flip(0) % 20 + 3
    array = pixels(make_sheet(clean, released, labels))
    assert array.shape == (3 * (64 + GAP), SHEET_COLUMNS * (64 + GAP), 3)
    for column in range(SHEET_COLUMNS):
        place = labels.tolist().index(column + 3)
        assert (tile(array, 0, column, 64, 64)[:, ::2, ::2] == clean[place].numpy()).all()


def test_no_noise_is_grey() -> None:
    clean, _ = before_and_after(4, (3, 16, 16))
    array = pixels(make_sheet(clean, clean, torch.tensor([0, 1, 1, 0])))
    assert (tile(array, 0, 1, 64, 64) == tile(array, 1, 1, 64, 64)).all()
    assert (tile(array, 2, 0, 64, 64) == 128).all()


@pytest.mark.parametrize(("channels", "shown"), [(2, [0, 0, 0]), (4, [0, 1, 2])])
def test_images_of_other_channels_are_shown_by_the_first(channels: int, shown: list[int]) -> None:
    """A picture that cannot be made must not cost the noise that took hours."""
    clean, released = before_and_after(2, (channels, 64, 64))
    array = pixels(make_sheet(clean, released, torch.tensor([0, 1])))
    assert (tile(array, 1, 0, 64, 64) == released[0, shown].numpy()).all()


def test_the_same_images_give_the_same_bytes_and_stay_as_they_are() -> None:
    clean, released = before_and_after(6, (3, 8, 8))
    copies, labels = (clean.clone(), released.clone()), torch.arange(6)
    assert make_sheet(clean, released, labels) == make_sheet(*copies, labels.clone())
    assert torch.equal(clean, copies[0])
    assert torch.equal(released, copies[1])
    assert make_sheet(clean, released, labels) != make_sheet(clean, clean, labels)
