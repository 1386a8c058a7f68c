"""Work on disk: whole or not at all, checked when read, safe with other processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from uebench.components.errors import StoreError
from uebench.jobs.tensor_files import pack_tensors, tensor_writer, unpack_tensors
from uebench.storage.atomic_files import write_atomically
from uebench.storage.store import Busy, Store

FILES = {"one.bin": bytes(range(256)), "two.json": b"{}"}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", said.append)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and "locks" not in path.parts]


def load(store: Store, key: str) -> dict[str, bytes] | None:
    found = store.find(key)
    return found and {name: path.read_bytes() for name, path in found.items()}


def test_tensors_become_a_safetensors_file_that_is_checked_like_any_other(store: Store, said: list[str]) -> None:
    tensors = {"a": torch.arange(6).view(2, 3).t(), "b": torch.ones(2, dtype=torch.uint8)}
    store.save("ab12", {**FILES, "some.safetensors": tensor_writer(tensors)})
    found = store.find("ab12")
    assert found
    assert sorted(found) == ["one.bin", "some.safetensors", "two.json"]
    back = safetensors.torch.load_file(found["some.safetensors"])
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    content = found["some.safetensors"].read_bytes()
    found["some.safetensors"].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert store.find("ab12") is None
    assert "some.safetensors" in said[0]


def test_what_is_saved_is_loaded(store: Store, said: list[str]) -> None:
    assert load(store, "ab12") is None
    store.save("ab12", FILES)
    assert load(store, "ab12") == FILES
    assert not said


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "remove"])
@pytest.mark.parametrize("which", ["one.bin", "two.json", "manifest.json"])
def test_any_damage_is_noticed_said_and_mended(store: Store, said: list[str], which: str, how: str) -> None:
    store.save("ab12", FILES)
    (path,) = store.root.rglob(which)
    content = path.read_bytes()
    match how:
        case "flip":
            path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        case "truncate":
            path.write_bytes(content[:-1])
        case "empty":
            path.write_bytes(b"")
        case "remove":
            path.unlink()
    assert load(store, "ab12") is None
    assert len(said) == 1
    assert which in said[0]
    assert "made again" in said[0]
    store.save("ab12", FILES)
    assert load(store, "ab12") == FILES


@pytest.mark.parametrize("how", ["edit", "remove"])
def test_a_file_is_not_read_where_another_of_its_key_was_damaged(store: Store, said: list[str], how: str) -> None:
    """Or a cell would count as finished whose log is lost, and never be made again."""
    store.save("ab12", FILES)
    assert store.read("ab12", "two.json") == FILES["two.json"]
    (path,) = store.root.rglob("one.bin")
    path.write_bytes(bytes(256)) if how == "edit" else path.unlink()
    assert store.read("ab12", "two.json") is None
    assert len(said) == 1
    assert "one.bin" in said[0]


def test_what_is_not_used_now_is_read_only_where_it_was_written_to(store: Store, said: list[str]) -> None:
    store.save("ab12", FILES)
    found = store.find("ab12", thorough=False)
    assert found
    path = found["one.bin"]
    before = path.stat()
    path.write_bytes(bytes(256))
    assert store.find("ab12", thorough=False) is None
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.find("ab12", thorough=False) == found, "as if nobody had written; whoever uses it makes sure"
    assert store.find("ab12") is None
    assert len(said) == 2


def test_every_single_byte_of_the_half_finished_state_is_covered(store: Store, said: list[str]) -> None:
    state = {"weights": torch.arange(6.0).view(2, 3), "step": torch.tensor(3)}
    store.keep("ab12", pack_tensors(state))
    kept = unpack_tensors(store.kept("ab12"))
    assert all(torch.equal(kept[name], state[name]) for name in state)
    path = store.root / "half" / "ab12"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert store.kept("ab12") == b""
    path.write_bytes(content[:30])
    assert store.kept("ab12") == b""
    assert "starts over" in said[-1]


def test_tensors_that_share_memory_are_kept_and_saved(store: Store) -> None:
    """As the tied weights of a network do."""
    whole = torch.arange(6.0).view(2, 3)
    state = {"one": whole, "same": whole, "part": whole[1], "turned": whole.t(), "none": torch.empty(0)}
    store.keep("ab12", pack_tensors(state))
    store.save("cd34", {"weights.safetensors": tensor_writer(state)})
    found = store.find("cd34")
    assert found
    for kept in (unpack_tensors(store.kept("ab12")), safetensors.torch.load_file(found["weights.safetensors"])):
        assert all(torch.equal(kept[name], value) for name, value in state.items())


def test_finishing_removes_the_half_finished_state(store: Store) -> None:
    store.keep("ab12", pack_tensors({"step": torch.tensor(3)}))
    store.save("ab12", FILES)
    assert store.kept("ab12") == b""


def test_a_full_disk_leaves_nothing_half_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("ab12", FILES)
    before = files(store.root)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for attempt in (
        lambda: store.save("cd34", FILES),
        lambda: store.save("ab12", {"one.bin": b"other"}),
        lambda: store.keep("cd34", pack_tensors({"step": torch.tensor(1)})),
        lambda: write_atomically(store.root / "results.jsonl", b"line"),
    ):
        with pytest.raises(StoreError, match="No space left on device"):
            attempt()
    assert files(store.root) == before
    assert load(store, "ab12") == FILES


def test_what_a_killed_write_left_is_swept_up(store: Store) -> None:
    store.keep("ab12", pack_tensors({"step": torch.tensor(3)}))
    left = store.root / "half" / ".ab12.999"
    left.write_bytes(b"a part")
    store.save("ab12", FILES)
    assert not left.exists()


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file"):
        Store(tmp_path / "file").prepare()


def hold(root: Path, held: multiprocessing.synchronize.Event) -> None:
    with Store(root).lock("ab12"):
        held.set()
        multiprocessing.Event().wait(60)


def test_a_held_key_is_busy_until_its_holder_dies(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold, args=(store.root, held))
    process.start()
    assert held.wait(60)
    with pytest.raises(Busy), store.lock("ab12"):
        pass
    process.kill()
    process.join()
    with store.lock("ab12"):
        pass
