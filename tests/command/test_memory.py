"""A program restarts itself once, so that glibc keeps freed memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
print("started", os.getpid(), os.environ.get("GLIBC_TUNABLES", ""), flush=True)
from siamese.command.memory import keep_freed_memory
keep_freed_memory()
print("continues", os.getpid(), sys.argv[1:], sys.flags.optimize, "torch" in sys.modules)
"""


def lines(tmp_path: Path, **env: str) -> list[str]:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-O", str(script), "a b", "--c=1"],
        env={**environment, "PYTHONPATH": str(ROOT), **env}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.skipif("glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="not glibc")
def test_restarts_once_with_its_arguments_flags_and_process_id(tmp_path: Path) -> None:
    first, second, last = lines(tmp_path, GLIBC_TUNABLES="glibc.rtld.nns=4")
    number = first.split()[1]
    assert second.startswith(f"started {number} glibc.rtld.nns=4:glibc.malloc.mmap_max=0:")
    assert last == f"continues {number} ['a b', '--c=1'] 1 False"


def test_the_users_own_settings_are_left_alone(tmp_path: Path) -> None:
    first, last = lines(tmp_path, GLIBC_TUNABLES="glibc.malloc.arena_max=2")
    assert first.endswith("glibc.malloc.arena_max=2")
    assert last.startswith("continues")
