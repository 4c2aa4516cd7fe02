"""A value on the command line is what was typed, whatever Hydra's grammar makes of its characters."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, noise_photo
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st

from siamese.command.overrides import LISTS, NULLABLE, OUTPUT, TEXT, as_typed, shell_word
from siamese.config.defaults import configuration_folder
from siamese.config.load import compose_train
from siamese.config.reference import values_of
from siamese.config.schema import EvalConfig, TrainConfig
from siamese.config.section import sections_of
from siamese.errors import ConfigError
from siamese.report.load import configuration_options

Run = Callable[..., subprocess.CompletedProcess[str]]

NAMES = [
    "Fotos (2024)", "Ünïcode Ordner", "写真", "café", "😀", "a=b", "a&b", "a#b", "a;b", "a!b", "a`b", "^a", "<a>",
    "a|b", "@a", "+a", "~a", "a~", "-x", "a:b", "a%b", "a*b", "it's", 'say "hi"', "'a'b", "$x", "a\\b", "a\\", "\\'",
    "2024", "007", "1e5", "1_000", "true", "nan", "inf", "[x]", "{x}", "{a:1}", "(a)", "x)", "]", " leading",
    "trailing ", "a  b", "a\tb", "a\nb", "Fotos (1), Teil 2", "../2024", "/",
    "Meyer, Anna", "choice(a,b)",
]  # fmt: skip
"""Names of folders that a shell passes as one word."""


def read(word: str) -> Any:
    """What Hydra reads."""
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_what_was_typed(name: str) -> None:
    for key in ("data.root", "data.list", "data.cache", "hydra.run.dir", "name", "+data.root"):
        [word] = as_typed([f"{key}={name}"])
        assert read(word) == name
        assert as_typed([word]) == [word], "what Hydra recorded can be typed again"
        assert as_typed(shlex.split(shell_word(key, name))) == [word]
    if name not in ("[x]", "Meyer, Anna", "choice(a,b)"):
        assert read(as_typed([f"run={name}"])[0]) == name


@given(st.text(st.characters(exclude_characters="\\$'\"\0", exclude_categories=["Cs"])))
def test_any_text_is_what_was_typed(text: str) -> None:
    assume(text.lower() != "null")  # no value
    assert read(as_typed([f"data.root={text}"])[0]) == text


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_shown_word_can_be_typed(text: str) -> None:
    for key in ("data.root", "run"):
        assert read(as_typed(shlex.split(shell_word(key, text)))[0]) == text


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("data.root='a b'", "a b"),
        ('data.root="it\'s"', "it's"),
        (r"data.root=Fotos\ \(1\)", "Fotos (1)"),
        ("data.root=null", None),
        ("start_from=null", None),
        ("start_from=2024", "2024"),
        ("hydra.run.dir=outputs/${now:%Y}/${name}", "outputs/${now:%Y}/${name}"),
        ("hydra.run.dir=Fotos (1)/${name}", "Fotos (1)/${name}"),
        ("run=[2024,a (1),'x,y']", ["2024", "a (1)", "x,y"]),
        ("experiment=[best/quick,2024]", ["best/quick", "2024"]),
        ("debug=nan", "nan"),
        ("batch_size=32", 32),
        ("model.widths=[1,2]", [1, 2]),
        ("hydra.run.dir=~/a b", str(Path.home() / "a b")),
        ("hydra.run.dir='~/x'", str(Path.home() / "x")),
        ("hydra.job.name=a(b", "a(b"),
    ],
)
def test_notations_of_hydra_keep_their_meaning(typed: str, kept: object) -> None:
    assert read(as_typed([typed])[0]) == kept


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("data.root=2023,2024", ["2023", "2024"]),
        ("data.root=a,b c (1)", ["a", "b c (1)"]),
        ("data.root='a,b',c", ["a,b", "c"]),
        ("data.root=it's,that's", ["it's", "that's"]),
        ("run=[2023,2024],a", [["2023", "2024"], "a"]),
        ("seed=1,2", [1, 2]),
        ("data.root=choice(a,b)", ["a", "b"]),
        ("data.root=${oc.env:X,b},c", ["${oc.env:X,b}", "c"]),
    ],
)
def test_commas_separate_the_values_of_a_sweep(typed: str, values: list[object]) -> None:
    def plain(value: Any) -> Any:
        return [plain(one) for one in value] if isinstance(value, list) else getattr(value, "text", value)

    assert plain(read(as_typed(["-m", typed])[1]).list) == values


def test_a_key_that_only_the_swept_options_have_is_left_to_the_jobs() -> None:
    kept = ["max_epochs=1", "hydra.sweep.dir=a", "~scheduler.warmup_epochs", "model.widths=[1,2],[3]"]
    groups = ["-m", *kept, "experiment=best/quick,best/restricted"]
    assert as_typed(groups) == groups
    changed = as_typed([*groups, "objective.temperature=0.1", "model.blocks=[1,1]", "data.root=a,b", "name=a"])
    assert changed[len(groups) :] == [
        "objective.temperature=choice(0.1)", "model.blocks=choice([1,1])", "data.root=a,b", "name=a",
    ]  # fmt: skip
    for same in (
        ["-m", "seed=0,1", "optimizer.momentum=0.9"],
        ["optimizer=sgd", "optimizer.momentum=0.9"],
        ["-m", "optimizer=sgd,muon", "trainer.devices=2"],  # hydra.launcher may refer to it
    ):
        assert as_typed(same) == same


@pytest.mark.parametrize(
    "value", ["null", "~/x", "2024", "'2024'", "it's", "ä ö", "true", "", "${seed}", "[a,'1']", "1,2"]
)
def test_a_value_is_the_same_if_a_group_is_swept(value: str) -> None:
    for key in ("data.root", "data.cache", "trainer.gradient_clip_val", "logger.project"):
        [plain] = as_typed(["-m", f"{key}={value}"])[1:]
        [_, word] = as_typed(["-m", "experiment=a,b", f"{key}={value}"])[1:]
        if word != plain:
            [job] = OverridesParser.create().parse_override(word).sweep_string_iterator()
            assert read(f"{key}={job}") == read(plain)


def test_every_key_that_takes_text_is_known() -> None:
    texts, nullable = set(), set()
    for schema in (TrainConfig, EvalConfig):
        for name, field in schema.model_fields.items():
            keys = {
                f"{name}.{key}": one for sec in sections_of(field.annotation) for key, one in sec.model_fields.items()
            }
            for key, one in (keys or {name: field}).items():
                values = values_of(one)
                if values.startswith("text") and key not in ("trainer.max_time",):
                    texts.add(key)
                    nullable |= {key} if "null" in values else set()
    assert texts | OUTPUT | {"experiment", "debug"} == TEXT
    assert nullable == NULLABLE
    assert LISTS <= TEXT


def test_the_home_directory_in_every_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for words, key in (
        (["data=folder", "data.root=~/x"], "root"), (["data.cache=~/x"], "cache"),
        (["data=pairs", "data.list=~/x"], "list"),
    ):  # fmt: skip
        data = compose_train(as_typed(words)).data
        assert getattr(data, key) == str(tmp_path / "x")


def test_the_quoted_forms_in_messages_work(call: Run, tmp_path: Path) -> None:
    for name in ("a,b", "choice(a,b)"):
        refused = call("eval", f"run={name}")
        shown = refused.stderr.removesuffix(" for one text\n").rpartition(" or ")[2]
        assert call("eval", *shlex.split(shown)).stderr.startswith(f"error: run={name}: no such folder"), shown
    assert call("eval", "run=[a,b]").stderr.startswith("error: run=a: no such folder")
    assert call("train", "data=folder", r"data.root=\${x}").stderr.startswith("error: data.root=${x}: no such folder")


def test_several_options_of_a_group_are_refused() -> None:
    with pytest.raises(ConfigError, match="give one option"):
        as_typed(["logger=[csv,tensorboard]"])


@pytest.mark.slow
@pytest.mark.integration
def test_a_run_in_folders_with_unusual_names(run_script: Run, tiny_overrides: list[str], tmp_path: Path) -> None:
    """Photos, cache and output; the command of the page, the next commands and the recorded configuration work."""
    work = tmp_path / "work"
    photos = "Fotos (2024) & it's"
    for person in range(12):
        for photo in range(2):
            noise_photo(work / photos / f"Ünï {person}" / f"{photo}.png", seed=10 * person + photo, size=(70, 70))
    small = [word for word in tiny_overrides if not word.startswith("data")]
    own = ["data=folder", "data.image_size=65", "data.train_pairs=10", "data.val_pairs=4", "data.test_pairs=4"]
    done = run_script(
        "train.py", *small, *own, f"data.root={photos}", "data.cache=2024", "name=写真 #1 (a)", "max_epochs=1",
        "hydra.run.dir=-x, y/007 [1]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = work / "-x, y/007 [1]"
    recorded = yaml.safe_load((folder / "config.yaml").read_text())
    assert (recorded["data"]["root"], recorded["data"]["cache"], recorded["name"]) == (photos, "2024", "写真 #1 (a)")
    assert (work / "2024").is_dir()
    shown = re.findall(r"^  (python \S.*|tensorboard .*)$", done.stdout.partition("\nnext:\n")[2], re.M)
    assert shown[0] == """python -m siamese verify './-x, y/007 [1]' A.jpg B.jpg"""
    _, _, *words = shlex.split(next(command for command in shown if command.startswith("python eval.py")))
    evaluated = run_script("eval.py", *words)
    assert evaluated.returncode == 0, evaluated.stderr
    page = html.unescape((folder / "report.html").read_text())
    _, script, *words = shlex.split(re.search(r"python train\.py .*?max_epochs=1", page)[0])  # type: ignore[index]
    again = run_script(script, *words, f"hydra.run.dir={folder}")
    assert "already holds a run (done)" in again.stderr
    resumed = run_script(script, *words, f"hydra.run.dir='{folder}'", "resume=true")
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_configuration_file_without_the_section_of_hydra_is_checked(command: str, call: Run, tmp_path: Path) -> None:
    """As that of a run: `Guard` stops it before anything is written."""
    work = tmp_path / "work"
    (work / "own dir").mkdir(parents=True)
    (work / "own dir/mine.yaml").write_text("batch_size: 0\n" if command == "train" else "run: nowhere\n")
    done = call(command, "--config-path", "own dir", "--config-name=mine", "hydra.run.dir=out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: "), done.stderr
    assert [path.name for path in work.iterdir()] == ["own dir"]


def test_a_copy_of_the_configuration_is_checked_as_that_of_a_training(call: Run, tmp_path: Path) -> None:
    (tmp_path / "work/own").mkdir(parents=True)
    shutil.copy(ROOT / "conf/train.yaml", tmp_path / "work/own/mine.yaml")
    for words in ([], ["-m", "seed=0,1"]):
        done = call("train", "--config-dir=own", "--config-name=mine", *words, "data=folder", "data.root=2024")
        assert done.stderr.startswith("error: data.root=2024: no such folder"), done.stderr
    done = call("train", "--config-path=own", "--config-name=gone")
    assert "'gone'; for a file of your own give --config-path FOLDER" in done.stderr


def test_the_command_names_its_configuration_file() -> None:
    sources = [{"provider": "main", "path": "/x y"}, {"provider": "command-line", "path": "/own"}]
    recorded = {"job": {"config_name": "mine"}, "runtime": {"config_sources": sources}}
    assert configuration_options(recorded) == [
        "--config-path", "/x y", "--config-name", "mine", "--config-dir", "/own",
    ]  # fmt: skip
    sources[:] = [{"provider": "main", "path": str(configuration_folder())}]
    assert configuration_options(recorded) == ["--config-name", "mine"]
    assert configuration_options({}) == []
