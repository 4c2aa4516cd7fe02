"""Connected components: people connected by pairs, images connected by same pairs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def connected_components(links: Iterable[tuple[Item, Item]]) -> dict[Item, Item]:
    """Map each item of the links to a representative, the same for all items that a chain of links connects.

    Union-find with path halving (Tarjan and van Leeuwen 1984).
    """
    parent: dict[Item, Item] = {}

    def root(item: Item) -> Item:
        parent.setdefault(item, item)
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for first, second in links:
        parent[root(first)] = root(second)
    return {item: root(item) for item in parent}
