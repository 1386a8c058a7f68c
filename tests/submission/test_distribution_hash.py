"""The hash of an installed distribution."""

from __future__ import annotations

from pathlib import Path

import pytest

from uebench.submission import distribution_hash


def distribution(folder: Path, code: str, installer: str) -> None:
    """Lay out an installed distribution as pip does."""
    info = folder / "my_noise-1.0.dist-info"
    (info).mkdir(parents=True)
    files = {"my_noise.py": code, "my_noise-1.0.dist-info/METADATA": "Name: my-noise\nVersion: 1.0\n"}
    local = {"my_noise-1.0.dist-info/INSTALLER": installer, "__pycache__/my_noise.pyc": installer}
    (folder / "__pycache__").mkdir()
    for name, text in {**files, **local}.items():
        (folder / name).write_text(text)
    (info / "RECORD").write_text(
        "".join(f"{name},,\n" for name in (*sorted({**files, **local}), f"{info.name}/RECORD"))
    )


def test_the_hash_of_a_distribution_is_that_of_its_files_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for place, (code, installer) in enumerate((("x = 1", "pip"), ("x = 1", "uv"), ("x = 2", "pip"))):
        distribution(tmp_path / str(place), code, installer)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / str(place))
            found.append(distribution_hash.hash_distribution("my-noise"))
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0] is not None
    assert found[0][0] == "1.0"
    assert distribution_hash.hash_distribution("a-distribution-that-nobody-has") is None


def test_the_hash_of_an_editable_distribution_tells_files_of_one_name_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two modules change places: every name and every content stays, the paths do not."""
    hashes = []
    for number, (first, second) in enumerate((("1", "2"), ("2", "1"), ("1", "2"))):
        folder = tmp_path / str(number)
        info = folder / "pair-1.0.dist-info"
        for name, code in (("a", first), ("b", second)):
            (folder / "pair_package" / name).mkdir(parents=True)
            (folder / "pair_package" / name / "same.py").write_text(f"VALUE = {code}")
        (folder / "pair_package" / "__init__.py").write_text("")
        info.mkdir()
        (info / "METADATA").write_text("Name: pair\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[uebench]\npair = pair_package.a.same\n")
        (info / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            hashes.append(distribution_hash.hash_distribution("pair"))
    assert hashes[0] == hashes[2]
    assert hashes[0] != hashes[1]
