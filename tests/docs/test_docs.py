"""README and docs: every command works, every path exists, every link leads somewhere, every example change applies."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from phone import phone_folder
from shell import INLINE, PAGES, blocks, check, commands

from siamese.data.lists import read_pairs
from siamese.data.synthetic.plan import SyntheticSpec
from siamese.data.synthetic.tree import write_lfw_tree

SERVER = Path(__file__).with_name("python_server.py")
PARTS = {"optimizer": "rmsprop", "objective": "hinge", "model": "mlp"}
OTHERS = SyntheticSpec(train_people=10, test_people=10, train_pairs=30, test_pairs=20, view2_pairs=20, seed=1)
LANGUAGES = {"sh", "bash", "python", "yaml", "diff", "text"}  # bash: a command for an interactive shell only
QUICK_PAGES = ("README.md",)
RUN_PAGES = [
    pytest.param(page, marks=[] if page in QUICK_PAGES else pytest.mark.slow)
    for page in PAGES
    if any(block.language == "sh" and not block.reason for block in blocks(page))
]
EXTRAS = {"docs/sweeps.md": "optuna", "docs/using-a-model.md": "onnxscript"}
"""Pages whose commands need a package that is not installed by default."""
EXAMPLES = re.compile(
    r"rmsprop|hinge|mlp|NAME|outputs/|multirun/|checkpoints/|data/|\.venv|build/|best/|report/(adam|final|grid)"
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


# --- without running anything -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_the_project_has(page: str) -> None:
    """Overrides compose to a valid configuration, arguments parse, make targets and extras exist."""
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: name the language of the block, sh for commands"
        if block.language == "sh":
            for words in commands(block.text):
                if (words[0] == "python" and words[1] == "-") or words[0].startswith("#"):
                    continue
                try:
                    check(words)
                except (Exception, SystemExit) as error:
                    pytest.fail(f"{block}: {' '.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_sentence_or_table_is_valid(page: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)
    for command in INLINE.findall(prose):
        for words in commands(" ".join(command.split())):
            if "..." in words:
                continue
            try:
                check(words)
            except (Exception, SystemExit) as error:
                pytest.fail(f"{page}: {command}: {error}")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_is_named_exists(page: str) -> None:
    prose = re.sub(r"^```diff.*?^```$", "", text_of(page), flags=re.M | re.S)
    named = set(re.findall(r"(?<![\w./-])((?:siamese|tests|conf|docs|benchmarks)/[\w./-]*[\w/])", prose))
    named |= set(re.findall(r"(?<![\w/])(test_\w+\.py)", prose))
    test_files = {file.name for file in (ROOT / "tests").rglob("test_*.py")}
    for path in sorted(named):
        if EXAMPLES.search(path):
            continue
        assert (ROOT / path).exists() or path in test_files, f"{page} names {path}, which does not exist"
    for file, test in re.findall(r"`(?:tests/(?:\w+/)?)?(test_\w+\.py)::(test_\w+)", prose):
        sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob(file)]
        assert any(f"def {test}" in source for source in sources), f"{page} names {file}::{test}, which does not exist"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        file = folder / path if path else ROOT / page
        assert file.exists(), f"{page} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page} links to {link}"


@pytest.mark.parametrize("page", PAGES)
def test_no_placeholder_is_left(page: str) -> None:
    assert not re.findall(r"^[A-Z]{2,}$|\b(?:TODO|TBD|FIXME)\b", text_of(page), re.M)


def test_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 130


def test_the_table_of_packages_is_complete() -> None:
    rows = [line for line in text_of("docs/architecture.md").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", row.split("|")[1])}
    parts = {path.stem for path in (ROOT / "siamese").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert named >= {name for name in parts if not name.startswith("_")} - {"conf"}


def test_the_generated_pages_are_up_to_date() -> None:
    """They are written by ``python docs/generate.py``."""
    pages = runpy.run_path(str(ROOT / "docs/generate.py"))["PAGES"]
    for page, text in pages.items():
        assert text_of(f"docs/{page}") == text(), f"docs/{page} is out of date: run python docs/generate.py"


def a_copy(folder: Path) -> Path:
    """The code and the configuration, without what is built or kept out of git."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("siamese", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("train.py", "eval.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def diffs() -> list[str]:
    return [block.text for block in blocks("docs/extending.md") if block.language == "diff"]


def apply(diff: str, folder: Path) -> None:
    done = subprocess.run(
        ["git", "apply", "-C1", "-"], cwd=folder, input=diff, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_changes_that_add_a_part_apply(tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    assert len(diffs()) == len(PARTS)
    for diff in diffs():
        apply(diff, folder)


# --- running the commands ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], None]]:
    """A folder with everything that the commands name; returns a function that runs a script of the shell in it.

    LFW is the tiny synthetic faces, under the names of all its copies. ``python`` is `python_server.py`, which makes
    the runs small. ``make demo`` and ``make best`` only train, ``make env`` does nothing. A run with data=synthetic
    is there already.
    """
    folder = tmp_path_factory.mktemp("docs")
    for name in ("train.py", "eval.py", "conf"):
        (folder / name).symlink_to(ROOT / name)
    lfw = folder / "lfw"
    lfw.mkdir()
    for file in tiny_root.glob("*.txt"):
        (lfw / file.name).symlink_to(file)
    for name in ("lfw", "lfw_funneled", "lfw-deepfunneled", "lfw2"):
        (lfw / name).symlink_to(tiny_root / "lfw")
    (folder / "GALLERY").symlink_to(tiny_root / "lfw")
    for name, seed in (("others", 1), ("mine", 2)):
        write_lfw_tree(folder / name, replace(OTHERS, seed=seed), workers=1)
    (folder / "OTHER_PHOTOS").symlink_to(folder / "others/lfw")
    phone_folder(folder / "mine/lfw", folder / "PHOTOS")
    (folder / "CHARACTERS").symlink_to(folder / "mine/lfw")
    photos = sorted((tiny_root / "lfw").glob("*/*.jpg"))
    for name in ("a.jpg", "b.jpg", "photo.jpg"):
        shutil.copy(photos.pop(), folder / name)
    pairs = [pair for split in ("Train", "Test") for pair in read_pairs(folder / f"others/pairsDev{split}.txt")]
    rows = [f"others/lfw/{pair.image1},others/lfw/{pair.image2},{pair.label}" for pair in pairs]
    (folder / "pairs.csv").write_text("\n".join(["image1,image2,label", *rows]))
    shutil.copytree(ROOT / "docs/reproduction", folder / "multirun/reproduction")
    space = next(block.text for block in blocks("docs/sweeps.md") if block.language == "yaml")
    (folder / "my-space.yaml").write_text(space)

    short = Path(tempfile.mkdtemp())  # the path of a socket has about a hundred characters at most
    binary = folder / "bin/python"
    binary.parent.mkdir()
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {SERVER} {short / "socket"} "$@"\n')
    make = binary.with_name("make")
    trains = "best) set best/quick;; demo) ;; *) exit;;"
    make.write_text(f'#!/bin/sh\ncase "$1" in {trains} esac\nexec python train.py experiment=$1\n')
    for file in (binary, make):
        file.chmod(0o755)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()
    environment = os.environ | {
        "PATH": f"{binary.parent}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{SERVER.parent}:{SERVER.parent.parent}",
        "LFW_ROOT": str(lfw), "GLIBC_TUNABLES": "glibc.malloc.check=0",  # set, so train.py does not start itself again
    }  # fmt: skip
    with subprocess.Popen([sys.executable, SERVER, short / "socket"], env=environment) as server:
        wait_for(short / "socket", server)

        def run(script: str) -> None:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{script}\n{done.stdout}"

        run("python train.py optimizer=adam model.batchnorm=true hydra.run.dir=RUN")
        run("python train.py data=synthetic")
        for name in (
            "STOPPED_RUN", "RUN1", "RUN2", "RUN3", "FOLDER", "FOLDER1", "FOLDER2", "FOLDER3", "outputs/DATE/TIME",
        ):  # fmt: skip
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(folder / "RUN")
        yield run
        server.kill()
    shutil.rmtree(short)


def wait_for(address: Path, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None, "the server ended"
        with socket.socket(socket.AF_UNIX) as caller:
            if caller.connect_ex(str(address)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the server did not start")


@pytest.mark.integration
@pytest.mark.parametrize("page", RUN_PAGES)
def test_the_commands_of_a_page_run(page: str, workplace: Callable[[str], None]) -> None:
    """In their order; those marked "not run" are only checked above."""
    if page in EXTRAS:
        pytest.importorskip(EXTRAS[page], reason="an extra")
    for block in blocks(page):
        if block.language == "sh" and not block.reason:
            workplace(block.text)
        elif block.language == "python":
            workplace(f"{sys.executable} - <<'END'\n{block.text}END")


@pytest.mark.integration
def test_plain_pytorch_computes_the_embeddings_and_scores_of_a_run(workplace: Callable[[str], None]) -> None:
    """The program in docs/how-to.md that loads the weights without this project."""
    program = next(block.text for block in blocks("docs/how-to.md") if "state_dict" in block.text)
    assert "siamese" not in program
    comparison = """
from siamese import Verifier

verifier = Verifier.load("RUN")
expected = verifier.embed(["a.jpg", "b.jpg"])
np.testing.assert_allclose(embeddings, expected, atol=1e-5)
assert abs(score.item() - verifier.compare(expected, [(0, 1)])[0].score) < 1e-5
"""
    workplace(f"{sys.executable} - <<'END'\n{program}{comparison}END")


@pytest.mark.integration
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """A link to a missing page or heading is a warning, and ends the build."""
    pytest.importorskip("zensical", reason="an extra")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "build/site"
    assert "Verifier.load" in (site / "api.html").read_text(encoding="utf-8")
    pages = [page.read_text(encoding="utf-8") for page in site.glob("*.html")]
    assert len(pages) > len(PAGES) - 4
    assert not any(re.search(r'(src="|<link[^>]+href=")https?://', page) for page in pages)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), PARTS.items())
def test_an_added_part_trains(group: str, option: str, tiny_overrides: list[str], tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    apply(diffs()[list(PARTS).index(group)], folder)
    kept = [word for word in tiny_overrides if not (group == "model" and word.startswith("model."))]
    done = subprocess.run(
        [sys.executable, "train.py", *kept, f"{group}={option}", "hydra.run.dir=run"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout + done.stderr
