"""The tables and the page of a sweep, from run folders that the tests write."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import yaml

from siamese.report import sweep_page
from siamese.report.groups import Group, largest_grid, spread, varied
from siamese.report.jobs import read_jobs
from siamese.report.sweep_page import write_sweep_page


def job(sweep: Path, number: int, accuracy: float | None = None, status: str = "done", **settings: object) -> Path:
    folder = sweep / str(number)
    folder.mkdir(parents=True)
    config = {"seed": settings.pop("seed", 0), "batch_size": 32, "resume": False, "data": {"name": "lfw_a"}, **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result: dict[str, object] = {"status": status}
    if accuracy is not None:
        result |= {
            "val/acc": accuracy, "val/loss": 0.6, "test/acc": accuracy - 0.1, "test/loss": 0.7, "test/auc": 0.7,
            "test/eer": 0.3, "best_epoch": 3, "epochs": 8, "train_seconds": 10.0, "n_test": 1000,
            "dataset": "lfw_a", "protocol": "view1",
        }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def tables(sweep: Path) -> tuple[list[dict[str, str]], str]:
    write_sweep_page(sweep)
    with (sweep / "results.csv").open(newline="") as lines:
        return list(csv.DictReader(lines)), (sweep / "results.md").read_text()


def test_seeds_of_one_configuration_are_grouped(tmp_path: Path) -> None:
    for number, (batch, seed, accuracy) in enumerate([(32, 0, 0.70), (32, 1, 0.74), (64, 0, 0.71), (64, 1, 0.71)]):
        job(tmp_path, number, accuracy, batch_size=batch, seed=seed, resume=seed == 1)
    rows, table = tables(tmp_path)
    assert [row["seed"] for row in rows] == ["0", "1", "0", "1"]
    assert "resume" not in rows[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert lines[0].startswith("| batch_size | n | val acc % |")
    assert lines[0].endswith("| training seconds |")
    error = 100 * 0.02 / math.sqrt(2) * math.sqrt(2)  # standard deviation of (70, 74) over the root of 2
    assert lines[2].startswith(f"| 32 | 2 | 72.0 ± {error:.1f} | 0.6000 ± 0.0000 | 62.0 ± {error:.1f} |")
    assert lines[3].startswith("| 64 | 2 | 71.0 ± 0.0 |")
    assert "1,000 test pairs is up to 1.6 points" in table
    assert "4 runs of 2 configurations (2 seeds each), which differ in batch_size (32, 64)." in table
    chosen = f"72.0 ± {error:.1f} % on the validation pairs and 62.0 ± {error:.1f} % on the test pairs"
    assert f"Validation accuracy chooses batch_size=32. Its accuracy is {chosen} (mean" in table


def test_only_what_differs_is_a_column(tmp_path: Path) -> None:
    job(tmp_path, 0, 0.7, weight_decay=1e-4, optimizer={"name": "adam", "betas": [0.9, 0.999]})
    job(tmp_path, 1, 0.7, weight_decay=1e-6, optimizer={"name": "sgd", "momentum": 0.9})
    assert varied(read_jobs(tmp_path)) == ["optimizer.name", "weight_decay"]


def test_many_settings_become_one_column_of_changes(tmp_path: Path) -> None:
    usual = {"learning_rate": 0.1, "objective": {"name": "ntxent", "temperature": 0.05}, **dict.fromkeys("abcdef", 1)}
    changes: list[dict[str, object]] = [{}, *({key: 2} for key in "abcdef"), {"a": 3, "b": 4}]
    changes += [
        {"objective": {"name": "triplet", "margin": 0.2}},
        {"objective": {"name": "ntxent", "temperature": 0.1}},
    ]
    for number, change in enumerate(changes):
        job(tmp_path, number, 0.9 - number / 100, **{**usual, **change})
    rows, table = tables(tmp_path)
    assert rows[1]["a"] == "2"
    assert rows[0]["b"] == "1"  # results.csv has a column for each
    lines = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    changed = ["–", "a=2", "b=2", "c=2", "d=2", "e=2", "f=2", "a=3, b=4", "objective.name=triplet"]
    changed.append("objective.temperature=0.1")
    assert lines[0][:3] == ["| #", "changes", "n"]
    assert [line[:2] for line in lines[2:12]] == [[f"| #{i}", change] for i, change in enumerate(changed, start=1)]
    assert "Validation accuracy chooses the usual settings." in table
    page = page_of(tmp_path)
    assert page.count("<td>a=3, b=4</td>") >= 2  # among the configurations and the jobs
    # More configurations than settings: a row for each.
    _, _, settings = table.partition("## Settings that differ")
    keys = "a | b | c | d | e | f | objective.name | objective.temperature"
    assert f"| setting | {keys} |" in settings
    assert "| #1 | 1 | 1 | 1 | 1 | 1 | 1 | ntxent | 0.05 |" in settings
    assert "| #9 | 1 | 1 | 1 | 1 | 1 | 1 | triplet | – |" in settings


def test_unfinished_runs_give_a_finished_one_no_columns_of_many_settings(tmp_path: Path) -> None:
    job(tmp_path, 0, 0.70)
    job(tmp_path, 1, status="interrupted", **{f"option_{i}": i for i in range(8)})
    assert "option_" not in tables(tmp_path)[1]


def test_runs_that_differ_in_many_settings_have_a_table_with_a_row_for_each(tmp_path: Path) -> None:
    job(tmp_path, 0, 0.9, model={"name": "resnet"}, **dict.fromkeys("abcdefgh", 1))
    job(tmp_path, 1, 0.8, model={"name": "koch"}, **dict.fromkeys("abcdefgh", 2))
    _, table = tables(tmp_path)
    assert "| #2 | model.name=koch, a=2, b=2, 6 more | 1 |" in table
    _, _, settings = table.partition("## Settings that differ")
    assert "| setting | #1 | #2 |" in settings
    assert "| model.name | resnet | koch |" in settings
    assert "| h | 1 | 2 |" in settings
    heads = re.findall(r'<th scope="row">(?:<wbr>|\w|\.)+</th>', page_of(tmp_path))
    assert len(heads) == 9


def test_setting_that_only_some_jobs_have_separates_groups(tmp_path: Path) -> None:
    job(tmp_path, 0, 0.7, scheduler={"name": "cosine"})
    job(tmp_path, 1, 0.9, scheduler={"name": "cosine", "warmup_epochs": 2})
    assert varied(read_jobs(tmp_path)) == ["scheduler.warmup_epochs"]
    _, table = tables(tmp_path)
    assert "±" not in table.splitlines()[4]


def test_seed_counts_once(tmp_path: Path) -> None:
    job(tmp_path, 0, 0.7)
    job(tmp_path, 1, 0.9)
    job(tmp_path, 2, 0.7, seed=1)
    rows, table = tables(tmp_path)
    assert len(rows) == 3
    assert "| 2 | 70.0 ± 0.0 |" in table
    assert "1 job with the same configuration and seed as another" in page_of(tmp_path)


def test_groups_without_results_come_last(tmp_path: Path) -> None:
    for number, accuracy in enumerate((0.70, 0.71, 0.72)):
        folder = job(tmp_path, number, accuracy, batch_size=2**number)
        if number == 1:
            result = json.loads((folder / "result.json").read_text())
            (folder / "result.json").write_text(json.dumps({**result, "val/acc": None, "test/acc": None}))
    (broken := json.loads((tmp_path / "0/result.json").read_text())).pop("n_test")
    (tmp_path / "0/result.json").write_text(json.dumps(broken))
    _, table = tables(tmp_path)
    assert "Validation accuracy chooses batch_size=4." in table
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")][2:5] == ["| 4", "| 1", "| 2"]
    assert page_of(tmp_path)


def test_unfinished_damaged_and_foreign_folders(tmp_path: Path) -> None:
    job(tmp_path, 0, 0.7)
    job(tmp_path, 1, status="running")
    broken = job(tmp_path, 2, 0.8)
    (broken / "result.json").write_text("{")
    refused = job(tmp_path, 10, status="failed", batch_size=0)
    (refused / ".hydra").mkdir()
    (refused / "config.yaml").rename(refused / ".hydra/config.yaml")
    with (refused / ".hydra/config.yaml").open("a") as file:
        file.write("name: ${model.name}\n")
    (refused / "result.json").write_text(json.dumps({"status": "failed", "error": "a | b\nc"}))
    (tmp_path / "notes").mkdir()
    (tmp_path / "multirun.yaml").write_text("x")
    rows, table = tables(tmp_path)
    assert [(row["job"], row["status"]) for row in rows] == [("0", "done"), ("1", "running"), ("10", "failed")]
    assert rows[2]["batch_size"] == "0"
    assert rows[2]["name"] == ""  # not resolved
    assert "- job 10: failed. a \\| b c" in table


def test_without_jobs_there_are_no_tables(tmp_path: Path) -> None:
    write_sweep_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "digits", "expected"), [([0.5], 2, "0.50"), ([1.0, 3.0], 1, "2.0 ± 1.0"), ([3, 4], 0, "3.5 ± 0.5")]
)
def test_spread(values: list[float], digits: int, expected: str) -> None:
    assert spread(values, digits) == expected


def predictions(folder: Path, right: list[bool]) -> None:
    """Write decisions on alternating different and same pairs; no person is in two pairs."""
    with (folder / "predictions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["split", "image1", "image2", "label", "score", "probability", "predicted", "outcome"])
        for i, is_right in enumerate(right):
            same = i % 2
            second = f"P{i}/P{i}_0002.jpg" if same else f"Q{i}/Q{i}_0001.jpg"
            predicted = same if is_right else 1 - same
            rows.writerow(["test", f"P{i}/P{i}_0001.jpg", second, same, 0.1, 0.5, predicted, "tp"])
        rows.writerow(["val", "A/A_0001.jpg", "A/A_0002.jpg", 1, 0.1, 0.5, 1, "tp"])


def test_groups_have_mean_error_and_range_of_every_figure(tmp_path: Path) -> None:
    for number, (batch, seed, accuracy) in enumerate([(32, 0, 0.70), (32, 1, 0.74), (64, 0, 0.75)]):
        job(tmp_path, number, accuracy, batch_size=batch, seed=seed)
    write_sweep_page(tmp_path)
    with (tmp_path / "groups.csv").open(newline="") as lines:
        alone, seeds = csv.DictReader(lines)
    assert (alone["batch_size"], alone["n"], alone["val/acc mean"], alone["val/acc se"]) == ("64", "1", "0.75", "")
    found = [float(seeds[f"val/acc {what}"]) for what in ("mean", "se", "min", "max")]
    assert found == pytest.approx([0.72, 0.02, 0.70, 0.74])
    assert float(seeds["epochs max"]) == 8


def test_validation_chooses_not_the_test_pairs(tmp_path: Path) -> None:
    for number, (batch, validation, test) in enumerate([(32, 0.74, 0.66), (64, 0.72, 0.70)]):
        folder = job(tmp_path, number, validation, batch_size=batch)
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**result, "test/acc": test}))
    _, table = tables(tmp_path)
    assert "chooses batch_size=32. Its accuracy is 74.0 % on the validation pairs and 66.0 % on the test" in table
    assert "The highest test accuracy: batch_size=64: 70.0 %; too optimistic to report" in table


def test_differences_on_the_same_pairs(tmp_path: Path) -> None:
    good = [i % 10 != 0 for i in range(200)]  # 90 %
    alike = [i % 10 != 1 for i in range(200)]  # 90 % too, other pairs
    poor = [i % 2 == 0 for i in range(200)]
    for number, (batch, accuracy, right) in enumerate([(32, 0.9, good), (64, 0.8, alike), (128, 0.7, poor)]):
        predictions(job(tmp_path, number, accuracy, batch_size=batch), right)
    _, table = tables(tmp_path)
    rows = [
        line.split(" | ") for line in table.partition("## Difference in test accuracy")[2].splitlines() if "|" in line
    ]
    assert [cell.strip("| ") for cell in rows[0]][:2] == ["batch_size", "points"]
    (_, same, interval, shown, p), (_, worse, _, shown_too, p_too) = ([c.strip("| ") for c in row] for row in rows[2:])
    assert (same, shown, p) == ("+0.0", "no", "1.000")
    assert interval.startswith("-")
    assert (worse, shown_too, p_too) == ("-40.0", "yes", "< 0.001")


def test_mcnemar_for_each_seed(tmp_path: Path) -> None:
    good, poor = [i % 10 != 0 for i in range(200)], [i % 2 == 0 for i in range(200)]
    for number, (batch, seed) in enumerate([(32, 0), (32, 1), (64, 0), (64, 1), (64, 2)]):
        accuracy, right = (0.9, good) if batch == 32 else (0.7, poor)
        predictions(job(tmp_path, number, accuracy, batch_size=batch, seed=seed), right)
    _, table = tables(tmp_path)
    assert "| yes | 2 of 2 below 0.05 |" in table


def test_runs_on_other_pairs_are_not_compared(tmp_path: Path) -> None:
    predictions(job(tmp_path, 0, 0.9, batch_size=32), [True] * 20)
    predictions(job(tmp_path, 1, 0.7, batch_size=64), [True] * 10)
    job(tmp_path, 2, 0.6, batch_size=128)  # nothing recorded
    rows, table = tables(tmp_path)
    assert "The 3 finished runs have 3 different combinations of validation and test pairs." in table
    assert "Difference in test accuracy" not in table
    assert "chooses" not in table
    assert [row["comparison"] for row in rows] == ["1", "2", "3"]
    _, _, alone = table.partition("## Runs without a comparison")
    assert "| 1 | 0 | LFW-a, aligned · View 1 · 20 test pairs · 1 validation pair | 90.0 % | 80.0 % |" in alone
    assert "| 3 | 2 | LFW-a, aligned · View 1 · 1,000 test pairs · pairs not recorded | 60.0 % |" in alone
    page = page_of(tmp_path)
    assert "No run has finished" not in page
    assert "Chosen by" not in page
    assert "LFW-a, aligned · View 1 · 10 test pairs" in page


def test_runs_on_the_same_pairs_are_compared_in_their_own_section(tmp_path: Path) -> None:
    for number, (batch, data, right) in enumerate([
        (32, "lfw", [True] * 20), (64, "lfw_a", [True] * 20), (32, "lfw_a", [False] * 10), (64, "lfw_a", [True] * 10),
    ]):  # fmt: skip
        predictions(job(tmp_path, number, 0.9 - number / 10, batch_size=batch, data={"name": data}), right)
    rows, table = tables(tmp_path)
    assert [row["comparison"] for row in rows] == ["1", "1", "2", "2"]
    first, second = table.partition("## Comparison 1: ")[2].split("## Comparison 2: ")
    assert "| batch_size | data.name | n |" in first
    assert "Validation accuracy chooses batch_size=32, data.name=lfw." in first
    assert "| batch_size | n |" in second  # both on LFW-a
    assert "Validation accuracy chooses batch_size=32." in second
    assert "| 64 | +100.0 |" in second
    with (tmp_path / "groups.csv").open(newline="") as lines:
        found = [(row["comparison"], row["batch_size"], row["data.name"]) for row in csv.DictReader(lines)]
    assert found == [("1", "32", "lfw"), ("1", "64", "lfw_a"), ("2", "32", "lfw_a"), ("2", "64", "lfw_a")]
    page = page_of(tmp_path)
    assert page.count(">Chosen by validation accuracy<") == 2
    assert {*re.findall(r'id="g(\d+)-roc-\d+"', page)} == {"0", "1", "2", "3"}  # each its own, for the highlighting


def test_other_validation_pairs_are_another_comparison(tmp_path: Path) -> None:
    for number, seed in enumerate((0, 0, 1)):
        folder = job(tmp_path, number, 0.8, batch_size=number, data={"name": "lfw_a", "split_seed": seed})
        predictions(folder, [True] * 10)
        with (folder / "predictions.csv").open("a") as file:
            file.write(f"val,B/B_000{seed}.jpg,C/C_0001.jpg,0,0.1,0.5,0,tn\n")
    _, table = tables(tmp_path)
    title = "LFW-a, aligned · View 1 · 10 test pairs · 2 validation pairs · data.split_seed"
    assert f"## Comparison 1: {title}=0" in table
    assert f"| 2 | 2 | {title}=1 · test pairs as in comparison 1, but other validation pairs |" in table


def test_other_test_pairs_of_the_same_number_are_called_that(tmp_path: Path) -> None:
    for number in range(2):
        predictions(job(tmp_path, number, 0.8), [True] * 10)
    file = tmp_path / "1/predictions.csv"
    file.write_text(file.read_text().replace("Q0/", "R0/"))
    _, table = tables(tmp_path)
    title = "LFW-a, aligned · View 1 · 10 test pairs · 1 validation pair"
    assert f"| 1 | 0 | {title} |" in table
    assert f"| 2 | 1 | {title} · other test pairs than in comparison 1 |" in table


def evaluation(folder: Path, **result: object) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("batch_size: 32\n")
    record = {"status": "done", "dataset": "lfw_a", "trained_on": "lfw", **result}
    (folder / "result.json").write_text(json.dumps(record))


def test_evaluations_have_tables_of_their_own_and_are_not_chosen(tmp_path: Path) -> None:
    predictions(job(tmp_path, 0, 0.7), [True, False] * 10)
    run = str(tmp_path.resolve() / "0")
    again = {"protocol": "view1", "test/acc": 1.0, "val/acc": 1.0, "test/acc_ci": [0.9, 1.0], "n_test": 20}
    evaluation(tmp_path / "again", run=run, **again)
    predictions(tmp_path / "again", [True] * 20)
    evaluation(tmp_path / "0/nested", run=[run, run], status="failed", error="no <GPU>")
    oneshot = {
        "oneshot/5/acc": 0.6,
        "oneshot/5/acc_ci": [0.5, 0.7],
        "oneshot/20/acc": 0.06,
        "oneshot/20/acc_ci": [0.04, 0.08],
    }
    evaluation(tmp_path / "oneshot", run="/elsewhere", protocol="oneshot", n_test_people=30, **oneshot)
    rows, table = tables(tmp_path)
    assert [row["job"] for row in rows] == ["0"]
    assert "1 run of one configuration. Its accuracy is 70.0 % on the validation pairs and 60.0 %" in table
    _, _, evaluations = table.partition("## Evaluations")
    assert "### LFW-a, aligned · View 1 · 20 test pairs · 1 validation pair" in evaluations
    assert "| again | 0 | LFW, original images | verification | 100.0 % | 90.0 – 100.0 % | 50.0 % |" in evaluations
    assert "### LFW-a, aligned · N-way one-shot · 30 test people" in evaluations
    assert (
        "| oneshot | /elsewhere | LFW, original images | 5-way one-shot | 60.0 % | 50.0 – 70.0 % | 20.0 % |"
        in evaluations
    )
    assert "| 20-way one-shot | 6.0 % | 4.0 – 8.0 % | 5.0 % (not exceeded) |" in evaluations
    assert "| 0/nested | ensemble of 2 runs |" in evaluations
    assert "- job 0/nested: failed. no <GPU>" in table
    page = page_of(tmp_path)
    assert "1 done, 3 evaluations" in page
    assert "no &lt;GPU&gt;" in page


def test_evaluations_without_trainings(tmp_path: Path) -> None:
    evaluation(tmp_path / "one", run="/elsewhere/0", protocol="view1", **{"test/acc": 0.9})
    started = {"overrides": {"task": ["run=/elsewhere/0"], "hydra": []}, "job": {"config_name": "eval"}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": started}))
    _, table = tables(tmp_path)
    page = page_of(tmp_path)
    for text in (table, page):
        assert "90.0 %" in text
        assert "1 evaluation of runs that were trained elsewhere." in text
        assert "No run has finished" not in text
    assert "python eval.py -m run=/elsewhere/0" in page
    assert "<h2>Jobs</h2>" not in page


def test_tie_is_called_that(tmp_path: Path) -> None:
    for number in range(3):
        job(tmp_path, number, 0.8 if number < 2 else 0.7, batch_size=number)
    _, table = tables(tmp_path)
    assert "2 configurations have the highest validation accuracy and the same loss; batch_size=0 is the first" in table


@pytest.mark.parametrize(
    ("share", "says"),
    [
        (0.5, "Chance level is 50.0 %. This is chance level: the networks have not learned."),
        (0.9, "Chance level is 50.0 %.\n"),
    ],
)
def test_result_at_chance_is_called_that(tmp_path: Path, share: float, says: str) -> None:
    for seed in (0, 1):
        predictions(job(tmp_path, seed, 0.6, seed=seed), [i % 20 < 20 * share for i in range(200)])
    _, table = tables(tmp_path)
    assert says in table
    assert "mean ± standard error, 2 seeds; 95 % confidence interval: " in table


# --- the page ---------------------------------------------------------------------------------------------


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Two batch sizes by two weight decays with two seeds, one failed and one running job, names to be escaped."""
    number = 0
    for batch in (32, 64):
        for decay in (1e-4, 1e-5):
            for seed in (0, 1):
                accuracy = 0.7 + (batch == 64) * 0.02 + seed * 0.01
                folder = job(tmp_path, number, accuracy, batch_size=batch, weight_decay=decay, seed=seed, name="<b>")
                predictions(folder, [i % (5 + seed) != 0 for i in range(60)])
                rows = ["epoch,train/loss,train/acc,val/loss,val/acc,lr,seconds"]
                rows += [f"{epoch},0.5,0.8,0.6,{accuracy},1e-4,9" for epoch in range(1, 5)]
                (folder / "history.csv").write_text("\n".join(rows))
                number += 1
    failed = job(tmp_path, 8, status="failed", batch_size=0, weight_decay=1e-4)
    (failed / "result.json").write_text(json.dumps({"status": "failed", "error": "ConfigError: <i>batch_size=0</i>"}))
    job(tmp_path, 9, status="running", batch_size=64, weight_decay=1e-6)
    (tmp_path / "multirun.yaml").write_text(
        yaml.safe_dump({
            "hydra": {
                "overrides": {"task": ["batch_size=32,64"], "hydra": ["hydra.mode=MULTIRUN", "hydra/launcher=x"]},
                "job": {"config_name": "train"},
            }
        })
    )  # fmt: skip
    return tmp_path


def page_of(folder: Path) -> str:
    page = write_sweep_page(folder)
    assert page == folder / "report.html"
    return page.read_text()


def test_page_shows_every_configuration_and_job(grid: Path) -> None:
    page = page_of(grid)
    assert "8 done, 1 failed, 1 running" in page
    assert "python train.py -m batch_size=32,64 hydra/launcher=x" in page
    assert "72.5 ± 0.5" in page  # validation, batch size 64
    assert 'title="72.0 to 73.0"' in page
    assert page.count("62.5 ± 0.5") >= 2
    assert "&lt;i&gt;batch_size=0&lt;/i&gt;" in page
    assert "<i>batch" not in page
    assert "<b>" not in page
    assert page.count('<td class="status') == 10


def test_page_needs_no_network_and_runs_its_own_script_only(grid: Path) -> None:
    page = page_of(grid)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert html.unescape(page.partition("script-src '")[2].partition("'")[0]) == f"sha256-{digest}"
    assert page.count("<script") == 1


def test_page_draws_a_line_for_every_finished_run(grid: Path) -> None:
    lines = re.findall(r'id="g(\d+)-(\d|roc)-\d+"', page_of(grid))
    assert len(lines) == 8 * 5  # four panels and the ROC
    assert {group for group, _ in lines} == {"0", "1", "2", "3"}


def test_figures_show_the_best_configurations_only(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "All finished runs, one colour" in page_of(grid)
    monkeypatch.setattr(sweep_page, "MOST_DRAWN", 3)
    page = page_of(grid)
    assert {*re.findall(r'id="g(\d+)-(?:\d|roc)-\d+"', page)} == {"0", "1", "2"}
    assert page.count("The runs of the 3 configurations with the highest validation accuracy") == 2
    assert page.count('aria-pressed="false"') == 2 * 3  # the legends
    assert {*re.findall(r'<tr data-group="(\d+)"', page)} == {"0", "1", "2"}  # other rows highlight nothing
    assert len(re.findall(r"<td[^>]*>4</td>", page)) >= 1  # but they are in the tables
    assert page.count('<td class="status') == 10


def test_heat_maps_are_the_grid_of_both_settings(grid: Path) -> None:
    page = page_of(grid)
    maps = re.findall(r"<caption>(.*?)</caption>(.*?)</table>", page, re.S)
    assert [title for title, _ in maps] == ["val acc %", "val loss", "test acc %", "test loss"]
    cells = re.findall(r'<td style="background: (#\w+); color: #\w+" title="2 seeds">([^<]+)</td>', maps[0][1])
    assert [text for _, text in cells] == ["70.5 ± 0.5", "70.5 ± 0.5", "72.5 ± 0.5", "72.5 ± 0.5"]
    light, dark = ({color for color, text in cells if text.startswith(start)} for start in ("70", "72"))
    assert max(light) > max(dark)  # the better the darker


def test_grid_is_the_largest_with_all_else_equal() -> None:
    def one(*values: str) -> Group:
        return Group(values, ())

    settings = ["optimizer", "batch", "decay"]
    groups = [one("adam", b, d) for b in ("32", "128", "64") for d in ("1e-05", "0.0001")]
    groups += [one("sgd", "32", "0.0001"), one("sgd", "32", "1e-05")]
    grid = largest_grid(groups, settings)
    assert grid is not None
    assert (grid.row, grid.column, grid.others) == ("batch", "decay", (("optimizer", "adam"),))
    assert (grid.rows, grid.columns) == (("32", "64", "128"), ("1e-05", "0.0001"))
    assert len(grid.cells) == 6
    assert largest_grid([one("a", "1", "x"), one("b", "2", "x")], settings) is None
    assert largest_grid([], settings) is None


def test_runs_at_any_depth_are_on_one_page(tmp_path: Path) -> None:
    job(tmp_path / "singles", 0, 0.7, name="first")
    job(tmp_path / "grid" / "again", 10, 0.72, batch_size=64, name="second")
    job(tmp_path / "grid" / "again", 9, 0.71, name="third", seed=1)
    jobs = read_jobs(tmp_path)
    assert [one.name for one in jobs] == ["grid/again/9", "grid/again/10", "singles/0"]
    assert 'href="grid/again/10/report.html"' not in page_of(tmp_path)  # it has no run page
    (tmp_path / "grid/again/10/report.html").touch()
    assert 'href="grid/again/10/report.html"' in page_of(tmp_path)
    _, table = tables(tmp_path)
    assert "| third, first | 32 | 2 |" in table  # the name is not a setting
    assert "| second | 64 | 1 |" in table


def test_changed_job_is_read_again(tmp_path: Path) -> None:
    folder = job(tmp_path, 0, status="running")
    assert "0 done" not in page_of(tmp_path)
    shutil.rmtree(folder)
    job(tmp_path, 0, 0.7)
    assert "1 done" in page_of(tmp_path)


def test_building_the_page_again_changes_nothing(grid: Path) -> None:
    assert page_of(grid) == page_of(grid)


@pytest.mark.parametrize("damaged", ["history.csv", "predictions.csv", "config.yaml"])
def test_damaged_file_does_not_affect_other_jobs(grid: Path, damaged: str) -> None:
    (grid / "0" / damaged).write_bytes(b"\xff{")
    assert page_of(grid).count('<td class="status') == 10
