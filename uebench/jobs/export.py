"""Writes a protected set for others to use: one folder of pictures per class, an array, and a manifest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from uebench import __version__
from uebench.components.errors import ContractError, UserError
from uebench.components.interfaces import Budget, Dataset, Noise
from uebench.components.spec import canonical_text
from uebench.compute.audit import LINF_TOLERANCE, budget_excess
from uebench.compute.pixels import to_steps
from uebench.jobs.datasets import image_names, load_dataset
from uebench.jobs.tensor_files import load_tensors, tensor_writer
from uebench.planning.plan import Protect
from uebench.storage.atomic_files import reporting_write_errors, write_atomically
from uebench.storage.store import Store

ArrayFormat = Literal["safetensors", "npy", "none"]
EXPORT_SCHEMA = 1
THREADS = min(4, os.cpu_count() or 1)
"""Pictures that are written at the same time; each takes about eighty bytes per pixel."""


def check_export_folder(folder: Path) -> None:
    """Raise `UserError` for a folder that is not empty, or cannot be written."""
    with reporting_write_errors(folder):
        if folder.exists():
            if not folder.is_dir():
                raise UserError(f"{folder} is not a folder; export into a new one")
            if any(folder.iterdir()):
                raise UserError(f"{folder} is not empty; export into a new folder")
        above = next(parent for parent in Path(os.path.realpath(folder)).parents if parent.exists())
        reason = errno.EACCES if above.is_dir() else errno.ENOTDIR
        if reason == errno.ENOTDIR or not os.access(above, os.W_OK | os.X_OK):
            raise OSError(reason, os.strerror(reason))


def write_export(job: Protect, store: Store, folder: Path, array: ArrayFormat) -> Dataset:
    """Write the released images of a finished job into a new folder; returns the data set.

    It holds `images/<class>/<name>.png`, an array of the released images uint8 (n, c, h, w) with their labels, and
    `manifest.json`. Photos keep their size: the noise is enlarged to it. The folder appears when everything is written.
    """
    check_export_folder(folder)
    files = store.find(job.key)
    if files is None:
        raise UserError(f"noise {job.noise.name} is not finished in {store.root}")
    data = load_dataset(job.source, job.fingerprint, store)
    released = load_tensors(files["released.safetensors"])["images"]
    facts = json.loads(files["facts.json"].read_bytes())
    final = Path(os.path.realpath(folder))
    scratch = final.with_name(f".{final.name[:50]}.{os.getpid()}")
    with reporting_write_errors(folder):
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            (scratch / "images").mkdir(parents=True)
            pictures = _write_pictures(job, data, released, scratch / "images")
            arrays = _write_arrays(scratch, array, released, data.train.labels)
            manifest = _manifest_fields(job, data, released, facts) | {"array": arrays, "images": pictures}
            text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
            # a file name that is no UTF-8 has surrogates, whose backslash form JSON reads back
            write_atomically(scratch / "manifest.json", text.encode("utf-8", "backslashreplace"))
            if final.exists():
                final.rmdir()
            os.replace(scratch, final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return data


def enlarge_noise(noise: Noise, delta: torch.Tensor, photo: torch.Tensor) -> torch.Tensor:
    """Return a photo, uint8 (3 or 4, h, w), with the noise, int16 in steps of 1/255 (c, h', w'), made for it resized.

    The noise is stretched to the photo's size, so that resizing the photo again brings most of it back; alpha is kept
    as it is. A noise of an L2 budget, that of the photo's size, is weakened where its values did not spread evenly.
    Raises `ContractError` where another budget does not go with the size.
    """
    size = list(photo.shape[1:])
    delta = delta.expand(3, -1, -1)
    budget, steps = noise.budget((3, *size)), _stretch(delta, size)
    while (excess := budget_excess(budget, steps[None] / 255)) > 1 + LINF_TOLERANCE / max(
        budget.radius, LINF_TOLERANCE
    ):
        if budget.norm != "l2":
            raise ContractError(f"noise {noise.name}: its {budget.norm} budget is too small for {size[1]}x{size[0]}")
        weaker = float((delta / 255).norm()) / excess / 1.001  # at least by this factor, so that the loop ends
        delta = to_steps(delta[None] / 255, Budget("l2", weaker))[0]
        steps = _stretch(delta, size)
    return torch.cat([(photo[:3] + steps).clamp(0, 255).to(torch.uint8), photo[3:]])


def _stretch(delta: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Return a noise (c, h, w) at another size: nearest values where it is larger, means where it is smaller."""
    rows, columns = (
        (2 * torch.arange(max(new, old)) + 1) * old // (2 * max(new, old))
        for new, old in zip(size, delta.shape[1:], strict=True)
    )
    steps = delta[:, rows][:, :, columns]
    if list(steps.shape[1:]) != size:
        smaller = torch.nn.functional.interpolate(steps[None].float(), size, mode="bilinear", antialias=True)
        steps = smaller[0].round().to(torch.int16)
    return steps


def _write_pictures(job: Protect, data: Dataset, released: torch.Tensor, folder: Path) -> list[dict[str, Any]]:
    """Write every image, in threads; returns the entry of each in the manifest."""
    names = image_names(data)
    for name, label in zip(names, data.train.labels.tolist(), strict=True):
        parts = name.split("/")
        if parts[0] != data.classes[label] or len(parts) != 2 or "\0" in name or not {"", ".", ".."}.isdisjoint(parts):
            raise ContractError(f"dataset {job.source.name}: {name!r} is not of the form class/name")
    for label in {name.partition("/")[0] for name in names}:
        (folder / label).mkdir()

    def write(index: int) -> dict[str, Any]:
        photo, image = job.source.photo(names[index]), released[index]
        if photo is not None and (photo.shape[1:] != image.shape[1:] or len(photo) == 4):
            image = enlarge_noise(job.noise, image.to(torch.int16) - data.train.images[index].to(torch.int16), photo)
        path = folder / f"{names[index]}.png"
        Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(path)
        return {
            "path": f"images/{names[index]}.png",
            "label": int(data.train.labels[index]),
            "size": [image.shape[2], image.shape[1]],
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(write, range(len(names))))


def _write_arrays(folder: Path, array: ArrayFormat, released: torch.Tensor, labels: torch.Tensor) -> dict[str, str]:
    """Write the arrays; returns the hash of each file."""
    if array == "safetensors":
        tensor_writer({"images": released, "labels": labels})(folder / "released.safetensors")
    elif array == "npy":
        np.save(folder / "released.npy", released.numpy())
        np.save(folder / "labels.npy", labels.numpy())
    hashes = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with open(path, "rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _manifest_fields(job: Protect, data: Dataset, released: torch.Tensor, facts: Mapping[str, Any]) -> dict[str, Any]:
    budget = job.noise.budget(released.shape[1:])
    return {
        "schema": EXPORT_SCHEMA,
        "made_with": facts["made_with"],
        "exported_with": __version__,
        "noise": canonical_text(job.noise),
        "budget": {"norm": budget.norm, "radius": budget.radius if budget.norm != "none" else None},
        "dataset": canonical_text(job.source),
        "content": job.fingerprint,
        "precision": job.precision,
        "seed": job.seed,
        "key": job.key,
        "shape": list(released.shape),
        "classes": list(data.classes),
        "clean_sha256": _digest(data.train.images),
        "released_sha256": _digest(released),
        "measured": {name: facts[name] for name in ("noise_linf", "noise_l2", "psnr", "ssim")},
        "skipped": list(data.skipped),
    }


def _digest(images: torch.Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().data).hexdigest()
