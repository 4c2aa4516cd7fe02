"""The shell commands in README and docs: where they stand, whether they are valid, and how a test makes them small."""

from __future__ import annotations

import itertools
import re
import shlex
import time
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from siamese.command.main import HYDRA, parse
from siamese.config.load import load_eval, load_train

PAGES = [
    file.relative_to(ROOT).as_posix()
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "multirun/README.md", *ROOT.glob("docs/*.md")]
]
FENCE = re.compile(r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\S*)\n(?P<text>.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`((?:python (?:train\.py|eval\.py|-m (?:siamese|benchmarks))|make) [^`]+)`")
STARTERS = {"torchrun", "srun"}
OTHER_PROGRAMS = {"source", "optuna-dashboard", "nvidia-smi", ".venv/bin/pre-commit", ".venv/bin/python"}

SMALL_MODELS = {
    "koch": ["model.widths=[4,4,8,8]", "model.embedding_dim=16"],
    "resnet": ["model.widths=[4,8]", "model.blocks=[1,1]", "model.embedding_dim=8"],
    "lbp": ["model.embedding_dim=8"],
    "multicrop": ["model.widths=[4,8]", "model.blocks=[1,1]", "model.embedding_dim=8"],
}
SMALL_RUN = ["max_epochs=1", "data.image_size=65", "trainer=cpu", "trainer.progress_bar=false"]
SMALL_FACES = ["data.train_people=18", "data.test_people=12", "data.train_pairs=30", "data.test_pairs=20"]
"""With the person whose photos README and tutorial name."""


class Block(NamedTuple):
    """A fenced block of a page; ``reason`` says why a test does not run it, and is empty if a test does."""

    page: str
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, text[: found.start("text")].count("\n"), found["language"], found["text"], found["reason"] or "")
        for found in FENCE.finditer(text)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell script, each as its words; comments and assignments of variables are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"\w+=\$\(", line):
            continue
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            yield words


def check(words: list[str]) -> None:
    """Raise if a command is not one that the project has, or if its configuration is not valid."""
    if words[0] in STARTERS:
        script = next(i for i, word in enumerate(words) if word.endswith("train.py"))
        words = ["python", *words[script:]]
    match words:
        case ["python", "train.py" | "eval.py" as script, *overrides]:
            check_overrides(script.removesuffix(".py"), overrides)
        case ["python", "-m", "siamese", *arguments] | ["siamese", *arguments]:
            options = parse(arguments[:1] if arguments[0] in HYDRA else arguments)
            if options.command in HYDRA:
                check_overrides(options.command, arguments[1:])
            elif options.command == "search":
                check_overrides("train", options.override)
        case ["python", "-m", "siamese.data.synthetic", "--contact-sheet", _]:
            pass
        case ["python", "-m", "benchmarks", name, *_]:
            from benchmarks.__main__ import BENCHMARKS

            assert name in BENCHMARKS
        case ["make", *targets]:
            for target in targets:
                assert "=" in target or re.search(rf"^{target}:", makefile(), re.M), f"no make target {target}"
        case ["pip" | ".venv/bin/pip", "install", *packages]:
            for extras in re.findall(r"\[([\w,]+)\]", " ".join(packages)):
                assert all(re.search(rf"^{extra} = \[", pyproject(), re.M) for extra in extras.split(",")), extras
        case _:
            assert words[0] in OTHER_PROGRAMS, f"unknown command {words}"


@cache
def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


@cache
def pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def check_overrides(name: str, overrides: list[str]) -> None:
    """Compose and validate the first and the last job of a command."""
    if {"--help", "--cfg"} & set(overrides):
        return
    jobs = jobs_of(overrides)
    for job in {tuple(jobs[0]), tuple(jobs[-1])}:
        config = composed(name, list(job))
        load_eval(config) if name == "eval" else load_train(config)


def jobs_of(overrides: list[str]) -> list[list[str]]:
    """The overrides of each job of a command; Hydra's own keys and options are left out."""
    task = [word for word in overrides if not word.startswith(("-", "hydra.", "hydra/"))]
    task = ["debug='nan'" if word == "debug=nan" else word for word in task]
    parsed = OverridesParser.create().parse_overrides(task)
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [word]
        for one, word in zip(parsed, task, strict=True)
    ]
    return list(map(list, itertools.product(*values)))


def composed(name: str, overrides: list[str]) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(config_name=name, overrides=overrides)


def smaller(words: list[str]) -> list[str]:
    """The same command with a small network, few images and one epoch; a sweep keeps two values of one key."""
    match words:
        case ["train.py" | "eval.py" as script, *overrides]:
            own_folder = [] if {"-m"} & set(overrides) or "hydra.run.dir" in " ".join(overrides) else [unique_folder()]
            settings = small_settings(overrides) if script == "train.py" else []
            if "protocol=oneshot" in overrides:
                settings = ["protocol.ways=[2,5,10]"]  # as many people as the small test set has
            return [script, *shorter(overrides), *settings, *own_folder]
        case ["-m", "siamese", "search", space, folder, *rest]:
            overrides = [word for word in rest if "=" in word]
            return ["-m", "siamese", "search", space, folder, *overrides, *small_settings(overrides), "--trials", "1"]
    return words


def unique_folder() -> str:
    """A run folder of its own: two runs that start within a second would share the default one."""
    return f"hydra.run.dir=outputs/{time.time_ns()}"


def shorter(overrides: list[str]) -> list[str]:
    """Two values of the first list of values, one of each further list."""
    found, kept = 0, []
    for word in overrides:
        key, equals, value = word.partition("=")
        values = value.split(",")
        if equals and len(values) > 1 and not value.startswith(("[", "{")):
            found += 1
            value = ",".join(values[: 2 if found == 1 else 1])
        kept.append(f"{key}{equals}{value}")
    return kept


def small_settings(overrides: list[str]) -> list[str]:
    """Overrides that make the run of a command small; they come last, so they win."""
    job = jobs_of(overrides)[0]
    config = composed("train", job)
    small = [*SMALL_RUN, *SMALL_MODELS[config.model.name]]
    if not config.max_epochs:  # calibrates the network of another run
        small.append("max_epochs=0")
    if config.data.align:  # no detector finds drawn faces
        small.append("data.align=null")
    if config.data.name == "synthetic":
        small += SMALL_FACES
    if config.precision != "32":
        small.append("precision=32")
    if "experiment=report/grid" in job:
        small += ["batch_size=8,16", "weight_decay=1e-4"]
    return small
