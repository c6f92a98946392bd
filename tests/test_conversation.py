"""Conversations: going on, branching, and the end of the KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from eager import generate
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_runtime import Cancelled, MvgptError, Session
from mvgpt_runtime import answer as answers
from mvgpt_runtime.answer import Answer
from mvgpt_runtime.errors import ContextFull
from mvgpt_runtime.generate import Generator
from mvgpt_runtime.manifest import Bundle
from mvgpt_runtime.prompt import load_tokenizer
from mvgpt_runtime.sampler import Sampler

FIRST, SECOND, THIRD = "What happens in this video?", "And then?", "Who is the one on the left?"


@pytest.fixture(scope="module")
def session(tiny_bundle: Bundle, sample_clip: Path) -> Session:
    session = Session(tiny_bundle)
    session.load_video(sample_clip)
    return session


@pytest.fixture(scope="module")
def other(tiny_bundle: Bundle, sample_clip: Path) -> Session:
    session = Session(tiny_bundle)
    session.load_video(sample_clip)
    return session


def ids(answer: Answer) -> list[int]:
    """All tokens of an answer."""
    list(answer)
    return answer.token_ids


class Stopping(Sampler):
    """What a trained model does by itself: ends the answer after four tokens."""

    calls = 0

    def __call__(self, logits: np.ndarray) -> int:
        self.calls += 1
        return super().__call__(logits) if self.calls <= 4 else STOP


STOP = -1
SAMPLED = {"temperature": 1.0, "seed": 11}  # greedy, the random model says the same whatever it is asked


def end_by(how: str, session: Session, question: str, keep_history: bool, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """An answer that ends in this way."""
    limit = 5 if how == "length" else 12
    answer = session.ask(question, keep_history=keep_history, max_new_tokens=limit, **SAMPLED)  # type: ignore[arg-type]
    if how == "stop":
        monkeypatch.setattr(answers, "Sampler", Stopping)
        monkeypatch.setattr(session._prompt, "stop_ids", frozenset({STOP}))
    for i, _ in enumerate(answer):
        if how == "left" and i == 3:
            break
        if how == "cancelled" and i == 3:
            session.cancel()
    monkeypatch.undo()
    assert answer.finish_reason == (None if how == "left" else how)
    assert len(answer.token_ids) == (limit if how == "length" else 4)
    return answer


@pytest.mark.parametrize("how", ["stop", "length", "cancelled", "left"])
def test_a_conversation_equals_a_cold_start(
    session: Session, other: Session, eager: VideoGPT, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Three turns, however each ended: the tokens of everything computed anew, and nothing is computed twice."""
    encode = load_tokenizer(session.bundle).encode
    text = encode(f"\n{FIRST}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False).ids
    turn = end_by(how, session, FIRST, False, monkeypatch)
    assert turn.suffix_ids == text
    for question in (SECOND, THIRD):
        template = f"<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        added = encode(template, add_special_tokens=False).ids
        text = text + turn.token_ids + added
        turn = end_by(how, session, question, True, monkeypatch)
        assert turn.suffix_ids == text
        # the row of the last token is missing, unless another token (which stopped the answer) was wanted after it
        assert turn._stats.values["num_prefilled_tokens"] == len(added) + (how != "stop")
        count = len(turn.token_ids)
        assert turn.token_ids == generate(eager, session, turn, count, **SAMPLED)
        assert other._conversation is not None
        other._conversation.begin_turn(0)
        other._conversation.say(text[: -len(added)])
        cold = other.ask(question, keep_history=True, max_new_tokens=count, **SAMPLED)  # type: ignore[arg-type]
        assert ids(cold) == turn.token_ids
        assert cold.stats["num_prefilled_tokens"] == len(text)


def test_a_question_cancelled_before_its_answer_stays(session: Session, eager: VideoGPT) -> None:
    """In the first chunk of its prefill, in the middle of a conversation: nothing of it may be taken for cached."""
    list(session.ask(FIRST, max_new_tokens=4))
    lost = session.ask("This will not be answered.", keep_history=True)
    check = session._generator.prefill
    session._generator.prefill = lambda rows, step: (session.cancel(), check(rows, step))[1]  # type: ignore[method-assign]
    try:
        assert ids(lost) == []
    finally:
        del session._generator.prefill  # type: ignore[method-assign]
    assert lost.finish_reason == "cancelled"
    answer = session.ask(SECOND, keep_history=True, max_new_tokens=6)
    assert ids(answer) == generate(eager, session, answer, 6)
    assert answer.suffix_ids[: len(lost.suffix_ids)] == lost.suffix_ids


def test_an_interrupt_leaves_no_stale_row(session: Session, eager: VideoGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C as an exception, after the conversation went back and before anything was prefilled."""
    list(session.ask("A question that is rather long and whose rows must not be taken for others.", max_new_tokens=9))

    def interrupted(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(session._generator, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(session.ask(FIRST))
    monkeypatch.undo()
    answer = session.ask(SECOND, keep_history=True, max_new_tokens=6)
    assert ids(answer) == generate(eager, session, answer, 6)


def test_history_is_kept_only_on_request(session: Session) -> None:
    alone = ids(session.ask(SECOND, max_new_tokens=6, **SAMPLED))  # type: ignore[arg-type]
    list(session.ask(FIRST, max_new_tokens=6))
    after = ids(session.ask(SECOND, max_new_tokens=6, keep_history=True, **SAMPLED))  # type: ignore[arg-type]
    assert after != alone
    assert ids(session.ask(SECOND, max_new_tokens=6, **SAMPLED)) == alone  # type: ignore[arg-type]


def test_branches(session: Session) -> None:
    """Two ways on from one point; the second time the same way gives the same tokens."""

    def say(question: str, keep_history: bool = True) -> list[int]:
        answer = session.ask(question, keep_history=keep_history, max_new_tokens=8, **SAMPLED)  # type: ignore[arg-type]
        return ids(answer)

    say(FIRST, keep_history=False)
    point = session.snapshot()
    ways = []
    for question in (SECOND, THIRD, SECOND):
        session.restore(point)
        assert session.snapshot().position == point.position
        ways.append(say(question))
    assert ways[0] == ways[2] != ways[1]
    say(FIRST, keep_history=False)
    assert session.snapshot().position == point.position
    assert say(THIRD) == ways[1]


def test_snapshots_that_are_no_more(session: Session, other: Session, sample_clip: Path) -> None:
    start = session.snapshot()
    list(session.ask(FIRST, max_new_tokens=6))
    point = session.snapshot()
    list(session.ask(SECOND, keep_history=True, max_new_tokens=6))
    later = session.snapshot()
    session.restore(point)
    refused = pytest.raises(MvgptError, match="no longer holds this snapshot")
    with refused:
        session.restore(later)  # further than the conversation
    list(session.ask(THIRD, keep_history=True, max_new_tokens=30))
    with refused:
        session.restore(later)  # as long as the conversation, but other words
    with refused:
        other.restore(point)  # another session's
    with refused:
        other.restore(start)
    session.restore(point)
    session.load_video(sample_clip)
    with refused:
        session.restore(point)  # another video's, even if it is the same file


def test_who_was_overtaken_does_not_go_on(session: Session) -> None:
    list(session.ask(FIRST, max_new_tokens=4))
    point = session.snapshot()
    running = iter(session.ask(SECOND, keep_history=True))
    next(running)
    waiting = session.ask(THIRD, keep_history=True)
    session.restore(point)
    for answer in (running, iter(waiting)):
        with pytest.raises(MvgptError, match="went on to something else"):
            next(answer)
    assert session.snapshot() == point


def test_until_the_context_is_full(session: Session) -> None:
    """The last answer ends at the last position; then a question is refused by how much it is too long."""
    limit, left = session.geometry.max_context, 0
    assert session._prompt is not None
    added = len(session._prompt.next_turn_ids(SECOND))
    list(session.ask(FIRST, max_new_tokens=100))
    while (left := limit - session.snapshot().position - added) >= 0:
        answer = session.ask(SECOND, keep_history=True, max_new_tokens=100)
        list(answer)
        assert answer.finish_reason == "length"
        assert len(answer.token_ids) == min(100, left + 1)  # the last token needs no position of its own
        assert session._generator.cached <= limit
    with pytest.raises(ContextFull, match=f"is {-left} tokens too long"):
        session.ask(SECOND, keep_history=True)
    assert ids(session.ask(SECOND, max_new_tokens=3))


def test_prefill_in_chunks_and_cancelled_between_them(session: Session) -> None:
    """Seven rows at a time; a cancelled prefill knows how many rows it wrote."""
    small = Generator(session.engine, replace(session.geometry, prefill_chunk=7))
    whole = Generator(session.engine, session.geometry)
    rows = whole.embed(list(range(40)))
    assert np.array_equal(small.embed(list(range(40))), rows)
    expected = whole.prefill(rows, lambda stage: None)
    got = small.prefill(rows, lambda stage: None)
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()
    small.rewind(0)
    steps = iter(range(3))

    def check(stage: str) -> None:
        if next(steps, None) is None:
            raise Cancelled(stage)

    with pytest.raises(Cancelled):
        small.prefill(rows, check)
    assert small.cached == 21
    assert np.array_equal(small.prefill(rows[21:], lambda stage: None), got)
