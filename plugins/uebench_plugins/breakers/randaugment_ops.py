"""The fourteen operations of RandAugment, on batches with a separate operation and strength for each image.

The results are those of torchvision's functions. These apply one operation with one strength to a whole batch, and
some of them make the host wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from uebench import UserError

MAX_SHEAR, MAX_SHIFT, MAX_ANGLE = 0.3, 150 / 331, 30.0
"""The largest shear (a tangent), shift (a share of the side) and rotation (degrees): Cubuk et al., and torchvision."""
MAX_CHANGE, MAX_BITS = 0.9, 4
"""The largest change of a factor (brightness, colour, contrast, sharpness) from 1, and of bits that posterise drops."""
RED, GREEN, BLUE = 0.2989, 0.587, 0.114
"""Weight of each channel in the grey value of a pixel: torchvision, after ITU-R 601."""
BLUR = 9 / 13
"""Weight of the mean of 3x3 pixels in a blurred pixel; the rest is the pixel itself: torchvision, after Pillow."""
BYTE_SCALE = 255.999
"""Factor from floats in [0, 1] to 8 bits, before truncation: torchvision, to equalise."""


def apply_operations(images: torch.Tensor, chosen: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Apply an operation to each image (b, c, h, w) in [0, 1], on any device.

    `chosen` (b,) are indices into `OPERATIONS`; `strength` (b,) is in [-1, 1], and its sign is the direction, for
    operations that have a direction. Both are on the host. Raises `UserError` unless the images have 1 or 3 channels.
    """
    if images.shape[1] not in (1, 3):
        raise UserError(f"images must have 1 or 3 channels to be augmented by operations, not {images.shape[1]}")
    order = chosen.argsort()
    counts = torch.bincount(chosen, minlength=len(OPERATIONS)).tolist()
    # The host computes the arguments and the order, and sends each in one transfer, without waiting for the device.
    arguments = _compute_arguments(strength[order].double(), counts, *images.shape[-2:])
    arguments = arguments.to(images.dtype).to(images.device, non_blocking=True)
    sorted_order, original_order = torch.stack((order, order.argsort())).to(images.device, non_blocking=True)
    batch = images.index_select(0, sorted_order)
    count_by_name = dict(zip(OPERATIONS, counts, strict=True))
    sizes = [sum(count_by_name[name] for name in names) for names in GROUPS]
    image_groups, argument_groups = torch.split(batch, sizes), torch.split(arguments, sizes)
    for operation, group, group_arguments in zip(GROUPS.values(), image_groups, argument_groups, strict=True):
        if len(group):
            operation(group, group_arguments)
    return batch.clamp_(0, 1).index_select(0, original_order)


def _compute_arguments(strength: torch.Tensor, counts: list[int], height: int, width: int) -> torch.Tensor:
    """Return the arguments (b, 6, 1, 1, 1) of each image's operation, for strengths (b,) sorted by operation.

    The arguments of a geometric operation are a matrix (2, 3) that maps a pixel of the result to its source, in the
    coordinates of `grid_sample`: -1 and 1 are the borders. Other operations have one or two arguments.
    """
    arguments = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=strength.dtype).repeat(len(strength), 1)
    rows = dict(zip(OPERATIONS, torch.split(arguments, counts), strict=True))
    strengths = dict(zip(OPERATIONS, torch.split(strength, counts), strict=True))
    # a shear keeps the upper left corner fixed, a shift is a whole number of pixels, a rotation is about the centre
    rows["shear-x"][:, 1:3] = (MAX_SHEAR * height / width * strengths["shear-x"])[:, None]
    rows["shear-y"][:, 3::2] = (MAX_SHEAR * width / height * strengths["shear-y"])[:, None]
    rows["shift-x"][:, 2] = -(MAX_SHIFT * width * strengths["shift-x"]).trunc() * 2 / width
    rows["shift-y"][:, 5] = -(MAX_SHIFT * height * strengths["shift-y"]).trunc() * 2 / height
    angle = torch.deg2rad(MAX_ANGLE * strengths["turn"])
    rows["turn"][:, 0] = rows["turn"][:, 4] = angle.cos()
    rows["turn"][:, 1], rows["turn"][:, 3] = -angle.sin() * height / width, angle.sin() * width / height
    rows["brightness"][:, 0] = 1 + MAX_CHANGE * strengths["brightness"]
    for name in ("colour", "contrast"):
        rows[name][:, 0], rows[name][:, 1] = -MAX_CHANGE * strengths[name], name == "contrast"
    rows["sharpness"][:, 0] = -MAX_CHANGE * BLUR * strengths["sharpness"]
    step = 2 ** (MAX_BITS * strengths["posterise"].abs()).round()
    rows["posterise"][:, 0], rows["posterise"][:, 1] = step, step / 255
    rows["solarise"][:, 0] = 1 - strengths["solarise"].abs()
    return arguments[..., None, None, None]


def _leave_unchanged(images: torch.Tensor, arguments: torch.Tensor) -> None:
    """Do nothing."""


def _warp(images: torch.Tensor, arguments: torch.Tensor) -> None:
    """Set each pixel to the pixel nearest to its source, or to black if the source is outside the image."""
    height, width = images.shape[-2:]
    y = torch.linspace(1 / height - 1, 1 - 1 / height, height, dtype=images.dtype, device=images.device)[:, None]
    x = torch.linspace(1 / width - 1, 1 - 1 / width, width, dtype=images.dtype, device=images.device)
    x_factor, y_factor, shift = arguments.view(-1, 2, 3, 1, 1).transpose(0, 2)
    sources = torch.addcmul(torch.addcmul(shift, y_factor, y), x_factor, x).movedim(0, -1)
    images.copy_(torch.nn.functional.grid_sample(images, sources, mode="nearest", align_corners=False))


def _brighten(images: torch.Tensor, arguments: torch.Tensor) -> None:
    """Multiply by the brightness."""
    images.mul_(arguments[:, 0])


def _blend_with_grey(images: torch.Tensor, arguments: torch.Tensor) -> None:
    """Interpolate towards grey, or away from it: the grey of each pixel or, for contrast, the mean grey."""
    grey = images
    if images.shape[1] == 3:
        red, green, blue = torch.split(images, 1, 1)
        grey = (RED * red).add_(green, alpha=GREEN).add_(blue, alpha=BLUE)
    mean = grey.mean((1, 2, 3), keepdim=True)
    images.lerp_(torch.lerp(grey, mean, arguments[:, 1]), arguments[:, 0])


def _sharpen(images: torch.Tensor, arguments: torch.Tensor) -> None:
    """Interpolate towards the blurred image, or away from it; the outermost pixels do not change.

    The mean uses pooling: for a convolution, cuDNN would test its kernels again for each new number of images.
    """
    if min(images.shape[-2:]) > 2:
        images[..., 1:-1, 1:-1].lerp_(torch.nn.functional.avg_pool2d(images, 3, 1), arguments[:, 0])


def _posterise(images: torch.Tensor, arguments: torch.Tensor) -> None:
    """Set the lowest of the eight bits to 0."""
    images.mul_(255).round_().div_(arguments[:, 0], rounding_mode="floor").mul_(arguments[:, 1])


def _solarise(images: torch.Tensor, arguments: torch.Tensor) -> None:
    """Invert the values at or above a threshold."""
    images.copy_(torch.where(images >= arguments[:, 0], 1 - images, images))


def _autocontrast(images: torch.Tensor, arguments: torch.Tensor) -> None:
    """Stretch each channel to the range [0, 1]; a channel with one value does not change."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span, is_constant = high - low, high == low
    images.sub_(low.masked_fill_(is_constant, 0)).div_(span.masked_fill_(is_constant, 1))


def _equalise(images: torch.Tensor, arguments: torch.Tensor) -> None:
    """Equalise the histogram of each channel in 8 bits, as Pillow does; a channel with a step of 0 does not change."""
    values = (images * BYTE_SCALE).long().flatten(2)
    counts = torch.zeros(*images.shape[:2], 257, dtype=torch.int32, device=images.device)
    counts[..., 1:].scatter_add_(2, values, counts.new_ones(()).expand_as(values))
    darker = counts.cumsum(2, dtype=torch.int32)[..., :-1]  # number of pixels darker than each of the 256 values
    step = darker.gather(2, values.amax(2, keepdim=True)) // 255
    table = ((darker + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, dtype=torch.int32, device=images.device))
    images.copy_((table / 255).gather(2, values).view_as(images))


GROUPS: dict[tuple[str, ...], Callable[[torch.Tensor, torch.Tensor], None]] = {
    ("identity",): _leave_unchanged,
    ("shear-x", "shear-y", "shift-x", "shift-y", "turn"): _warp,
    ("brightness",): _brighten,
    ("colour", "contrast"): _blend_with_grey,
    ("sharpness",): _sharpen,
    ("posterise",): _posterise,
    ("solarise",): _solarise,
    ("autocontrast",): _autocontrast,
    ("equalise",): _equalise,
}
"""Operations that are applied together, and the function that changes the images in place, given the arguments."""
OPERATIONS = tuple(name for names in GROUPS for name in names)
