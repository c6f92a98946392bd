"""A session on a bundle: answers, sampling, cancelling, rewinding, limits."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from eager import generate
from hypothesis import given, settings
from hypothesis import strategies as st
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_runtime import Cancelled, MvgptError, Session, contract
from mvgpt_runtime.manifest import Bundle
from mvgpt_runtime.prompt import TextStream, load_tokenizer
from tokenizers import Tokenizer

QUESTION = "What happens in this video?"


@pytest.fixture(scope="module")
def session(tiny_bundle: Bundle, sample_clip: Path) -> Session:
    session = Session(tiny_bundle)
    session.load_video(sample_clip)
    return session


def test_greedy_answer_equals_the_eager_model(session: Session, eager: VideoGPT) -> None:
    answer = session.ask(QUESTION, max_new_tokens=24)
    tokens = list(answer)
    assert answer.token_ids == generate(eager, session, answer, 24)
    assert [t.id for t in tokens][: len(answer.token_ids)] == answer.token_ids  # then perhaps half a character
    assert "".join(map(str, tokens)) == answer.text == load_tokenizer(session.bundle).decode(answer.token_ids)
    assert answer.finish_reason == "length"


def test_video_encoders_equal_the_eager_model(session: Session, eager: VideoGPT, sample_clip: Path) -> None:
    from mvgpt_runtime.video import open_clip

    frames = np.stack(list(open_clip(sample_clip).frames()))
    got, expected = session.video, eager.trace(frames, [1], [2])
    assert got is not None
    assert np.array_equal(got.selected, expected["selected"])
    assert np.abs(got.visual_tokens - expected["visual_tokens"]).max() <= 1e-4 * np.abs(expected["visual_tokens"]).max()


def test_a_second_question_equals_a_cold_start(session: Session, tiny_bundle: Bundle, sample_clip: Path) -> None:
    """Questions are independent, and the video is paid for once: each prefills only itself, the first one too."""
    list(session.ask("Something else entirely, and rather longer than the next question is.", max_new_tokens=9))
    options = {"max_new_tokens": 12, "temperature": 0.8, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.2}
    fresh = Session(tiny_bundle)
    fresh.load_video(sample_clip)
    warm, cold = (s.ask(QUESTION, **options) for s in (session, fresh))  # type: ignore[arg-type]
    assert [t.id for t in warm] == [t.id for t in cold]
    for answer in (warm, cold):
        assert answer.stats["num_prefilled_tokens"] == len(answer.suffix_ids)
        assert answer.stats["num_prompt_tokens"] == answer.stats["num_video_prefilled_tokens"] + len(answer.suffix_ids)


def test_low_memory_gives_the_same_answer(session: Session, tiny_bundle: Bundle, sample_clip: Path) -> None:
    low = Session(tiny_bundle, low_memory=True)
    for _ in range(2):  # the second load drops the language model again
        low.load_video(sample_clip)
        answer, reference = (s.ask(QUESTION, max_new_tokens=8) for s in (low, session))
        assert [t.id for t in answer] == [t.id for t in reference]


def test_sampling_follows_its_seed(session: Session) -> None:
    def tokens(seed: int, **options: float) -> list[int]:
        return [t.id for t in session.ask(QUESTION, max_new_tokens=16, seed=seed, **options)]  # type: ignore[arg-type]

    assert tokens(1, temperature=1.0) == tokens(1, temperature=1.0)
    assert tokens(1, temperature=1.0) != tokens(2, temperature=1.0)
    assert tokens(1, temperature=1.0, top_p=1e-9) == tokens(1)


def test_stats(session: Session) -> None:
    answer = session.ask(QUESTION, max_new_tokens=5)
    list(answer)
    stats = answer.stats
    assert list(stats) == [name for name in contract.METRICS if name in stats]
    assert set(contract.METRICS) - set(stats) <= {"prefill_tokens_per_s", "decode_tokens_per_s"}
    assert stats["num_generated_tokens"] == 5
    assert stats["num_video_prefilled_tokens"] == len(answer.prefix_ids) + session.geometry.visual_tokens
    rate = stats["num_video_prefilled_tokens"] / stats["video_prefill_ms"] * 1e3
    assert stats["video_prefill_tokens_per_s"] == pytest.approx(rate)
    assert stats["video_ready_ms"] > stats["last_frame_to_ready_ms"] > stats["video_encoder_ms"] > 0
    parts = ("model_load_ms", "video_decode_ms", "preprocess_ms", "video_prefill_ms")
    stages = (f"{name}_ms" for name in contract.ENCODER_STAGES)
    assert stats["video_ready_ms"] >= sum(stats[name] for name in (*parts, *stages))
    assert session.video_stats.items() <= stats.items()
    assert stats["decode_tokens_per_s"] == pytest.approx(4 / stats["token_generation_ms"] * 1e3)
    assert stats["time_to_first_token_ms"] >= stats["prompt_eval_ms"] > 0
    assert all(value >= 0 for value in stats.values())


@pytest.mark.skipif(sys.platform != "linux", reason="macOS tells a process's own peak only")
def test_peak_memory_is_not_that_of_the_starting_process() -> None:
    """getrusage begins with what the parent had resident."""
    ballast = np.ones(25_000_000)  # 200 MB
    code = "from mvgpt_runtime.stats import peak_rss_bytes; print(peak_rss_bytes())"
    peak = int(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert 1e6 < peak < ballast.nbytes / 2


def test_leaving_the_loop_and_asking_again(session: Session) -> None:
    whole = [t.id for t in session.ask(QUESTION, max_new_tokens=8)]
    abandoned = session.ask(QUESTION, max_new_tokens=8)
    for token in abandoned:
        if token.id == whole[0]:
            break
    assert [t.id for t in session.ask(QUESTION, max_new_tokens=8)] == whole
    abandoned._tokens.close()  # type: ignore[attr-defined]
    assert abandoned.finish_reason == "cancelled"


def test_cancel_between_tokens(session: Session) -> None:
    answer = session.ask(QUESTION, max_new_tokens=50)
    for i, _ in enumerate(answer):
        if i == 2:
            session.cancel()
    assert answer.finish_reason == "cancelled"
    assert len(answer.token_ids) == 3


def test_cancel_in_prefill(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another thread, while the chunk runs: no token comes, and the next question is right."""
    reference = [t.id for t in session.ask(QUESTION, max_new_tokens=6)]
    run = session.engine.run

    def cancelling(stage: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        if stage == "text_decoder":
            thread = threading.Thread(target=session.cancel)
            thread.start()
            thread.join()
        return run(stage, inputs)

    answer = session.ask(QUESTION, max_new_tokens=6)
    monkeypatch.setattr(session.engine, "run", cancelling)
    assert list(answer) == []
    assert answer.finish_reason == "cancelled"
    monkeypatch.undo()
    assert [t.id for t in session.ask(QUESTION, max_new_tokens=6)] == reference


@pytest.mark.parametrize("low_memory", [False, True])
def test_cancel_while_loading(tiny_bundle: Bundle, sample_clip: Path, low_memory: bool) -> None:
    """At every stage, and in the middle of the prefill: the next step does not run, and no video is loaded."""
    session = Session(tiny_bundle, low_memory=low_memory)
    session.load_video(sample_clip)
    reference = [t.id for t in session.ask(QUESTION, max_new_tokens=4)]
    chunks = 1 + session.geometry.num_frames + 1
    for stage, count in (
        *((name, 1) for name in contract.ENCODER_STAGES),
        ("text_decoder", 1),
        ("text_decoder", chunks),
    ):
        calls: list[str] = []

        def progress(name: str, stage: str = stage, count: int = count, calls: list[str] = calls) -> None:
            calls.append(name)
            if calls.count(stage) == count:
                session.cancel()

        with pytest.raises(Cancelled, match=stage):
            session.load_video(sample_clip, progress=progress)
        assert calls[-1] == stage
        assert session.video is session.clip is None
        with pytest.raises(MvgptError, match="no video is loaded"):
            session.ask(QUESTION)
        with pytest.raises(MvgptError, match="no video was begun"):
            session.finish()
    session.load_video(sample_clip)
    assert [t.id for t in session.ask(QUESTION, max_new_tokens=4)] == reference


def test_what_a_bad_file_leaves(tiny_bundle: Bundle, sample_clip: Path, tmp_path: Path) -> None:
    """One that cannot be opened: everything, the conversation too. One that breaks off later: no video."""
    session = Session(tiny_bundle)
    session.load_video(sample_clip)
    list(session.ask(QUESTION, max_new_tokens=4))
    before, clip = session.snapshot(), session.clip
    with pytest.raises(MvgptError):
        session.load_video(tmp_path / "none.mp4")
    assert session.clip is clip
    assert session.snapshot() == before
    assert list(session.ask("And then?", keep_history=True, max_new_tokens=2))
    good = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(MvgptError, match="this is not a frame"):
        session.load_frames([good, good[..., :2]])
    assert session.video is session.clip is None
    with pytest.raises(MvgptError, match="no video was begun"):
        session.finish()


def test_a_question_that_does_not_fit_says_by_how_much(session: Session) -> None:
    fits = session.ask("a" * 10)
    per_letter = len(session.ask("a " * 600).suffix_ids) - len(session.ask("a " * 500).suffix_ids)
    assert per_letter > 0
    room = session.geometry.max_context - session.geometry.visual_tokens - len(fits.prefix_ids)
    question = "a " * 2000
    over = len(load_tokenizer(session.bundle).encode(f"\n{question}<|im_end|>\n<|im_start|>assistant\n").ids) - room
    with pytest.raises(MvgptError, match=f"is {over} tokens too long"):
        session.ask(question)


def test_generation_ends_at_the_end_of_the_cache(session: Session) -> None:
    """The last position is used, and nothing past it."""
    limit = session.geometry.max_context
    answer = session.ask("a " * 300, max_new_tokens=10_000)
    list(answer)
    assert answer.finish_reason == "length"
    # the last token needs no position of its own
    assert answer.stats["num_prompt_tokens"] + len(answer.token_ids) == limit + 1


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"repetition_penalty": 0.0}],
)
def test_bad_options(session: Session, options: dict[str, float]) -> None:
    with pytest.raises(MvgptError):
        session.ask(QUESTION, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("question", ["", "  ", "\ud800"])
def test_bad_questions(session: Session, question: str) -> None:
    with pytest.raises(MvgptError, match="prompt:"):
        session.ask(question)


def test_asking_without_a_video(tiny_bundle: Bundle) -> None:
    with pytest.raises(MvgptError, match="no video is loaded"):
        Session(tiny_bundle).ask(QUESTION)


def test_an_answer_about_a_video_that_is_gone(tiny_bundle: Bundle, sample_clip: Path) -> None:
    session = Session(tiny_bundle)
    session.load_video(sample_clip)
    answer = session.ask(QUESTION)
    session.load_frames(np.zeros((3, 40, 30, 3), np.uint8))
    with pytest.raises(MvgptError, match="another video was loaded"):
        next(iter(answer))


def test_an_answer_that_another_one_overtook(session: Session) -> None:
    """They share one KV cache: going on would mix them."""
    first = iter(session.ask(QUESTION, max_new_tokens=8))
    next(first)
    list(session.ask(QUESTION, max_new_tokens=2))
    with pytest.raises(MvgptError, match="went on to something else"):
        next(first)


def test_too_many_or_no_frames(tiny_bundle: Bundle) -> None:
    session = Session(tiny_bundle)
    for count in (0, 17):
        with pytest.raises(MvgptError, match="frames"):
            session.load_frames(np.zeros((count, 20, 20, 3), np.uint8))


@pytest.mark.parametrize(
    ("stage", "inputs"),
    [
        ("frame_scorer", []),
        ("frame_scorer", [np.zeros((8, 36, 127), np.float32)]),
        ("frame_scorer", [np.zeros((8, 36, 128), np.float64)]),
        ("text_decoder", [np.zeros((1, 513, 192), np.float32), np.zeros(1, np.int64)]),
        ("text_decoder", [np.zeros((1, 0, 192), np.float32), np.zeros(1, np.int64)]),
        ("image_encoder", [np.zeros((1, 3, 48, 48), np.uint8), np.ones(1, np.float32)]),
    ],
)
def test_wrong_inputs_are_refused_by_name(session: Session, stage: str, inputs: list[np.ndarray]) -> None:
    with pytest.raises(MvgptError, match=f"^{stage}: wrong"):
        session.engine.run(stage, inputs)


def test_outputs_are_the_callers_own(session: Session) -> None:
    """ExecuTorch reuses its output memory; what was returned before must not change."""
    first = session.engine.run("token_embedding", [np.array([[5]], np.int64)])[0]
    kept = first.copy()
    second = session.engine.run("token_embedding", [np.array([[6]], np.int64)])[0]
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_unload_and_prewarm(tiny_bundle: Bundle) -> None:
    session = Session(tiny_bundle)
    for stage in contract.STAGE_NAMES:
        session.engine.unload(stage)
        session.engine.unload(stage)
        session.engine.prewarm(stage)


THREADS = """
import sys
from mvgpt_runtime import MvgptError, Session
first = Session(sys.argv[1], threads=1)
first.engine.prewarm("image_projector")
again = Session(sys.argv[1], threads=1)
again.engine.prewarm("image_projector")
try:
    Session(sys.argv[1], threads=2)
except MvgptError as e:
    print(e.expected, e.got)
for session in (first, again):
    session.engine.unload("image_projector")
Session(sys.argv[1], threads=2).engine.prewarm("image_projector")
print("done")
"""


def test_the_pool_of_threads_does_not_change_under_loaded_stages(tiny_bundle: Bundle) -> None:
    """XNNPACK would go on with a pool that was freed."""
    command = [sys.executable, "-c", THREADS, str(tiny_bundle.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("1 2\ndone\n", 0), done.stderr


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Bundle) -> Tokenizer:
    return load_tokenizer(tiny_bundle)


def pieces(tokenizer: Tokenizer, ids: list[int]) -> Iterator[str]:
    stream = TextStream(tokenizer)
    yield from map(stream.push, ids)
    yield stream.finish()


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40))
def test_streaming_never_splits_a_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    parts = list(pieces(tokenizer, ids))
    assert "".join(parts) == tokenizer.decode(ids)
    assert not any("\ufffd" in part for part in parts) or "\ufffd" in text


def test_streaming_ends_inside_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ok 🎬", add_special_tokens=False).ids[:-1]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == "ok \ufffd"
