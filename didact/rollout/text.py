"""The text of a completion as it grows: decoded with what came before it, in pieces that never change again."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

CONTEXT = 8  # tokens of the prompt that are decoded along
LONGEST = 4  # bytes, and so tokens, of a UTF-8 character
PATIENCE = 16  # tokens after which broken bytes are taken for what they are
BROKEN = "\ufffd"  # what a decoder makes of half a character


class Unrolled:
    """Text of the tokens added so far, without the last character where only half of it is there.

    Decoders of SentencePiece's family drop a leading space, so a piece is what decoding it behind its predecessors
    gives more than decoding these alone. Only tokens since the last but one settled place are decoded again: the
    work is a few tokens each, however long the completion.
    """

    def __init__(self, decode: Decode, prompt: Sequence[int]):
        self.decode = decode
        self.tokens = _ending(decode, prompt)  # those whose text is known, and from ``settled`` on those that wait
        self.known = decode(self.tokens) if self.tokens else ""
        self.settled = len(self.tokens)
        self.text = ""

    def add(self, token: int) -> None:
        """One more token."""
        self.tokens.append(token)
        whole = self.decode(self.tokens)
        if not whole.endswith(BROKEN) or len(self.tokens) - self.settled > PATIENCE:
            self._settle(whole)

    def finish(self) -> None:
        """No more tokens come: what is still broken stays broken."""
        if self.settled < len(self.tokens):
            self._settle(self.decode(self.tokens))

    def _settle(self, whole: str) -> None:
        self.text += whole[len(self.known) :]
        fresh = self.tokens[self.settled :]
        alone = self.decode(fresh)
        # Tokens without text of their own (a space that is dropped, a hidden mark) are no context: keep the old one.
        self.tokens, self.known = (fresh, alone) if alone else (self.tokens, whole)
        self.settled = len(self.tokens)


def _ending(decode: Decode, prompt: Sequence[int]) -> list[int]:
    """The last tokens of the prompt, from the beginning of a character on."""
    for size in range(CONTEXT, CONTEXT + LONGEST):
        ending = list(prompt[-size:])
        if not decode(ending).startswith(BROKEN):
            break
    return ending


def undecided(text: str, stops: Sequence[str]) -> int:
    """How many of the last characters may be the beginning of a stop string."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    sizes = range(min(longest, len(text)), 0, -1)
    return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in stops)), 0)
