"""The summary at the top of a run page: what was tested, how well it did, and what guessing would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from siamese.config.protocol import OF_PEOPLE
from siamese.config.titles import DATASETS, PROTOCOLS, titled
from siamese.data.lists import people_of_each
from siamese.evaluation.intervals import UNCLEAR, not_above_chance, share_interval
from siamese.evaluation.metrics import chance_level
from siamese.report.load import Run
from siamese.report.text import interval, percent
from siamese.runs.records import Result
from siamese.text import count


def summary(run: Run) -> str:
    """Summarise a run in one or two sentences; empty if nothing is recorded."""
    result = run.result
    if result.ways:
        return _oneshot(result)
    if (rank1 := result.figure("identification/rank1")) is not None and result.n_test_people:
        return _identification(result, rank1, result.n_test_people)
    if result.test_acc is not None:
        return _decided(run, "test", result.test_acc, result.n_test, result.test_acc_ci)
    if run.status == "done" and result.val_acc is not None and result.n_val:
        pairs = run.split("val")
        right = [pair.predicted == pair.label for pair in pairs]
        ends = share_interval(right, people_of_each(pairs)) if pairs else None
        text = _decided(run, "val", result.val_acc, result.n_val, ends)
        return f"{text} There are no test pairs. The weights were chosen on these pairs, so the result is optimistic."
    return _untested(run)


def _decided(
    run: Run, split: Literal["test", "val"], accuracy: float, pairs: int | None, ends: Sequence[float] | None
) -> str:
    """What share of the test or validation pairs is decided correctly."""
    result = run.result
    name = "test pair" if split == "test" else "validation pair"
    where = f"the {name}s" if pairs is None else count(pairs, name)
    chance, guess = _guess([pair.label for pair in run.split(split)])
    return (
        f"On {where} of {_data(result)}, {_who(result)} decides {percent(accuracy)} correctly"
        f"{_brackets(f'mean over {result.folds} folds' if result.folds else '', _interval(ends))}{guess}."
        f"{verdict([result], ends, chance)}"
    )


def _oneshot(result: Result) -> str:
    """The share of the trials won for the largest number of people."""
    ways = result.ways[-1]
    n = result.n_test_people
    people = "the test people" if n is None else count(n, "test person", "test people")
    ends = result.oneshot(ways, "acc_ci")
    return (
        f"On {people} of {_data(result)}, {_who(result)} finds the right one of {ways} people in "
        f"{percent(result.oneshot(ways, 'acc'))} of the trials{_brackets(_interval(ends))}; "
        f"guessing gives {_short(1 / ways)}.{verdict([result], ends, 1 / ways)}"
    )


def _identification(result: Result, rank1: float, people: int) -> str:
    """The share of the searches in the closed set whose right person is first."""
    ends, searched = result.interval("identification/rank1"), result.identification_searched
    of = "" if searched is None else f" for {count(searched, 'person', 'people')}"
    return (
        f"In a gallery with one photo of each of {count(people, 'test person', 'test people')} of {_data(result)}, "
        f"{_who(result)} ranks the right person first in {percent(rank1)} of the searches{of}"
        f"{_brackets(_interval(ends))}; guessing gives {_short(1 / people)}.{verdict([result], ends, 1 / people)}"
    )


def _untested(run: Run) -> str:
    """How far a run without a result came."""
    result = run.result
    if not run.result.as_dict():
        return ""
    text = (
        f"This {'evaluation' if result.is_evaluation else 'run'}{f' on {_data(result)}' if result.dataset else ''} has "
    )
    if not run.history:
        return f"{text}no result yet."
    epochs, most = len(run.history), run.config.get("max_epochs")
    text += (
        f"trained {f'{epochs} of at most {most} epochs' if most else count(epochs, 'epoch')} and has not been tested."
    )
    best = max(run.history, key=lambda row: -1 if math.isnan(row["val/acc"]) else row["val/acc"])
    if math.isnan(best["val/acc"]):
        return text
    return f"{text} The highest validation accuracy so far is {percent(best['val/acc'])} (epoch {best['epoch']:.0f})."


def _title(dataset: str) -> str:
    """The name of a data set within a sentence."""
    kind, _, name = dataset.partition(" ")
    if kind in ("folder", "list") and name:  # the user's own
        return f"photos in the {kind} {name}"
    return titled(dataset, DATASETS).replace("Synthetic", "synthetic")


def _data(result: Result) -> str:
    """The data set, with protocol, setting and outside data."""
    title = _title(result.dataset or "an unknown data set")
    protocol = f"{result.ways[-1]}-way one-shot" if result.ways else titled(result.protocol or "", PROTOCOLS)
    protocol += f" within “{result.oneshot_within}”" if result.oneshot_within else ""
    setting = "" if result.protocol in OF_PEOPLE else result.setting or ""
    return title + _brackets(protocol, setting, "with outside data" if result.outside_data else "")


def _who(result: Result) -> str:
    if isinstance(result.run, list):
        return f"the ensemble of {count(len(result.run), 'network')}"
    if result.folds:
        return "one network per fold"
    if result.trained_on not in (None, result.dataset):
        return f"the network, trained on {_title(str(result.trained_on))},"
    return "the network"


def _guess(labels: Sequence[int]) -> tuple[float | None, str]:
    """The accuracy of a constant answer, and the clause that says so; None if all labels are equal."""
    same, n = sum(labels), len(labels)
    share = chance_level(same, n - same)
    if share is None:
        return None, ""
    if 2 * same == n:
        return share, f"; guessing gives {_short(share)}"
    return share, f"; always answering “{'same' if 2 * same > n else 'different'}” gives {_short(share)}"


def verdict(results: Sequence[Result], ends: Sequence[float] | None, chance: float | None) -> str:
    """A sentence, with a space before it, if the result of a run or of several seeds is not better than chance."""
    level = not_above_chance(ends, chance)
    if not level:
        return ""
    areas = [
        one.test_auc for one in results if one.test_auc is not None and one.test_auc_ci and one.test_auc_ci[0] > 0.5
    ]
    if len(areas) == len(results):
        return f" At the threshold this is {level}, but the scores separate the pairs (AUC {fmean(areas):.3f})."
    if level == UNCLEAR:
        return f" This is {level}: there are too few pairs or people to tell."
    first = results[0]
    if first.trained_on not in (None, first.dataset):
        return f" This is {level}: what was learned does not help on these images."
    are = "networks have" if isinstance(first.run, list) or first.folds or len(results) > 1 else "network has"
    return f" This is {level}: the {are} not learned."


def _interval(ends: Sequence[float] | None) -> str:
    text = interval(ends, percent)
    return f"95 % confidence interval {text}" if text else ""


def _brackets(*parts: str) -> str:
    """(one, other), without empty parts."""
    text = ", ".join(part for part in parts if part)
    return f" ({text})" if text else ""


def _short(share: float) -> str:
    """0.5 -> 50 %; 0.667 -> 66.7 %."""
    return percent(share).replace(".0 %", " %")
