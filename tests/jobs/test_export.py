"""`uebench export`: what it writes is what its manifest says, within the budget, and whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import ImageFolder

from tests.plugins.datasets.test_sources import clear, cmyk, deep, gradient, grey, palette, photos, rotated, truncated
from tests.plugins.test_contract import pictures
from uebench import Budget, Dataset, Noise, Source, Split, UserError
from uebench.cli.main import main
from uebench.components.registry import RegisteredComponent, registry
from uebench.compute.audit import measure_visibility
from uebench.jobs.datasets import image_names
from uebench.jobs.export import enlarge_noise
from uebench_plugins.datasets.digits import Digits
from uebench_plugins.datasets.folder import Folder

EM = ("--noise", "em:surrogate=(smallcnn:width=4),steps=3,batch=8,noise_steps=2")
SC = ("--noise", "sc:patch=2")
DIGITS = ("--dataset", "digits:test_images=1700")  # 97 are left to protect
SET = ("--dataset", "folder:path=set,size=16")

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Export in a fresh folder; what is no clear line for the user is raised."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str, status: int = 0) -> Result:
        done = CliRunner().invoke(main, ["export", *words], catch_exceptions=False)
        assert done.exit_code == status, done.output
        assert "Traceback" not in done.output
        return done

    return command


def manifest(folder: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "manifest.json").read_bytes())
    return found


def released(folder: str = "out") -> Tensor:
    return safetensors.torch.load_file(Path(folder, "released.safetensors"))["images"]


def pixels(path: Path) -> Tensor:
    """Return a picture as it is on disk, int (c, h, w)."""
    with Image.open(path) as opened:
        assert opened.mode in ("RGB", "RGBA")
        return torch.from_numpy(np.array(opened)).permute(2, 0, 1).int()


def tree(folder: Path | str) -> dict[str, tuple[bytes, int]]:
    """Return the content and the time of the last change of every file."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def scene(width: int, height: int, seed: int) -> Image.Image:
    """Return what could be a photo: smooth random colours and a little grain."""
    draw = torch.Generator().manual_seed(seed)
    image = F.interpolate(torch.rand(1, 3, 5, 5, generator=draw), size=(height, width), mode="bicubic")
    image += 0.02 * torch.randn(1, 3, height, width, generator=draw)
    return Image.fromarray((image[0].clamp(0.05, 0.95) * 255).permute(1, 2, 0).byte().numpy())


def check_manifest(folder: str, source: Source, data: Dataset) -> None:
    """Compare every statement of a manifest with what lies in the folder and in the data set."""
    said, array = manifest(folder), released(folder)
    assert said["shape"] == list(array.shape)
    assert said["classes"] == list(data.classes)
    assert said["clean_sha256"] == hashlib.sha256(data.train.images.numpy().tobytes()).hexdigest()
    assert said["released_sha256"] == hashlib.sha256(array.numpy().tobytes()).hexdigest()
    assert said["measured"] == measure_visibility(data.train.images, array, torch.device("cpu"))
    assert said["content"] == source.fingerprint(Path())
    assert [one["path"] for one in said["images"]] == [f"images/{name}.png" for name in image_names(data)]
    assert [one["label"] for one in said["images"]] == data.train.labels.tolist()
    files = {name: one for name, one in said["array"].items()} | {one["path"]: one["sha256"] for one in said["images"]}
    for name, expected in files.items():
        assert hashlib.sha256(Path(folder, name).read_bytes()).hexdigest() == expected, name
    there = {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}
    assert there == {*files, "manifest.json"}
    for one in said["images"]:
        assert list(pixels(Path(folder, one["path"])).shape[:0:-1]) == one["size"]


def test_an_embedded_set_is_written_as_an_image_folder(call: Call, tmp_path: Path) -> None:
    said = call("out", *EM, *DIGITS, "--seed", "3").output
    assert "97 protected images" in said
    assert said.rstrip().endswith(": out")
    source = Digits(test_images=1700)
    data = source.load(Path())
    check_manifest("out", source, data)
    found = manifest()
    assert found["noise"].startswith("em@1:radius=0.03137254901960784,surrogate=(smallcnn@1:width=4),")
    assert found["budget"] == {"norm": "linf", "radius": 8 / 255}
    assert (found["dataset"], found["seed"]) == ("digits@1:contrast=0.5,test_images=1700,pad=1", 3)
    assert found["skipped"] == []
    tensors = safetensors.torch.load_file("out/released.safetensors")
    assert torch.equal(tensors["labels"], data.train.labels)
    stored = next((tmp_path / ".uebench" / "done").rglob("released.safetensors"))
    assert torch.equal(safetensors.torch.load_file(stored)["images"], tensors["images"])
    change = tensors["images"].int() - data.train.images.int()
    assert 4 < change.abs().max() <= 8
    for image, one in zip(tensors["images"], found["images"], strict=True):
        assert torch.equal(pixels(Path("out", one["path"])), image.int()), "PNG loses nothing"
    loaded = ImageFolder("out/images")
    assert loaded.classes == list(data.classes)
    labels = {f"out/{one['path']}": one["label"] for one in found["images"]}
    assert dict(loaded.samples) == labels


def test_arrays_come_as_asked_for(call: Call) -> None:
    for kind in ("safetensors", "npy", "none"):
        call(kind, *SC, *DIGITS, "--array", kind)
    images = np.load("npy/released.npy", allow_pickle=False)
    assert images.dtype == np.uint8
    assert np.array_equal(images, released("safetensors").numpy())
    assert np.load("npy/labels.npy").tolist() == [one["label"] for one in manifest("npy")["images"]]
    arrays = {"safetensors": ["released.safetensors"], "npy": ["labels.npy", "released.npy"], "none": []}
    for kind, files in arrays.items():
        assert sorted(manifest(kind)["array"]) == files
        assert {path.name for path in Path(kind).iterdir()} == {"images", "manifest.json", *files}
        assert manifest(kind)["images"] == manifest("npy")["images"]


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(call: Call) -> None:
    pictures(Path("set"), count=3, size=23)
    call("one", *EM, *SET, "--store", "s1")
    call("two", *EM, *SET, "--store", "s2")
    call("three", *EM, *SET, "--store", "s1", "--seed", "1")
    first, second, third = (
        {key.partition("/")[2]: content for key, (content, _) in tree(folder).items()}
        for folder in ("one", "two", "three")
    )
    assert first == second
    assert first.keys() == third.keys()
    assert first["released.safetensors"] != third["released.safetensors"]


def test_of_a_set_with_two_parts_the_training_images_are_written(call: Call) -> None:
    before = tree(pictures(Path("set"), count=3, size=16))
    call("out", *SC, *SET)
    source = Folder(path="set", size=16)
    data = source.load(Path("scratch"))
    check_manifest("out", source, data)
    assert [one["path"] for one in manifest()["images"]] == [
        f"images/{name}/{place}.png" for place in range(3) for name in ("cat", "dog")
    ]
    for image, one in zip(released(), manifest()["images"], strict=True):
        assert torch.equal(pixels(Path("out", one["path"])), image.int()), "of the set's size"
    assert tree("set") == before


KINDS: dict[str, Callable[[Path], Any]] = {
    "turned__jpg": rotated,
    "grey__png": grey,
    "palette__png": palette,
    "clear__png": clear,
    "cmyk__jpg": cmyk,
    "deep__png": deep,
    "été à la mer (1)__png": scene(61, 83, 1).save,
    "a__jpg": lambda path: scene(16, 16, 2).save(path, quality=95),
    "a__png": scene(16, 16, 3).save,
    "tiny__png": scene(7, 5, 4).save,
    "thin__png": scene(5, 40, 5).save,
    "large__jpg": lambda path: scene(333, 207, 6).save(path, quality=95),
    "half__jpg": truncated,
    "text__jpg": lambda path: path.write_text("not a picture"),
}
READ = ["a.jpg", "a.png", "clear", "cmyk", "deep", "grey", "large", "palette", "thin", "tiny", "turned"]
READ.append("été à la mer (1)")
CLEAR = ("palette", "clear")


@pytest.mark.parametrize("noise", [EM, SC])
def test_photos_of_every_kind_keep_name_size_and_alpha_and_stay_within_the_budget(
    noise: tuple[str, str], call: Call
) -> None:
    before = tree(photos(Path("set"), **KINDS))
    done = call("out", *noise, *SET, status=1)
    left_out = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert [line.partition(": ")[2][:32] for line in left_out] == [
        "set/mine/half.jpg: image file is",
        "set/mine/text.jpg: not a picture",
    ]
    assert tree("set") == before, "the originals are as they were"
    source = Folder(path="set", size=16)
    data = source.load(Path("scratch"))
    check_manifest("out", source, data)
    assert [f"left out: {line}" for line in manifest()["skipped"]] == left_out
    assert ImageFolder("out/images").classes == ["else", "mine"]
    assert sorted(path.stem for path in Path("out/images/mine").iterdir()) == READ
    for name, image in zip(data.names, released(), strict=True):
        photo, got = source.photo(name).int(), pixels(Path("out/images", f"{name}.png"))
        assert got.shape == photo.shape, name
        assert (len(got) == 4) == (name.partition("/")[2] in CLEAR)
        assert torch.equal(got[3:], photo[3:]), "alpha is kept bit for bit"
        change = (got - photo)[:3].double()
        if noise == EM:
            assert 0 < change.abs().max() <= 8, name
        else:
            budget = 6 * (3 * photo[0].numel()) ** 0.5
            assert 0.3 * budget < change.norm() <= budget * (1 + 1e-5), name
        if photo.shape[1:] == (16, 16):
            assert torch.equal(got[:3], image.int()), name


def test_resizing_a_protected_photo_brings_its_noise_back(call: Call) -> None:
    """Ten times the size of the set, and no whole multiple of it; resized as the source does, with Pillow."""
    for label, sizes in {"cat": (160, 160), "dog": (137, 213)}.items():
        Path("set", label).mkdir(parents=True)
        for place in range(6):
            scene(*sizes, place).save(Path("set", label, f"{place}.png"))
    call("out", *EM, *SET)
    clean = Folder(path="set", size=16).load(Path("scratch")).train
    made = (released().int() - clean.images.int()).double()
    back = (Folder(path="out/images", size=16).load(Path("scratch")).train.images.int() - clean.images).double()
    for label in (0, 1):
        one, other = back[clean.labels == label], made[clean.labels == label]
        likeness = float((one * other).sum() / one.norm() / other.norm())
        slope = float((one * other).sum() / other.square().sum())
        assert likeness > 0.92
        assert 0.55 < slope < 1


def test_a_noise_weaker_by_evenness_keeps_its_norm_at_every_size() -> None:
    """Half of the pixels have all the noise; a size that is no multiple repeats some of them more often."""

    class Stretched(Noise):
        name = "stretched"

        def budget(self, shape: Any) -> Budget:
            return Budget("l2", 8 / 255 * float(np.prod(shape)) ** 0.5)

    draw = torch.Generator().manual_seed(0)
    for size in ((20, 20), (17, 31), (29, 18), (160, 170), (9, 40), (3, 3)):
        delta = torch.zeros(3, 16, 16, dtype=torch.int16)
        delta[:, ::2] = 16 * torch.randint(0, 2, (3, 8, 16), generator=draw).to(torch.int16) - 8
        delta = (delta * (8 * delta.numel() ** 0.5 / delta.float().norm())).to(torch.int16)
        grey = torch.full((3, *size), 128, dtype=torch.uint8)
        change = enlarge_noise(Stretched(), delta, grey).double() - 128
        budget = 8 * grey.numel() ** 0.5
        assert change.norm() <= budget * (1 + 1e-5), size
        assert change.norm() > (0.9 if min(size) >= 16 else 0.1) * budget, size


def test_a_budget_that_does_not_grow_with_the_photo_is_refused() -> None:
    class Dots(Noise):
        name = "dots"

        def budget(self, shape: Any) -> Budget:
            return Budget("l0", 1)

    dot = torch.zeros(1, 4, 4, dtype=torch.int16)
    dot[0, 1, 1] = 99
    assert (enlarge_noise(Dots(), dot, torch.zeros(4, 4, 4, dtype=torch.uint8)) > 0).sum() == 3
    with pytest.raises(UserError, match="noise dots: its l0 budget is too small for 9x8"):
        enlarge_noise(Dots(), dot, torch.zeros(3, 8, 9, dtype=torch.uint8))


def test_a_noise_that_needs_a_trained_network_is_made_without_test_images(call: Call, tmp_path: Path) -> None:
    photos(Path("set"), a__png=grey, b__png=clear, c__jpg=rotated)
    lists = "".join(f'{name} = ["none"]\n' for name in ("noises", "breakers"))
    recipe = 'datasets = ["digits"]\ntargets = ["smallcnn"]\n[recipe]\nsteps = 4\nbatch = 2\n'
    Path("short.toml").write_text(f'title = "t"\n{lists}{recipe}')
    done = call("out", "--noise", "tap:victim=(smallcnn:width=4),noise_steps=2", *SET, "--suite", "short.toml")
    assert "training smallcnn:width=4 on clean images for noises, seed 0" in done.output
    source = Folder(path="set", size=16)
    check_manifest("out", source, source.load(tmp_path / "scratch"))
    assert [tuple(one["size"]) for one in manifest()["images"]] == [(5, 5), (30, 20), (30, 20), (20, 30)]


MISTAKES = {
    "no noise": (["new", *DIGITS], "an export is of one noise, not 0; say which with --noise"),
    "no data set": (["new", *SC], "an export is of one dataset, not 0; say which with --dataset"),
    "two noises": (["new", *SC, *EM, *DIGITS], "an export is of one noise, not 2; say which with --noise"),
    "two sets": (["new", *SC, *DIGITS, "--dataset", "digits"], "an export is of one dataset, not 2"),
    "two seeds": (["new", *SC, *DIGITS, "--seed", "0,1"], "an export is of one seed, not 2; say which with --seed"),
    "unknown noise": (["new", "--noise", "emm", *DIGITS], "unknown noise 'emm'; did you mean em?"),
    "unknown set": (["new", *SC, "--dataset", "digit"], "unknown dataset 'digit'; did you mean digits?"),
    "unknown suite": (["new", *SC, *DIGITS, "--suite", "demoo"], "unknown suite 'demoo'; did you mean demo?"),
    "unknown array": (["new", *SC, *DIGITS, "--array", "pt"], "'pt' is not one of"),
    "missing photos": (["new", *SC, "--dataset", "folder:path=nowhere"], "nowhere/train is missing"),
    "no OUT": ([*SC, *DIGITS], "Missing argument 'OUT'"),
    "OUT in use": (["full", *SC, *DIGITS], "full is not empty; export into a new folder"),
    "OUT is a file": (["full/file", *SC, *DIGITS], "full/file is not a folder"),
    "OUT below a file": (["full/file/x/y", *SC, *DIGITS], "cannot write full/file/x/y: Not a directory"),
    "OUT too long": (["x" * 300, *SC, *DIGITS], "File name too long"),
    "OUT without permission": (["locked/out", *SC, *DIGITS], "cannot write locked/out: Permission denied"),
    "a locked OUT": (["locked", *SC, *DIGITS], "cannot write locked: Permission denied"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(
    mistake: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("full").mkdir()
    Path("full", "file").touch()
    Path("locked").mkdir()
    if "locked" in mistake or "permission" in mistake:
        refused = {Path.cwd() / "locked"} | ({Path.cwd()} if mistake == "a locked OUT" else set())
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in refused)  # root may write anywhere
    words, expected = MISTAKES[mistake]
    before = sorted(Path().rglob("*"))
    done = call(*words, status=1 if "cannot write" in expected or "too long" in expected else 2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert expected in line
    assert done.stdout == ""
    assert sorted(Path().rglob("*")) == before


def test_one_class_is_refused(call: Call) -> None:
    Path("set", "me").mkdir(parents=True)
    gradient().save("set/me/a.png")
    done = call("out", *SC, *SET, status=1)
    assert "dataset folder has one class only; there is nothing to learn" in done.stderr
    assert not Path("out").exists()


def test_an_export_is_never_mixed_with_another(call: Call) -> None:
    call("out", *SC, *DIGITS)
    before = tree("out")
    assert "out is not empty; export into a new folder" in call("out", *SC, *DIGITS, "--seed", "1", status=2).stderr
    assert tree("out") == before


def test_an_empty_folder_a_link_to_one_and_one_not_there_yet_are_fine(call: Call, tmp_path: Path) -> None:
    Path("empty").mkdir()
    Path("behind").mkdir()
    Path("link").symlink_to("behind")
    Path("here").mkdir()
    for out in ("empty", "link", "made/on/the way", "a" * 255):
        call(out, *SC, *DIGITS)
        assert (len(manifest(out)["images"]), len(list(Path(out, "images").iterdir()))) == (97, 10)
    assert Path("link").is_symlink()
    os.chdir("here")
    call(".", *SC, *DIGITS, "--store", "../.uebench")
    assert Path(tmp_path, "here", "manifest.json").is_file()
    assert sorted(one.name for one in tmp_path.iterdir() if one.name[0] == ".") == [".uebench"]


def stumble(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the twentieth picture fail."""
    save, done = Image.Image.save, []

    def fail(self: Image.Image, *given: Any) -> None:
        done.append(given)
        if len(done) == 20:
            raise error
        save(self, *given)

    monkeypatch.setattr(Image.Image, "save", fail)


@pytest.mark.parametrize("empty", [True, False])
def test_what_fails_halfway_leaves_nothing(empty: bool, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    call("first", *SC, *DIGITS)
    if empty:
        Path("out").mkdir()
    before = sorted(Path().iterdir())
    with monkeypatch.context() as patch:
        stumble(patch, OSError(28, "No space left on device"))
        assert call("out", *SC, *DIGITS, status=1).stderr == "Error: cannot write out: No space left on device\n"
    with monkeypatch.context() as patch:
        stumble(patch, KeyboardInterrupt())
        assert "The same command goes on" in call("out", *SC, *DIGITS, status=130).stderr
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))  # between a picture and the array
        assert "cannot write out: " in call("out", *SC, *DIGITS, "--array", "safetensors", status=1).stderr
        assert "cannot write out: " in call("out", *SC, *DIGITS, "--array", "npy", status=1).stderr
        assert "cannot write " in call("out", *SC, *DIGITS, "--array", "none", status=1).stderr, "the manifest"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(Path().iterdir()) == before
    assert not empty or not list(Path("out").iterdir())
    call("out", *SC, *DIGITS)
    assert {key: content for key, (content, _) in tree("first").items()} == {
        key.replace("out", "first", 1): content for key, (content, _) in tree("out").items()
    }


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Bring in a source of two images, of which the first has a name of its own."""

    def register(called: str, label: str = "a") -> None:
        class Hostile(Source):
            name = "hostile"

            def load(self, folder: Path) -> Dataset:
                split = Split(torch.full((2, 3, 8, 8), 99, dtype=torch.uint8), torch.arange(2))
                return Dataset(split, split, [label, "b"], [called, "b/y"])

        monkeypatch.setitem(
            registry().entries["dataset"], "hostile", RegisteredComponent(Hostile, "dataset", "stranger", "1")
        )

    return register


CLIMBING = {
    "up": ("../x", ".."),
    "up and out": ("../x/y", "../x"),
    "up in the middle": ("a/../../x", "a"),
    "absolute": ("/tmp/x", ""),
    "nothing": ("", "a"),
    "no class": ("x", "a"),
    "no name": ("a/", "a"),
    "empty class": ("/x", ""),
    "this folder": ("./x", "."),
    "a dot": ("a/.", "a"),
    "three parts": ("a/x/y", "a"),
    "three parts with a class of two": ("a/x/y", "a/x"),
    "two slashes": ("a//x", "a"),
    "no character": ("a/x\0y", "a"),
    "a class of no character": ("a\0/y", "a\0"),
    "another class": ("b/x", "a"),
}


@pytest.mark.parametrize("case", CLIMBING)
def test_names_that_climb_out_are_refused(case: str, call: Call, hostile: Callable[..., None], tmp_path: Path) -> None:
    hostile(*CLIMBING[case])
    done = call("here/out", *SC, "--dataset", "hostile", status=2)
    (line,) = done.stderr.splitlines()
    assert line == f"Error: dataset hostile: {CLIMBING[case][0]!r} is not of the form class/name"
    assert {one.name for one in tmp_path.iterdir()} <= {".uebench", "here"}
    assert not list(tmp_path.glob("here/*"))


@pytest.mark.parametrize(
    "called", ["con/nul", ".hid/.x", "a b/ ", "a\\b/c:d*?", "~/$HOME", "line\nbreak/x", "..a/b..", "ü/é"]
)
def test_odd_names_are_kept(called: str, call: Call, hostile: Callable[..., None]) -> None:
    hostile(called, called.partition("/")[0])
    call("out", *SC, "--dataset", "hostile")
    assert manifest()["images"][0]["path"] == f"images/{called}.png"
    assert pixels(Path("out/images", f"{called}.png")).shape == (3, 8, 8)


def test_file_names_that_are_no_text_or_very_long_do_no_harm(call: Call) -> None:
    odd = os.fsdecode(b"\xff\xfe")
    photos(Path("set"), **{f"{odd}__png": grey, f"{odd}__jpg": truncated, "x" * 251 + "__png": grey})
    done = call("out", *SC, *SET, status=1)
    assert "left out: set/mine/" in done.stderr
    assert {os.fsencode(path.name) for path in Path("out/images/mine").iterdir()} == {
        b"\xff\xfe.png.png",
        b"x" * 251 + b".png",
    }
    assert f"images/mine/{odd}.png.png" in [one["path"] for one in manifest()["images"]]
    photos(Path("long"), **{"x" * 251 + "__png": grey, "x" * 251 + "__jpg": grey})
    done = call("new", *SC, "--dataset", "folder:path=long,size=16", status=1)
    assert done.stderr == "Error: cannot write new: File name too long\n"
    assert not Path("new").exists()
