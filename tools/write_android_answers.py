"""Writes what the Kotlin SDK is compared with: Python's answers about clips, and the clips' frames as decoded here.

    python tools/write_android_answers.py BUNDLE OUTPUT

OUTPUT/answers.json has a case per clip: its frames (uint8 [n, height, width, 3], an .npy beside it), what the encoders
made of them, and questions in the order they were asked in, with options and answers. Apps decode videos by their
system's decoders, so the comparison begins with frames.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from mvgpt_runtime import Session, video
from mvgpt_runtime.answer import Answer
from mvgpt_runtime.errors import ContextFull

ASSETS = Path(__file__).resolve().parent.parent / "assets"
# Hot, so that every draw counts.
SAMPLED = {"temperature": 2.5, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.2, "seed": 7}
CLIPS: dict[str, tuple[str, str]] = {
    "flash": ("What flashes up?", "What colour is the circle?"),
    "motion": ("Which way does the yellow square move?", "Which colour does the triangle have?"),
    "still": ("What shape is the red object?", "Are there more than two objects?"),
}
# Seconds of a live video's frames: some come too early to be taken.
STREAM_S = (0.0, 0.4, 0.99, 1.0, 1.9, 2.0, 2.5, 3.1, 4.2, 5.0, 5.1, 9.0)


def questions(first: str, second: str) -> list[dict[str, Any]]:
    """The arguments of `ask`, one conversation after the other."""
    return [
        {"question": first, "max_new_tokens": 32},
        {"question": second, "max_new_tokens": 32, "keep_history": True},
        {"question": first, "max_new_tokens": 24, **SAMPLED},
        # Text that the tokenizer normalises and that it has no tokens for; a seed beyond signed integers
        {"question": "Is \u00c5 or A\u030a in the caf\u00e9? 何が見えますか 🟡" + " and then" * 20, "max_new_tokens": 8,
         "keep_history": True, **SAMPLED, "seed": 2**63 + 5},
        {"question": second, "max_new_tokens": 1},
    ]  # fmt: skip


def ask(session: Session, arguments: dict[str, Any]) -> dict[str, Any]:
    """Ask, and what came; Kotlin's seeds are signed."""
    return result(session.ask(**arguments), arguments, [])


def result(answer: Answer, arguments: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    pieces += [str(token) for token in answer]
    seed = arguments.get("seed", 0)
    return {
        **arguments,
        **({"seed": seed - 2**64} if seed >= 2**63 else {}),
        "token_ids": answer.token_ids,
        "pieces": pieces,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "num_prompt_tokens": answer.stats["num_prompt_tokens"],
        "num_prefilled_tokens": answer.stats["num_prefilled_tokens"],
        "num_generated_tokens": answer.stats["num_generated_tokens"],
    }


def whole(session: Session, output: Path, name: str, frames: list[np.ndarray]) -> dict[str, Any]:
    """A clip that is loaded at once, and a conversation about it."""
    encoded = session.load_frames(frames)
    np.save(output / f"{name}.npy", np.stack(frames))
    np.save(output / f"{name}-visual_tokens.npy", encoded.visual_tokens)
    np.save(output / f"{name}-frame_scores.npy", encoded.frame_scores)
    asked = [ask(session, arguments) for arguments in questions(*CLIPS[name.partition("-")[0]])]
    return {"clip": name, "key_frames": encoded.key_frames.tolist(), "asked": asked}


def stream(session: Session, frames: list[np.ndarray]) -> dict[str, Any]:
    """The frames of one clip as a live video."""
    session.begin()
    taken = [session.add_frame(frame, second) for frame, second in zip(frames, STREAM_S, strict=False)]
    session.finish()
    asked = [ask(session, arguments) for arguments in questions(*CLIPS["flash"])[:2]]
    return {"clip": "flash", "timestamps_s": STREAM_S, "taken": taken, "asked": asked}


def cancelled(session: Session, frames: list[np.ndarray]) -> dict[str, Any]:
    """An answer that is stopped after its first token, and a question that goes on from there."""
    session.load_frames(frames)
    first, second = ({**arguments, **SAMPLED} for arguments in questions(*CLIPS["motion"])[:2])
    answer = session.ask(**first)
    pieces = [str(next(iter(answer)))]
    session.cancel()
    return {"clip": "motion", "asked": [result(answer, first, pieces), ask(session, second)]}


def limits(session: Session, frames: list[np.ndarray]) -> dict[str, Any]:
    """The end of the KV cache: a question that does not fit, and an answer that is cut off there if it is so long."""
    session.load_frames(frames)
    long = "What is that? " * session.geometry.max_context
    try:
        session.ask(long)
    except ContextFull as e:
        positions = int(str(e.got))
    return {
        "clip": "still",
        "question": long,
        "positions": positions,
        "asked": [ask(session, {"question": "Go on. " * 40, "max_new_tokens": session.geometry.max_context})],
    }


def main(bundle: str, output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    session = Session(bundle)
    clips = {
        name: list(video.open_clip(ASSETS / f"{name}.mp4", None, None, session.geometry.num_frames).frames())
        for name in CLIPS
    }
    # Fewer frames than the model takes: the rest is padding.
    cases = [
        whole(session, output, name, frames) for name, frames in [*clips.items(), ("still-short", clips["still"][:3])]
    ]
    expected = {
        "clips": cases,
        "stream": stream(session, clips["flash"]),
        "cancelled": cancelled(session, clips["motion"]),
        "limits": limits(session, clips["still"]),
    }
    (output / "answers.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
