"""Download of a data set by torchvision, with an error that says which file to put into which folder."""

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
def explain_download_errors(owner: str, path: Path, url: str, file: str, md5: str) -> Iterator[None]:
    """Run the block that may download `file` into the folder `path`; raises `UserError` when it fails.

    Standard error is suppressed in the block, because torchvision's progress bars go there.
    """
    from torchvision.datasets.utils import check_integrity

    try:
        path.mkdir(parents=True, exist_ok=True)
        with redirect_stderr(io.StringIO()):
            yield
    except (OSError, RuntimeError, HTTPException, EOFError, tarfile.TarError, zlib.error) as error:
        damaged = (path / file).exists() and not check_integrity(path / file, md5)
        reason = f"the {file} there is damaged or incomplete: its md5 differs" if damaged else _describe_error(error)
        raise UserError(
            f"dataset {owner}: cannot download {url} ({reason}); put {file} (md5 {md5}) into {path.resolve()}"
        ) from error


def _describe_error(error: Exception) -> str:
    """Return the reason of a failed download in one line."""
    original = getattr(error, "reason", None)  # URLError wraps the original error
    original = original if isinstance(original, OSError) else error
    reason = getattr(original, "strerror", None) or str(original) or type(original).__name__
    return " ".join(reason.split())
