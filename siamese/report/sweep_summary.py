"""Sentences that open a sweep page and ``results.md``: what was compared, what was chosen, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence

from siamese.report.groups import Group, accuracy_interval, chance_of, in_order, spread
from siamese.report.run_summary import verdict
from siamese.report.sweep import Comparison, Sweep
from siamese.report.text import interval, percent
from siamese.text import count

MOST_VALUES = 4
"""Most values of a setting that a sentence lists."""


def summary(sweep: Sweep) -> str:
    """What was compared and chosen; with several comparisons, why there are several."""
    if sweep.evaluations and not sweep.jobs:
        return f"{count(len(sweep.evaluations), 'evaluation')} of runs that were trained elsewhere."
    if len(sweep.comparisons) == 1:
        return summary_of(sweep.comparisons[0])
    n = sum(len(one.jobs) for one in sweep.comparisons)
    return (
        f"The {n} finished runs have {len(sweep.comparisons)} different combinations of validation and test pairs. "
        "Accuracies on different pairs cannot be compared, so there is no overall choice. Runs that share all pairs "
        "are compared with each other."
    )


def summary_of(one: Comparison) -> str:
    """What a comparison compares, the configuration that validation chooses, its accuracies, and the chance level."""
    groups = one.groups
    if not groups:
        return "No run has finished yet."
    chosen = groups[0]
    sentences = [_compared(one)]
    if len(groups) > 1 and not chosen.figures("val/acc"):
        return f"{sentences[0]} No validation accuracy is recorded, so no configuration is chosen."
    tied = sum(group.rank == chosen.rank for group in groups)
    if tied > 1:
        about = f"{tied} configurations have the highest validation accuracy and the same loss"
        sentences.append(f"{about}; {one.described(chosen)} is the first of them.")
    elif len(groups) > 1:
        sentences.append(f"Validation accuracy chooses {one.described(chosen)}.")
    accuracies = [
        f"{accuracy(chosen, key)} on the {name} pairs"
        for name, key in (("validation", "val/acc"), ("test", "test/acc"))
        if chosen.figures(key)
    ]
    n = len(chosen.jobs)
    found = accuracy_interval(chosen)
    details = [f"mean ± standard error, {n} seeds"] if n > 1 else []
    details += [f"95 % confidence interval: {interval(found, percent)}"] if found else []
    if accuracies:
        text = f"Its accuracy is {' and '.join(accuracies)}"
        sentences.append(f"{text} ({'; '.join(details)})." if details else f"{text}.")
    return " ".join([*sentences, *_chance(chosen)])


def accuracy(one: Group, key: str) -> str:
    """An accuracy of a group in percent; mean ± standard error for several seeds."""
    return f"{spread([100 * value for value in one.figures(key)], 1)} %"


def _compared(one: Comparison) -> str:
    """The number of runs, configurations and seeds, and the settings that were swept."""
    seeds = sorted({len(group.jobs) for group in one.groups})
    each = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else "one seed" if seeds == [1] else f"{seeds[0]} seeds"
    n = sum(len(group.jobs) for group in one.groups)
    if len(one.groups) == 1:
        return f"{count(n, 'run')} of one configuration{' with different seeds' if n > 1 else ''}."
    swept = [_swept(key, values) for key, values in zip(one.settings, _values(one), strict=True) if len(values) > 1]
    if one.is_wide:
        swept = [count(len(swept), "setting")]
    return f"{n} runs of {len(one.groups)} configurations ({each} each), which differ in {' and '.join(swept)}."


def _values(one: Comparison) -> list[list[str]]:
    return [in_order(set(values)) for values in zip(*(group.values for group in one.groups), strict=True)]


def _swept(key: str, values: Sequence[str]) -> str:
    if len(values) <= MOST_VALUES:
        return f"{key} ({', '.join(values)})"
    return f"{key} ({len(values)} values from {values[0]} to {values[-1]})"


def _chance(one: Group) -> list[str]:
    """The chance level, and whether the test accuracy is at it."""
    chance = chance_of(one.jobs[0])
    if chance is None:
        return []
    results = [job.result for job in one.jobs]
    return [f"Chance level is {percent(chance)}.{verdict(results, accuracy_interval(one), chance)}"]
