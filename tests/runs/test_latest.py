from __future__ import annotations

from pathlib import Path

import pytest

from siamese.runs.latest import RUNS, SWEEPS, point_latest, run_folder


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(name: str) -> Path:
    folder = Path(name)
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("home", ["outputs", "multirun"])
def test_latest_points_to_the_newest(home: str) -> None:
    for name in ("2026-01-31/12-00-00", "2026-02-01/09-30-00", "demo"):
        point_latest(made(f"{home}/{name}"), Path(home))
        assert Path(home, "latest").readlink() == Path(name), "relative, so that the folder can be moved"
        assert Path(home, "latest").resolve() == Path(home, name).resolve()
    assert sorted(path.name for path in Path(home).iterdir()) == ["2026-01-31", "2026-02-01", "demo", "latest"]


def test_a_run_that_is_resumed_as_latest_does_not_point_to_itself() -> None:
    point_latest(made("outputs/first"), RUNS)
    point_latest(Path("outputs/latest"), RUNS)
    assert Path("outputs/latest").readlink() == Path("first")


def test_a_run_elsewhere_leaves_no_link() -> None:
    point_latest(made("elsewhere/run"), RUNS)
    point_latest(made("outputs"), RUNS)
    assert sorted(path.name for path in Path().rglob("*")) == ["elsewhere", "outputs", "run"]


def test_a_sweep_among_the_runs_is_not_the_newest_run() -> None:
    point_latest(made("outputs/sweep"), SWEEPS)
    assert not Path("outputs/latest").is_symlink()


def test_a_folder_of_that_name_is_kept() -> None:
    made("outputs/latest")
    point_latest(made("outputs/first"), RUNS)
    assert not Path("outputs/latest").is_symlink()
    assert [path.name for path in Path("outputs").glob(".*")] == []


def test_a_run_named_latest() -> None:
    assert run_folder("latest") == Path("outputs/latest"), "there is none yet: the error names this path"
    point_latest(made("outputs/2026-01-31/12-00-00"), RUNS)
    assert run_folder("latest") == run_folder(Path("latest")) == Path("outputs/2026-01-31/12-00-00")
    assert run_folder("outputs/latest") == Path("outputs/latest")
    made("latest")
    assert run_folder("latest") == Path("latest")
