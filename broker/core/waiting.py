"""The waiters for a name, and the question whose answer each of them needs.

The bus answers questions in order, so it is enough to number them: anything that
the bus says after its n-th answer is newer than every request that was made before
the n-th question.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.core.events import Token


@dataclass(slots=True)
class Waiting:
    """The waiters, in order of arrival.

    Attributes:
        asked, answered: the numbers of questions about the name's owner, and of answers.
    """

    asked: int = 0
    answered: int = 0
    # Each token with the number of the first question whose answer is news to it. A token that
    # needs no question gets the number of the token before it, so that the answered ones come
    # first.
    _tokens: list[tuple[Token, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, token: Token, *, ask: bool) -> None:
        """Add a waiter; with ``ask``, it waits for a question that is not asked yet."""
        last = self._tokens[-1][1] if self._tokens else 0
        self._tokens.append((token, self.asked + 1 if ask else last))

    def invalidate_answers(self) -> None:
        """The bus's answers may be old: all waiters need a new question."""
        self._tokens = [(token, self.asked + 1) for token, _ in self._tokens]

    @property
    def needs_question(self) -> bool:
        """Whether a waiter needs a question that is not asked yet."""
        return bool(self._tokens) and self._tokens[-1][1] > self.asked

    @property
    def up_to_date(self) -> bool:
        """Whether the newest answer is to the newest question."""
        return self.answered >= self.asked

    @property
    def first_is_answered(self) -> bool:
        """Whether the bus's current answer is news to the first waiter."""
        return self._tokens[0][1] <= self.answered

    def take_reached(self) -> tuple[Token, ...]:
        """Remove and return the waiters to whom the bus's current answer is news."""
        tokens = tuple(token for token, question in self._tokens if question <= self.answered)
        del self._tokens[: len(tokens)]
        return tokens

    def take_all(self) -> tuple[Token, ...]:
        """Remove and return all waiters."""
        tokens = tuple(token for token, _ in self._tokens)
        self._tokens.clear()
        return tokens
