"""Who waits for a name, and how far the bus's answers reach.

The bus answers questions in their order. So it is enough to count them: what it
says after so many answers is newer than every request that came before so many
questions were asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.core.events import Token


@dataclass(slots=True)
class Waiting:
    """Those who wait, in the order in which they came.

    Attributes:
        asked, answered: how many questions about the name's owner.
    """

    asked: int = 0
    answered: int = 0
    # With the number of the first question whose answer can be news to each; who need not
    # ask has that of who came before, so that those who are reached are the first.
    _tokens: list[tuple[Token, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, token: Token, *, ask: bool) -> None:
        """One more waits, perhaps for a question that is still to be asked."""
        last = self._tokens[-1][1] if self._tokens else 0
        self._tokens.append((token, self.asked + 1 if ask else last))

    def invalidate_answers(self) -> None:
        """What the bus has said may be old: all wait for a question that is still to be asked."""
        self._tokens = [(token, self.asked + 1) for token, _ in self._tokens]

    @property
    def needs_question(self) -> bool:
        """Whether somebody waits for a question that is still to be asked."""
        return bool(self._tokens) and self._tokens[-1][1] > self.asked

    @property
    def up_to_date(self) -> bool:
        """Whether the newest answer is one to the newest question."""
        return self.answered >= self.asked

    @property
    def first_is_answered(self) -> bool:
        """Whether what the bus says now is news for the one who has waited longest."""
        return self._tokens[0][1] <= self.answered

    def take_reached(self) -> tuple[Token, ...]:
        """Let go those for whom what the bus says now is news."""
        tokens = tuple(token for token, question in self._tokens if question <= self.answered)
        del self._tokens[: len(tokens)]
        return tokens

    def take_all(self) -> tuple[Token, ...]:
        """Let everybody go."""
        tokens = tuple(token for token, _ in self._tokens)
        self._tokens.clear()
        return tokens
