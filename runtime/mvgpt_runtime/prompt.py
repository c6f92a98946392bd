"""Step 7a, prompt: question → token ids before and after the visual tokens, and token ids → text as it streams.

The tokenizer is the checkpoint's own tokenizer.json, run by Hugging Face's `tokenizers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MvgptError
from .manifest import Bundle

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer; MvgptError if it has none or the file is malformed."""
    if bundle.manifest.tokenizer is None:
        raise MvgptError(
            "the bundle has no tokenizer, so it cannot be asked (tracing with token ids works)",
            stage="tokenizer",
            remedy="put the language model's tokenizer.json into the checkpoint folder and export again",
        )
    return read_tokenizer(bundle.file(bundle.manifest.tokenizer))


def read_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    with _failures(f"{path.name} is no tokenizer"):
        tokenizer = Tokenizer.from_file(str(path))
        # A file may ask for both: a prompt is neither cut silently, nor filled up to a length somebody wrote there.
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return tokenizer


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Whatever the tokenizer raises as one error: plain Exception, or a Rust panic, which is not even an Exception."""
    try:
        yield
    except BaseException as e:
        if not isinstance(e, Exception) and type(e).__name__ != "PanicException":
            raise
        raise MvgptError(what, stage="tokenizer", got=e, remedy="use the checkpoint's own tokenizer.json") from None


class Prompt:
    """The manifest's template, tokenised. Each piece around the visual tokens, and each turn, is tokenised on its own.

    Attributes:
        prefix_ids: ids of everything before the visual tokens.
        stop_ids: ids that end an answer.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.tokenizer, self._template = load_tokenizer(bundle), manifest.prompt
        self.prefix_ids, self.stop_ids = self._encode(manifest.prompt.prefix), frozenset(manifest.stop_ids)

    def suffix_ids(self, question: str) -> list[int]:
        """Ids of everything after the visual tokens."""
        return self._question_ids(self._template.suffix, question)

    def next_turn_ids(self, question: str) -> list[int]:
        """Ids of everything after an answer, whose end (the stop token) the template brings."""
        return self._question_ids(self._template.next_turn, question)

    def _question_ids(self, template: str, question: str) -> list[int]:
        if not question.strip():
            raise MvgptError("the question is empty", stage="prompt")
        return self._encode(template.replace("{question}", question))

    def _encode(self, text: str) -> list[int]:
        try:
            text.encode("utf-8")  # a lone surrogate would be a panic inside the tokenizer
        except UnicodeEncodeError as e:
            raise MvgptError("the text is not valid Unicode", stage="prompt", got=e) from None
        with _failures("the tokenizer cannot encode this text"):
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


class TextStream:
    """Token ids in, text out, never half a character: bytes of an unfinished one wait for the next token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._stream = tokenizer, DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self.text = ""

    def push(self, token_id: int) -> str:
        """The text that this token completes, often a word, sometimes nothing."""
        self._ids.append(token_id)
        with _failures(f"the tokenizer cannot decode token {token_id}"):
            piece: str = self._stream.step(self._tokenizer, token_id) or ""
        self.text += piece
        return piece

    def finish(self) -> str:
        """What still waits when generation stops in the middle of a character (with U+FFFD for it)."""
        with _failures("the tokenizer cannot decode the answer"):
            whole: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        rest = whole[len(self.text) :] if whole.startswith(self.text) else ""
        self.text += rest
        return rest
