"""An index that finds what it was given."""

from dataclasses import dataclass


@dataclass
class Found:
    text: str
    similarity: float = 0.9
    source: str = "a.md"
    title: str = "A"
    heading: str = "One > Two"
    start: int = 3
    end: int = 9
    score: float = 0.5


class Shelf:
    def __init__(self, *found):
        self.found, self.asked = found, []

    def search(self, query, k=8):
        self.asked.append(query)
        return [*self.found][:k]
