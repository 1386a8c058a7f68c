"""The fourteen operations of RandAugment on batches in which each image has an operation and a strength of its own.

The results are those of torchvision's functions. These take one operation and one strength for a whole batch, and some
of them make the host wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from uebench import UserError

SHEAR, SHIFT, TURN = 0.3, 150 / 331, 30.0
"""The strongest shear (a tangent), shift (a share of the side) and turn (degrees): Cubuk et al., and torchvision."""
BLEND, BITS = 0.9, 4
"""How far the factors of brightness, colour, contrast and sharpness go from 1, and the bits that posterising takes."""
RED, GREEN, BLUE = 0.2989, 0.587, 0.114
"""The share of each channel in the grey of a pixel: torchvision, after ITU-R 601."""
BLUR = 9 / 13
"""The share of the mean of 3x3 pixels in a blurred pixel; the rest is the pixel itself: torchvision, after Pillow."""
TRUNCATED = 255.999
"""What torchvision multiplies floats by before it drops the fraction, to equalise in 8 bits."""


def apply(images: torch.Tensor, choice: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Apply to each image an operation: images (b, c, h, w) in [0, 1] on any device, what is drawn on the host.

    `choice` (b,) counts in `OPERATIONS`; `strength` (b,) in [-1, 1] has the direction for its sign, where an operation
    has one. Raises `UserError` where images have channels that the operations do not know.
    """
    if images.shape[1] not in (1, 3):
        raise UserError(f"images must have 1 or 3 channels to be augmented by operations, not {images.shape[1]}")
    order = choice.argsort()
    counts = torch.bincount(choice, minlength=len(OPERATIONS)).tolist()
    # The host works out what depends on the draws alone, and sends it in two pieces, without a wait for the device.
    numbers = _numbers(strength[order].double(), counts, *images.shape[-2:])
    numbers = numbers.to(images.dtype).to(images.device, non_blocking=True)
    to_sorted, to_drawn = torch.stack((order, order.argsort())).to(images.device, non_blocking=True)
    batch = images.index_select(0, to_sorted)
    drawn = dict(zip(OPERATIONS, counts, strict=True))
    sizes = [sum(drawn[name] for name in names) for names in GROUPS]
    parts, values = torch.split(batch, sizes), torch.split(numbers, sizes)
    for change, part, value in zip(GROUPS.values(), parts, values, strict=True):
        if len(part):
            change(part, value)
    return batch.clamp_(0, 1).index_select(0, to_drawn)


def _numbers(strength: torch.Tensor, counts: list[int], height: int, width: int) -> torch.Tensor:
    """Return the numbers (b, 6, 1, 1, 1) that each image is changed by; strengths (b,) are sorted by operation.

    A geometric operation has a matrix (2, 3), which takes a pixel of the result to its source. Its coordinates are
    those of `grid_sample`: -1 and 1 at the borders. Other operations have one number or two.
    """
    numbers = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=strength.dtype).repeat(len(strength), 1)
    rows = dict(zip(OPERATIONS, torch.split(numbers, counts), strict=True))
    strengths = dict(zip(OPERATIONS, torch.split(strength, counts), strict=True))
    # a shear leaves the upper left corner where it is, a shift is by whole pixels, a turn is about the middle
    rows["shear-x"][:, 1:3] = (SHEAR * height / width * strengths["shear-x"])[:, None]
    rows["shear-y"][:, 3::2] = (SHEAR * width / height * strengths["shear-y"])[:, None]
    rows["shift-x"][:, 2] = -(SHIFT * width * strengths["shift-x"]).trunc() * 2 / width
    rows["shift-y"][:, 5] = -(SHIFT * height * strengths["shift-y"]).trunc() * 2 / height
    angle = torch.deg2rad(TURN * strengths["turn"])
    rows["turn"][:, 0] = rows["turn"][:, 4] = angle.cos()
    rows["turn"][:, 1], rows["turn"][:, 3] = -angle.sin() * height / width, angle.sin() * width / height
    rows["brightness"][:, 0] = 1 + BLEND * strengths["brightness"]
    for name in ("colour", "contrast"):
        rows[name][:, 0], rows[name][:, 1] = -BLEND * strengths[name], name == "contrast"
    rows["sharpness"][:, 0] = -BLEND * BLUR * strengths["sharpness"]
    step = 2 ** (BITS * strengths["posterise"].abs()).round()
    rows["posterise"][:, 0], rows["posterise"][:, 1] = step, step / 255
    rows["solarise"][:, 0] = 1 - strengths["solarise"].abs()
    return numbers[..., None, None, None]


def _keep(images: torch.Tensor, numbers: torch.Tensor) -> None:
    """Do nothing."""


def _warp(images: torch.Tensor, numbers: torch.Tensor) -> None:
    """Take each pixel from the nearest to its source, and black from beyond the border."""
    height, width = images.shape[-2:]
    y = torch.linspace(1 / height - 1, 1 - 1 / height, height, dtype=images.dtype, device=images.device)[:, None]
    x = torch.linspace(1 / width - 1, 1 - 1 / width, width, dtype=images.dtype, device=images.device)
    by_x, by_y, shift = numbers.view(-1, 2, 3, 1, 1).transpose(0, 2)
    sources = torch.addcmul(torch.addcmul(shift, by_y, y), by_x, x).movedim(0, -1)
    images.copy_(torch.nn.functional.grid_sample(images, sources, mode="nearest", align_corners=False))


def _brighten(images: torch.Tensor, numbers: torch.Tensor) -> None:
    """Go towards black, or away from it."""
    images.mul_(numbers[:, 0])


def _blend_with_grey(images: torch.Tensor, numbers: torch.Tensor) -> None:
    """Go towards the grey of each pixel, or away from it; for contrast, the mean grey of the image."""
    grey = images
    if images.shape[1] == 3:
        red, green, blue = torch.split(images, 1, 1)
        grey = (RED * red).add_(green, alpha=GREEN).add_(blue, alpha=BLUE)
    mean = grey.mean((1, 2, 3), keepdim=True)
    images.lerp_(torch.lerp(grey, mean, numbers[:, 1]), numbers[:, 0])


def _sharpen(images: torch.Tensor, numbers: torch.Tensor) -> None:
    """Go towards the blurred image, or away from it; the outermost pixels stay as they are.

    The mean is not a convolution, for which cuDNN would try its kernels anew at each number of images.
    """
    if min(images.shape[-2:]) > 2:
        images[..., 1:-1, 1:-1].lerp_(torch.nn.functional.avg_pool2d(images, 3, 1), numbers[:, 0])


def _posterise(images: torch.Tensor, numbers: torch.Tensor) -> None:
    """Drop the lowest bits of eight."""
    images.mul_(255).round_().div_(numbers[:, 0], rounding_mode="floor").mul_(numbers[:, 1])


def _solarise(images: torch.Tensor, numbers: torch.Tensor) -> None:
    """Invert values from a threshold on."""
    images.copy_(torch.where(images >= numbers[:, 0], 1 - images, images))


def _stretch(images: torch.Tensor, numbers: torch.Tensor) -> None:
    """Take the lowest value of each channel to 0 and the highest to 1; a channel of one value stays as it is."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span, flat = high - low, high == low
    images.sub_(low.masked_fill_(flat, 0)).div_(span.masked_fill_(flat, 1))


def _equalise(images: torch.Tensor, numbers: torch.Tensor) -> None:
    """Make the histogram of each channel even, in 8 bits, as Pillow does; with a step of 0 the channel stays."""
    values = (images * TRUNCATED).long().flatten(2)
    darker = torch.zeros(*images.shape[:2], 257, dtype=torch.int32, device=images.device)
    darker[..., 1:].scatter_add_(2, values, darker.new_ones(()).expand_as(values))
    darker = darker.cumsum(2, dtype=torch.int32)[..., :-1]  # how many pixels are darker than each of the 256 values
    step = darker.gather(2, values.amax(2, keepdim=True)) // 255
    table = ((darker + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, dtype=torch.int32, device=images.device))
    images.copy_((table / 255).gather(2, values).view_as(images))


GROUPS: dict[tuple[str, ...], Callable[[torch.Tensor, torch.Tensor], None]] = {
    ("identity",): _keep,
    ("shear-x", "shear-y", "shift-x", "shift-y", "turn"): _warp,
    ("brightness",): _brighten,
    ("colour", "contrast"): _blend_with_grey,
    ("sharpness",): _sharpen,
    ("posterise",): _posterise,
    ("solarise",): _solarise,
    ("autocontrast",): _stretch,
    ("equalise",): _equalise,
}
"""Operations that are done together, and the function that changes their images in place, given their numbers."""
OPERATIONS = tuple(name for names in GROUPS for name in names)
