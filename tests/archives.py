"""Small archives for tests of downloading and unpacking."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from pathlib import Path

BODY = random.Random(0).randbytes(200_000)


def tree(folder: Path) -> list[str]:
    """All files and folders below a folder, without the lock file, which always stays."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in found if name != ".download.lock")


def regular(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def tgz(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


FACES = [
    special("lfw", tarfile.DIRTYPE),
    special("lfw/Ada", tarfile.DIRTYPE),
    regular("lfw/Ada/Ada_0001.jpg", BODY),
    regular("lfw/Ben/Ben_0001.jpg", b"ben"),
]
FACES_TREE = ["lfw", "lfw/Ada", "lfw/Ada/Ada_0001.jpg", "lfw/Ben", "lfw/Ben/Ben_0001.jpg"]
