"""The runs below a folder, divided into comparisons, and how tables and the sweep page label their configurations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from siamese.config.protocol import OF_PEOPLE
from siamese.config.titles import DATASETS, PROTOCOLS, titled
from siamese.report.groups import Difference, Group, differences, group_jobs, show, varied
from siamese.report.jobs import Job, read_runs
from siamese.report.scored import scored
from siamese.report.text import ABSENT
from siamese.text import count

MOST_COLUMNS = 6
"""Most settings that have a column each. If more differ, one column lists the changes of each configuration."""

MOST_CHANGES = 3
"""Most changes that this column lists; the table of settings has all."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs with the same validation pairs and the same test pairs, which can therefore be compared.

    Attributes:
        number: counted from 1.
        title: data sets, protocol and numbers of pairs; empty if no run has finished.
        jobs: its finished runs.
        settings: the settings that differ between its runs.
        groups: its runs by configuration, the one that validation chooses first; each seed of a configuration once.
        differences: each further group compared with the first.
    """

    number: int
    title: str
    jobs: Sequence[Job]
    settings: Sequence[str]
    groups: Sequence[Group]
    differences: Mapping[Group, Difference]

    @cached_property
    def is_named(self) -> bool:
        """Whether configurations have different names."""
        return len({one.title for one in self.groups}) > 1

    @cached_property
    def usual(self) -> dict[str, str]:
        """The most frequent value of each setting; that of the first group if no value is more frequent."""
        columns = zip(*(one.values for one in self.groups), strict=True)
        return {key: Counter(values).most_common(1)[0][0] for key, values in zip(self.settings, columns, strict=False)}

    @cached_property
    def is_wide(self) -> bool:
        """Whether one column lists the changed settings, because one column per setting would be too many."""
        return len(self.settings) > MOST_COLUMNS and len(self.groups) > 1

    @property
    def setting_heads(self) -> list[str]:
        """The heads of the columns of settings."""
        return ["changes"] if self.is_wide else list(self.settings)

    def setting_cells(self, values: Sequence[str]) -> list[str]:
        """The cells of these columns, for the values of a configuration."""
        return [", ".join(self._changes(values)) or "–"] if self.is_wide else list(values)

    def _changes(self, values: Sequence[str]) -> list[str]:
        """The first changes relative to the usual values: the names of options (``model.name``) come first."""
        usual = self.usual
        own = dict(zip(self.settings, values, strict=True))
        other = {key.rpartition(".")[0] for key in own if key.endswith(".name") and own[key] != usual[key]}
        changed = [
            f"{key}={value}"
            for key, value in sorted(own.items(), key=lambda item: not item[0].endswith(".name"))
            if value != usual[key] and not (value == "None" and key.rpartition(".")[0] in other)
        ]
        more = [f"{len(changed) - MOST_CHANGES} more"] if len(changed) > MOST_CHANGES else []
        return changed[:MOST_CHANGES] + more

    def settings_table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of the table of all settings that differ.

        The longer side goes down: a row per setting, or a row per configuration if there are more of these.
        """
        rows = [["setting", *self.settings]]
        for number, one in enumerate(self.groups, start=1):
            rows.append([f"#{number}", *(ABSENT if value == "None" else value for value in one.values)])
        if len(self.groups) <= len(self.settings):
            rows = [list(row) for row in zip(*rows, strict=True)]
        return rows[0], rows[1:]

    @property
    def head(self) -> list[str]:
        """The heads of all columns that identify a configuration."""
        return [*(["name"] if self.is_named else []), *self.setting_heads]

    def label(self, one: Group) -> list[str]:
        """The cells of these columns."""
        return [*([one.title] if self.is_named else []), *self.setting_cells(one.values)]

    def described(self, one: Group) -> str:
        """A configuration in a sentence."""
        if self.is_wide:
            values = self._changes(one.values) or ([] if self.is_named else ["the usual settings"])
        else:
            values = [f"{key}={value}" for key, value in zip(self.settings, one.values, strict=True)]
        return ", ".join([*([one.title] if self.is_named else []), *values]) or one.title


@dataclass(frozen=True, eq=False)
class Sweep:
    """The runs below a folder.

    Attributes:
        folder: folder of one sweep, or of several sweeps and runs.
        jobs: all trainings, whatever their status, in natural order.
        settings: the settings that differ between jobs.
        comparisons: the finished jobs by validation and test pairs, the largest comparison first; at least one, which
            is empty if no job has finished.
        evaluations: all evaluations, whatever their status, in natural order.
    """

    folder: Path
    jobs: Sequence[Job]
    settings: Sequence[str]
    comparisons: Sequence[Comparison]
    evaluations: Sequence[Job]

    @property
    def title(self) -> str:
        """The last two parts of its path."""
        return "/".join(self.folder.resolve().parts[-2:])

    @cached_property
    def sections(self) -> list[Comparison]:
        """The comparisons that have a section of their own: those of several runs, or the only one."""
        return [one for one in self.comparisons if len(one.jobs) > 1 or len(self.comparisons) == 1]

    @cached_property
    def alone(self) -> list[Comparison]:
        """The comparisons that are a single run, which no other run can be compared with."""
        return [one for one in self.comparisons if len(one.jobs) < 2 and len(self.comparisons) > 1]

    def number(self, job: Job) -> int | None:
        """The number of the comparison that a job belongs to; None if it has not finished."""
        return self._numbers.get(job)

    @cached_property
    def _numbers(self) -> dict[Job, int]:
        return {job: one.number for one in self.comparisons for job in one.jobs}


def read_sweep(folder: Path) -> Sweep:
    """Read the runs below a folder, and divide the finished ones into comparisons."""
    jobs, evaluations = read_runs(folder)
    settings = varied(jobs)
    found: dict[Hashable, list[Job]] = {}
    for job in jobs:
        if job.status == "done":
            found.setdefault(_key(job), []).append(job)
    comparisons = []
    members = sorted(found.values(), key=len, reverse=True) or [[]]
    for number, (title, done) in enumerate(zip(_titles(members), members, strict=True), start=1):
        # An unfinished job belongs to the only comparison, but it is unknown to which of several; and in a folder of
        # mixed runs it says nothing about the finished ones.
        own = settings if len(members) == 1 and len(settings) <= MOST_COLUMNS else varied(done)
        groups = group_jobs(done, own)
        comparisons.append(Comparison(number, title, done, own, groups, differences(groups)))
    return Sweep(folder, jobs, settings, comparisons, evaluations)


def _key(job: Job) -> Hashable:
    """Equal for jobs that can be compared: the validation and test pairs; without these, data set and protocol."""
    pairs = scored(job)
    return (pairs.validated, pairs.tested) if pairs.tested.n else (job.result.dataset, job.result.protocol)


def _titles(members: Sequence[Sequence[Job]]) -> list[str]:
    """A title for each comparison that says how it differs from the others."""
    titles = [tested_on(jobs) for jobs in members]
    tests = [scored(jobs[0]).tested if jobs else None for jobs in members]
    found = []
    for i, title in enumerate(titles):
        alike = [jobs[0] for jobs, other in zip(members, titles, strict=True) if jobs and other == title]
        keys = [key for key in varied(alike) if key.startswith(("data.", "protocol."))]
        parts = [title, *(f"{key}={show(members[i][0].settings.get(key))}" for key in keys)]
        test = tests[i]
        if test is not None and test.n and (first := tests.index(test)) < i:
            parts.append(f"test pairs as in comparison {first + 1}, but other validation pairs")
        elif (first := titles.index(title)) < i:
            parts.append(f"other test pairs than in comparison {first + 1}")
        found.append(" · ".join(parts))
    return found


def tested_on(jobs: Sequence[Job]) -> str:
    """Data sets, protocol and numbers of pairs of jobs that have the same pairs, or of one evaluation."""
    if not jobs:
        return ""
    result, pairs = jobs[0].result, scored(jobs[0])
    sizes = [("test", pairs.tested.n or result.n_test), ("validation", pairs.validated.n or result.n_val)]
    people = result.n_test_people if result.protocol in OF_PEOPLE else None
    parts = [
        " and ".join(dict.fromkeys(titled(job.result.dataset, DATASETS) for job in jobs if job.result.dataset)),
        titled(result.protocol, PROTOCOLS) if result.protocol else "",
        f"within “{result.oneshot_within}”" if result.oneshot_within else "",
        f"{people:,} test people" if people else "",
        *(count(size, f"{name} pair") for name, size in sizes if size and not people),
        "" if pairs.tested.n or people else "pairs not recorded",
    ]
    return " · ".join(part for part in parts if part)
