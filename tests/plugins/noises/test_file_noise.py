"""The noise `file`: it reads exported noise in every form, refuses unsuitable files, and never unpickles."""

from __future__ import annotations

import json
import mmap
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from tests.conftest import TINY
from tests.plugins.datasets.test_sources import clear, gradient, photos
from tests.plugins.test_contract import pictures
from uebench import UserError, kit
from uebench.cli.main import main
from uebench.components.spec import canonical_text
from uebench.jobs.datasets import image_names
from uebench.planning.plan import Protect
from uebench_plugins.datasets.digits import Digits
from uebench_plugins.noises import file
from uebench_plugins.noises.file import FileNoise

EM = ("--noise", "em:surrogate=(smallcnn:width=4),steps=3,batch=8,noise_steps=2")
SC = ("--noise", "sc:patch=2")
DIGITS = ("--dataset", "digits:test_images=1700")  # 97 training images
SOURCE = Digits(test_images=1700)
DATA = SOURCE.load(Path())
CLEAN, LABELS = DATA.train.images, DATA.train.labels

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command line in an empty folder; errors other than a line for the user are raised."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str, status: int = 0) -> Result:
        result = CliRunner().invoke(main, list(words), catch_exceptions=False)
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result

    return command


def released(folder: str) -> Tensor:
    return safetensors.torch.load_file(Path(folder, "released.safetensors"))["images"]


def steps() -> Tensor:
    """Return a noise for the digits, int (n, c, h, w) in steps of 1/255; it never leaves their pixel range."""
    return torch.randint(-8, 9, CLEAN.shape, generator=torch.Generator().manual_seed(0))


def save(path: Path, array: Any, name: str = "delta", **others: Tensor) -> Path:
    if path.suffix == ".npy":
        np.save(path, array.numpy() if isinstance(array, Tensor) else array)
    else:
        tensor = array if isinstance(array, Tensor) else torch.from_numpy(array)
        safetensors.torch.save_file({name: tensor.contiguous(), **others}, path)
    return path


def read_noise(path: Path, **parameters: Any) -> Tensor:
    """Return the noise of a file, in steps of 1/255."""
    context: Any = SimpleNamespace(device=torch.device("cpu"), names=image_names(DATA))
    return FileNoise(path=str(path), **parameters).make(kit.Pixels(CLEAN, context.device), LABELS, context).int()


def test_exported_noise_is_read_bit_for_bit(call: Call) -> None:
    call("export", "out", *EM, *DIGITS)
    call("export", "other", *EM, *DIGITS, "--array", "npy")
    assert not torch.equal(released("out"), CLEAN)
    for index, path in enumerate(("out/released.safetensors", "other/released.npy", "out/images", "out")):
        call("export", str(index), "--noise", f"file:path={path}", *DIGITS)
        assert torch.equal(released(str(index)), released("out")), path
    call("export", "wide", "--noise", "file:path=out/images,radius=20/255", *DIGITS)
    assert torch.equal(released("wide"), released("out"))


def test_exported_l2_noise_is_read_within_its_norm(call: Call) -> None:
    call("export", "out", *SC, *DIGITS)
    radius = json.loads(Path("out/manifest.json").read_bytes())["budget"]["radius"]
    for norm in (f"norm=l2,radius={radius!r}", "norm=none", "norm=linf,radius=1"):
        call("export", norm, "--noise", f"file:path=out/images,{norm}", *DIGITS)
        assert torch.equal(released(norm), released("out")), norm
    failed = call("export", "l2", "--noise", f"file:path=out/images,norm=l2,radius={radius / 2!r}", *DIGITS, status=1)
    assert "noise file returned 0.32" in failed.stderr
    assert "over its budget 0.16" in failed.stderr


def test_exported_photos_are_read_by_name_if_they_have_the_size_of_the_set(call: Call) -> None:
    pictures(Path("set"), count=3, size=16)
    gradient(16, 16).save("set/train/cat/0.jpg")
    clear(Path("set/train/cat/a b.png"))
    with Image.open("set/train/cat/a b.png") as image:
        image.resize((16, 16)).save("set/train/cat/ü.png")
    Path("set/train/cat/a b.png").unlink()
    folder = ("--dataset", "folder:path=set,size=16")
    call("export", "out", *EM, *folder)
    for index, path in enumerate(("images", "released.safetensors")):
        call("export", str(index), "--noise", f"file:path=out/{path}", *folder)
        assert torch.equal(released(str(index)), released("out")), path
    assert sorted(path.name for path in Path("0/images/cat").iterdir()) == [
        "0.jpg.png", "0.png.png", "1.png", "2.png", "ü.png",
    ]  # fmt: skip
    photos(Path("photos"), a__png=clear)
    photo_set = ("--dataset", "folder:path=photos,size=16")
    call("export", "large", *EM, *photo_set)
    call("export", "second", "--noise", "file:path=large/released.safetensors", *photo_set)
    assert (Path("second/images/mine/a.png").read_bytes()) == (Path("large/images/mine/a.png").read_bytes())
    error = call("export", "new", "--noise", "file:path=large/images", *photo_set, status=1).stderr
    assert "large/images/else/plain.png is 5x5, not 16x16" in error


NUMPY = ("int8", "int16", "int32", "int64", "float16", "float32", "float64", ">f4", ">i2")


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_noise_and_images_of_every_type_and_layout_are_read(suffix: str, channels_last: bool, tmp_path: Path) -> None:
    noise = steps()

    def convert(array: Tensor, kind: str) -> Any:
        array = array.permute(0, 2, 3, 1) if channels_last else array
        if suffix == ".npy":
            return np.asfortranarray(array.numpy().astype(kind)) if kind == "float32" else array.numpy().astype(kind)
        return array.to(getattr(torch, kind))

    for kind in NUMPY if suffix == ".npy" else (*NUMPY[:-2], "bfloat16"):
        is_integer = np.dtype(kind).kind == "i" if kind != "bfloat16" else False
        path = save(tmp_path / f"x{suffix}", convert(noise if is_integer else noise / 255, kind))
        assert torch.equal(read_noise(path), noise), kind
        if not is_integer and kind != "bfloat16":
            save(path, convert((CLEAN + noise) / 255, kind))
            assert torch.equal(read_noise(path), noise), f"images as {kind}"
    assert torch.equal(read_noise(save(tmp_path / f"x{suffix}", convert(CLEAN + noise, "uint8"))), noise)


def test_kind_says_what_the_values_are(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", steps().abs().to(torch.uint8))
    assert torch.equal(read_noise(path, kind="noise"), steps().abs())
    save(path, steps().abs() / 255)
    assert torch.equal(read_noise(path), steps().abs()), "no value is above the radius"
    save(path, (CLEAN + steps()).short())
    assert torch.equal(read_noise(path, kind="images"), steps())


def test_one_of_several_arrays_is_read_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", steps(), "mine", yours=torch.zeros(3), labels=LABELS.int())
    assert torch.equal(read_noise(path, tensor="mine"), steps())


def test_numbered_pictures_are_read_by_their_numbers(tmp_path: Path) -> None:
    for index, image in enumerate(CLEAN + steps()):
        Image.fromarray(image.permute(1, 2, 0).byte().numpy()).save(tmp_path / f"{index}.png")
    assert torch.equal(read_noise(tmp_path), steps())
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f"{path.stem:0>5}.png")
    assert torch.equal(read_noise(tmp_path), steps())
    (tmp_path / "00000.png").rename(tmp_path / "00097.png")
    with pytest.raises(UserError, match=r"holds 97 pictures from 1\.png to 97\.png, not 97 from 0\.png"):
        read_noise(tmp_path)
    (tmp_path / "00097.png").unlink()
    with pytest.raises(UserError, match=r"holds 96 pictures from 1\.png to 96\.png, not 97 from 0\.png"):
        read_noise(tmp_path)


def test_an_array_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "CHUNK", 10 * 3 * 8 * 8)
    sizes: list[int] = []
    original = file._Array.__getitem__

    def record(self: Any, part: slice) -> Tensor:
        rows = original(self, part)
        sizes.append(len(rows))
        return rows

    monkeypatch.setattr(file._Array, "__getitem__", record)
    for name in ("x.npy", "x.safetensors"):
        path = save(tmp_path / name, steps() / 255)
        rows = file._Array(path, "", tuple(CLEAN.shape), LABELS)
        assert isinstance(getattr(rows.values, "base", None), mmap.mmap) == (name == "x.npy"), "mapped, not loaded"
        assert not isinstance(rows.values, Tensor)
        sizes.clear()
        assert torch.equal(read_noise(path), steps())
        assert max(sizes) == 10
        assert sum(sizes) == 2 * 97, "once for the range, once for the values"


class Bomb:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def reorder(images: Tensor) -> Tensor:
    return images[[3, 1, 2, 0, *range(4, 97)]]


def set_last_value(images: Tensor, value: float) -> Tensor:
    images = images / 255
    images[96, 2, 7, 7] = value
    return images


PROTECTED = (CLEAN + steps()).to(torch.uint8)
FIRST, FOURTH = image_names(DATA)[0], image_names(DATA)[3]

REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing": ("file:path=x.npy", lambda path: None, "cannot read x.npy: No such file or directory"),
    "renamed pickle": ("file:path=x.npy", lambda path: write(path, pickle.dumps(Bomb())), "cannot read x.npy: "),
    "object array": ("file:path=x.npy", lambda path: np.save(path, np.array([Bomb()])), "cannot read x.npy: "),
    "several arrays": ("file:path=x.npz", lambda path: np.savez(path, a=[1]), "x.npz must be .npy, .safetensors or a"),
    "renamed npz": (
        "file:path=x.npy",
        lambda path: (np.savez("y.npz", a=[1]), Path("y.npz").rename(path)),
        "cannot read x.npy: ",
    ),
    "empty file": ("file:path=x.npy", lambda path: path.touch(), "cannot read x.npy: "),
    "truncated npy": (
        "file:path=x.npy",
        lambda path: write(save(path, PROTECTED), path.read_bytes()[:5000]),
        "cannot read x.npy: ",
    ),
    "truncated": (
        "file:path=x.safetensors",
        lambda path: write(save(path, PROTECTED), path.read_bytes()[:5000]),
        "cannot read x.safetensors: ",
    ),
    "empty safetensors": ("file:path=x.safetensors", lambda path: path.touch(), "cannot read x.safetensors: "),
    "text": ("file:path=x.txt", lambda path: path.write_text("0"), "x.txt must be .npy, .safetensors or a folder of"),
    "two tensors": (
        "file:path=x.safetensors",
        lambda path: save(path, PROTECTED, "a", b=steps()),
        "x.safetensors has 2 arrays; set tensor=... to one of a, b",
    ),
    "no such tensor": (
        "file:path=x.safetensors,tensor=c",
        lambda path: save(path, PROTECTED, "a", b=steps()),
        "x.safetensors has no array called 'c'; set tensor=... to one of a, b",
    ),
    "only labels": (
        "file:path=x.safetensors",
        lambda path: save(path, LABELS, "labels"),
        "x.safetensors has 0 arrays",
    ),
    "other labels": (
        "file:path=x.safetensors",
        lambda path: save(path, PROTECTED, labels=LABELS.flip(0)),
        "the labels in x.safetensors are not those of the data set in its order",
    ),
    "fewer labels": (
        "file:path=x.safetensors",
        lambda path: save(path, PROTECTED, labels=LABELS[1:]),
        "the labels in x.safetensors are not those of the data set",
    ),
    "count": (
        "file:path=x.npy",
        lambda path: save(path, PROTECTED[1:]),
        "x.npy has shape (96, 3, 8, 8); the data set's is (97, 3, 8, 8)",
    ),
    "shape": (
        "file:path=x.safetensors",
        lambda path: save(path, PROTECTED[:, :, 1:]),
        "x.safetensors has shape (97, 3, 7, 8); the data set's is (97, 3, 8, 8)",
    ),
    "a single number": ("file:path=x.safetensors", lambda path: save(path, torch.tensor(1.0)), "has shape (); the"),
    "a flat array": ("file:path=x.npy", lambda path: save(path, PROTECTED.flatten(1)), "x.npy has shape (97, 192)"),
    "unsigned steps": (
        "file:path=x.npy",
        lambda path: save(path, PROTECTED.numpy().astype(np.uint16)),
        "x.npy holds uint16, not floats, uint8 or signed integers",
    ),
    "yes and no": ("file:path=x.safetensors", lambda path: save(path, PROTECTED > 99), "x.safetensors holds bool, not"),
    "complex": ("file:path=x.npy", lambda path: save(path, PROTECTED.numpy() * 1j), "x.npy holds complex128, not"),
    "up to 255": (
        "file:path=x.npy",
        lambda path: save(path, PROTECTED.float()),
        "x.npy holds values beyond the pixel range; divide them by 255",
    ),
    "noise in steps": (
        "file:path=x.npy",
        lambda path: save(path, steps().float()),
        "x.npy holds values beyond the pixel range; divide them by 255",
    ),
    "a very large number": (
        "file:path=x.npy",
        lambda path: save(path, torch.full_like(steps(), -(2**63))),
        "x.npy holds values beyond the pixel range",
    ),
    "no number": (
        "file:path=x.npy",
        lambda path: save(path, set_last_value(PROTECTED, np.nan)),
        "x.npy holds NaN or infinite values",
    ),
    "infinite": (
        "file:path=x.safetensors",
        lambda path: save(path, set_last_value(steps(), -np.inf)),
        "x.safetensors holds NaN or infinite values",
    ),
    "over its budget": (
        "file:path=x.npy",
        lambda path: save(path, set_last_value(steps(), 9 / 255)),
        "noise file returned 9/255, over its budget 8/255",
    ),
    "over its budget in l2": (
        "file:path=x.npy,norm=l2,radius=0.1",
        lambda path: save(path, steps().to(torch.int8)),
        "(l2), over its budget 0.1 (l2)",
    ),
    "over its budget in l0": (
        "file:path=x.npy,norm=l0,radius=3",
        lambda path: save(path, steps().to(torch.int8)),
        ", over its budget 3 pixels",
    ),
    "another order": (
        "file:path=x.npy",
        lambda path: save(path, reorder(PROTECTED)),
        f"/255, over 8/255; it matches {FOURTH}: the order is different",
    ),
    "another set": (
        "file:path=x.npy",
        lambda path: save(path, 255 - PROTECTED),
        "it matches no other image: is the radius too small, or is this another data set?",
    ),
    "content": (
        "file:path=x.npy,content=0123",
        lambda path: save(path, PROTECTED),
        "x.npy has content ",
    ),
    "radius": ("file:path=x.npy,radius=8", lambda path: save(path, PROTECTED), "radius must be at most 1 in linf, not"),
    "zero": ("file:path=x.npy,radius=0", lambda path: save(path, PROTECTED), "file: radius must be above 0, not 0"),
    "no pictures": ("file:path=x", lambda path: path.mkdir(), "x holds no picture called *.png"),
    "a missing picture": (
        "file:path=x",
        lambda path: (path.mkdir(), gradient(8, 8).save(path / "a.png")),
        f"x/{FIRST}.png is missing; the data set has 97 training images",
    ),
}
EARLY = ("missing", "content", "radius", "zero", "no pictures")
"""Refused before any work, with exit status 2."""


@pytest.mark.parametrize("case", REFUSED)
def test_unsuitable_files_are_refused_in_one_clear_line(case: str, call: Call) -> None:
    noise, write_file, expected = REFUSED[case]
    write_file(Path(noise.removeprefix("file:path=").partition(",")[0]))
    result = call("export", "out", "--noise", noise, *DIGITS, status=2 if case in EARLY else 1)
    line, *rest = result.stderr.splitlines()
    assert expected in line
    assert line.startswith("Error: " if case in EARLY else "failed: making x:")
    assert rest == ([] if case in EARLY else ["1 of 1 jobs are missing. The same command tries them again."])
    assert not Path("out").exists()
    assert not Path("exploded").exists(), "a file was unpickled"


def test_a_damaged_picture_and_a_picture_of_another_size_are_named(call: Call) -> None:
    call("export", "out", *SC, *DIGITS)
    path = Path(f"out/images/{FOURTH}.png")
    path.write_bytes(path.read_bytes()[:60])
    noise = ("--noise", "file:path=out/images,norm=none")
    assert f"noise file: cannot read {path}: " in call("export", "new", *noise, *DIGITS, status=1).stderr
    gradient(9, 8).save(path)
    assert f"noise file: {path} is 9x8, not 8x8" in call("export", "new", *noise, *DIGITS, status=1).stderr
    path.unlink()
    assert f"noise file: {path} is missing" in call("export", "new", *noise, *DIGITS, status=1).stderr


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "it's a $HOME.pkl", "bomb.pkl", "old.PT"])
def test_a_pickle_is_refused_with_a_conversion_that_runs_no_code(name: str, call: Call) -> None:
    if name == "bomb.pkl":
        torch.save(Bomb(), name)
    else:
        torch.save(torch.nn.Parameter(steps().float() / 255), name)
    result = call("export", "out", "--noise", f"file:path={name}", *DIGITS, status=2)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: noise file: {name} is a pickle, which can run any code when it is read; ")
    assert "save the array as .npy where it was made" in line
    conversion = line.partition("convert a tensor that torch saved: ")[2]
    assert conversion.startswith("python -c ")
    command = conversion.replace("python", shlex.quote(sys.executable), 1)
    if name in ("x.pt", "x.pth", "old.PT"):
        return  # the other names cover this, and each run takes seconds
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100)
    if name == "bomb.pkl":
        assert done.returncode
        assert "WeightsUnpickler" in done.stderr
        assert not Path("exploded").exists(), "code of the file was run"
        return
    assert done.returncode == 0, done.stderr
    assert torch.equal(read_noise(Path(name).with_suffix(".safetensors")), steps())


def test_the_content_identifies_the_noise(tmp_path: Path, call: Call) -> None:
    def identity(path: str, **parameters: Any) -> tuple[str, str]:
        noise = FileNoise(path=path, **parameters)
        return canonical_text(noise), Protect(SOURCE, "", noise, "fp32", 0).key

    save(Path("a.npy"), PROTECTED)
    first = identity("a.npy")
    assert "a.npy" not in first[0]
    shutil.copy("a.npy", "b.npy")
    assert identity("b.npy", title="b") == first, "the same content under another path"
    content = FileNoise(path="a.npy").content
    assert identity("a.npy", content=content) == identity("a.npy", content=content[:6]) == first
    assert identity("a.npy", radius=9 / 255)[1] != first[1]
    save(Path("a.npy"), PROTECTED + 1)
    assert identity("a.npy")[0] != first[0]
    assert identity("a.npy")[1] != first[1]
    changed = FileNoise(path="b.npy")
    save(Path("b.npy"), PROTECTED + 1)
    with pytest.raises(UserError, match=r"b\.npy has changed since this run began"):
        changed.make(CLEAN / 255, LABELS, None)  # type: ignore[arg-type]
    for name in ("first", "second"):
        Path(name, "a").mkdir(parents=True)
        gradient().save(Path(name, "a", "1.png"))
        Path(name, "notes.txt").write_text(name)
    assert identity("first") == identity("second")
    Path("second/a/1.png").rename("second/a/2.png")
    assert identity("first") != identity("second")
    assert FileNoise(path="first").alias() == "first"
    assert FileNoise(path="first/../second").alias() == "second"


def test_a_file_noise_runs_in_worker_processes(call: Call) -> None:
    save(Path("mine.npy"), PROTECTED)
    assert pickle.loads(pickle.dumps(FileNoise(path="mine.npy"))) == FileNoise(path="mine.npy")
    words = ("--noise", "file:path=mine.npy", "--breaker", "none", "--workers", "2", *DIGITS)
    output = call("run", str(TINY), *words).output
    assert "done   mine:content=" in output
    assert "[2 of 2 cells]" in output
    stored = [safetensors.torch.load_file(path) for path in Path(".uebench/done").rglob("released.safetensors")]
    assert any(torch.equal(tensors["images"], PROTECTED) for tensors in stored)
    records = [json.loads(line) for line in Path(".uebench/boards/tiny/results.jsonl").read_text().splitlines()]
    assert sorted(record["noise"].partition(":")[0] for record in records) == ["mine", "none"]
