"""Lets torchvision download a data set quietly, and says which file to put where when it cannot."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from http.client import HTTPException
from pathlib import Path

from uebench import UserError


@contextmanager
def fetching(owner: str, place: Path, url: str, file: str, md5: str) -> Iterator[None]:
    """Run the part that may download `file` into `place`; raises `UserError` where it fails.

    Progress bars of torchvision go to standard error, which is kept silent meanwhile.
    """
    from torchvision.datasets.utils import check_integrity

    try:
        place.mkdir(parents=True, exist_ok=True)
        with redirect_stderr(io.StringIO()):
            yield
    except (OSError, RuntimeError, HTTPException, EOFError, tarfile.TarError, zlib.error) as error:
        damaged = (place / file).exists() and not check_integrity(place / file, md5)
        reason = f"the {file} there is damaged or incomplete: its md5 differs" if damaged else _line(error)
        raise UserError(
            f"dataset {owner}: cannot download {url} ({reason}); put {file} (md5 {md5}) into {place.resolve()}"
        ) from error


def _line(error: Exception) -> str:
    inner = getattr(error, "reason", None)  # what URLError wraps
    inner = inner if isinstance(inner, OSError) else error
    reason = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return " ".join(reason.split())
