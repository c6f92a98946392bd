"""What has been said about one video: the text ids that follow its visual tokens, and who put each there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from .encode import EncodedVideo
from .errors import MvgptError
from .generate import Generator
from .prompt import Prompt
from .stats import Stats

_turns = itertools.count()  # of the whole process: no two videos or sessions share a turn


@dataclass(frozen=True)
class Snapshot:
    """A point in a conversation: just an integer, the position. `turn` only tells whether that point still exists.

    Nothing is copied: the rows before it stay in the KV cache until another video, or a turn that started further back,
    overwrites them.

    Attributes:
        position: positions of prefix, visual tokens and text up to here.
        turn: which turn put the last of them there.
    """

    position: int
    turn: int


class Conversation:
    """A loaded video and the text about it, one position per id. The KV cache may hold less of the text than there is.

    Attributes:
        video, stats: the encoded video and the metrics of loading it.
        prompt: the templates.
        generator: the language model, whose KV cache holds prefix and visual tokens.
        start: the position after these, where the first question goes.
        ids: text ids from there on: question templates and answers, without the tokens that stopped them.
        turn: the latest turn.
    """

    def __init__(self, video: EncodedVideo, stats: Stats, prompt: Prompt, generator: Generator) -> None:
        self.video, self.stats, self.prompt, self.generator = video, stats, prompt, generator
        self.start = generator.cached
        self.ids: list[int] = []
        self.turn = next(_turns)
        self._turns = [self.turn]  # of the video, then of every id
        self._closed = False

    @property
    def position(self) -> int:
        """Positions that prefix, visual tokens and text take."""
        return self.start + len(self.ids)

    def begin_turn(self, length: int) -> int:
        """Go back to the first `length` ids and begin a turn there; its number."""
        self.generator.rewind(self.start + length)  # first, so that an interruption leaves no row that is not in `ids`
        del self.ids[length:], self._turns[length + 1 :]
        self.turn = next(_turns)
        return self.turn

    def say(self, ids: Sequence[int]) -> None:
        """Append ids of the latest turn."""
        self.ids += ids
        self._turns += [self.turn] * len(ids)

    def close(self) -> None:
        """Another video takes the KV cache."""
        self._closed = True

    def check(self, turn: int) -> None:
        """MvgptError unless the KV cache is still this video's, and `turn` the latest."""
        if self._closed:
            what = "another video was loaded since this question was asked"
        elif turn != self.turn:
            what = "the session went on to something else"
        else:
            return
        raise MvgptError(what, stage="session", remedy="ask again")

    def snapshot(self) -> Snapshot:
        return Snapshot(self.position, self._turns[-1])

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot. MvgptError if it is of another video, or if what it stood on was overwritten."""
        length = snapshot.position - self.start
        if not 0 <= length <= len(self.ids) or self._turns[length] != snapshot.turn:
            raise MvgptError(
                "the KV cache no longer holds this snapshot",
                stage="session",
                expected=f"a point of this video's conversation, which now takes {self.position} positions",
                got=f"position {snapshot.position} of another video, or of a turn that was overwritten",
                remedy="restore a snapshot taken on the way here, or ask without keep_history to start over",
            )
        self.begin_turn(length)
