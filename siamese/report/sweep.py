"""The runs below a folder, grouped by configuration, and how tables and the sweep page label them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamese.report.groups import Difference, Group, differences, group_jobs, varied
from siamese.report.jobs import Job, read_jobs, scored

MOST_COLUMNS = 6
"""Most settings that have a column each. If more differ, one column lists what differs from the usual values."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """The runs below a folder, compared.

    Attributes:
        folder: folder of one sweep, or of several sweeps and runs.
        jobs: all runs, whatever their status, in natural order.
        settings: the settings that differ between jobs.
        groups: the finished jobs by configuration, the one that validation chooses first.
        differences: each further group compared with the first, if both were tested on the same pairs.
    """

    folder: Path
    jobs: Sequence[Job]
    settings: Sequence[str]
    groups: Sequence[Group]
    differences: Mapping[Group, Difference]

    @property
    def title(self) -> str:
        """The last two parts of its path."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def can_choose(self) -> bool:
        """Whether validation can choose: all configurations have the same validation and test pairs."""
        sets = {(one.validated, one.pairs) for group in self.groups for one in map(scored, group.jobs) if one.pairs}
        return len(sets) < 2

    @property
    def is_named(self) -> bool:
        """Whether configurations have different names."""
        return len({one.title for one in self.groups}) > 1

    @property
    def usual(self) -> dict[str, str]:
        """The most frequent value of each setting."""
        columns = zip(*(one.values for one in self.groups), strict=True)
        return {key: Counter(values).most_common(1)[0][0] for key, values in zip(self.settings, columns, strict=False)}

    @property
    def is_wide(self) -> bool:
        """Whether one column lists the changed settings, because one column per setting would be too many."""
        return len(self.settings) > MOST_COLUMNS and len(self.groups) > 1

    @property
    def setting_heads(self) -> list[str]:
        """The heads of the columns of settings."""
        return ["change"] if self.is_wide else list(self.settings)

    def setting_cells(self, values: Sequence[str]) -> list[str]:
        """The cells of these columns, for the values of a configuration."""
        return [", ".join(self._changes(values)) or "–"] if self.is_wide else list(values)

    def _changes(self, values: Sequence[str]) -> list[str]:
        usual = self.usual
        own = dict(zip(self.settings, values, strict=True))
        other = {key.rpartition(".")[0] for key in own if key.endswith(".name") and own[key] != usual[key]}
        return [
            f"{key}={value}"
            for key, value in own.items()
            if value != usual[key] and not (value == "None" and key.rpartition(".")[0] in other)
        ]

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
            values = self._changes(one.values) or ["no change"]
        else:
            values = [f"{key}={value}" for key, value in zip(self.settings, one.values, strict=True)]
        return ", ".join([*([one.title] if self.is_named else []), *values]) or one.title

    @property
    def about_changes(self) -> str:
        """The usual values that changes refer to; empty if each setting has its own column."""
        if not self.is_wide:
            return ""
        return f"Changes are relative to: {', '.join(f'{key}={value}' for key, value in self.usual.items())}."


def read_sweep(folder: Path) -> Sweep:
    """Read the runs below a folder, group and compare them."""
    jobs = read_jobs(folder)
    settings = varied(jobs)
    groups = group_jobs(jobs, settings)
    return Sweep(folder, jobs, settings, groups, differences(groups))
