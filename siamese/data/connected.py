"""What a chain of links connects: people by their pairs, images by the same pairs among them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def connected(links: Iterable[tuple[Item, Item]]) -> dict[Item, Item]:
    """Each item of the links -> one of those that a chain of links connects it with, the same for all of them.

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
