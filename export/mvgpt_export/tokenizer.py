"""The bundle's tokenizer: the checkpoint's tokenizer.json, or built from vocab.json + merges.txt or Qwen's ranks.

All Qwen2 tokenizers are byte-level BPE after NFC and one splitting pattern (Qwen2 technical report, 2407.10671, 2.1).
"""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path

from mvgpt_runtime.contract import STOP_TOKENS
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.prompt import read_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen2.5's tokens after the 151,643 byte-pair ranks, in id order; the first 14 are control tokens, the rest plain ones.
QWEN_CONTROL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
QWEN_PLAIN = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
).split()


def byte_level_bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """A Qwen2 tokenizer without its added tokens."""
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def add_tokens(tokenizer: Tokenizer, control: list[str], plain: list[str]) -> None:
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])


def folder_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint folder; None if it has none."""
    if (folder / "tokenizer.json").is_file():
        return read_tokenizer(folder / "tokenizer.json")
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocab.is_file() and merges.is_file()):
        return None
    try:
        lines = merges.read_text(encoding="utf-8").splitlines()
        pairs = [(a, b) for a, b in (line.split(" ") for line in lines if line and not line.startswith("#version"))]
        tokenizer = byte_level_bpe(json.loads(vocab.read_text(encoding="utf-8")), pairs)
        added = folder / "added_tokens.json"
        ids: dict[str, int] = json.loads(added.read_text(encoding="utf-8")) if added.is_file() else {}
    except (OSError, ValueError, TypeError) as e:
        raise MvgptError("cannot read vocab.json, merges.txt or added_tokens.json", stage="tokenizer", got=e) from None
    for token, expected in sorted(ids.items(), key=lambda item: item[1]):
        plain = token in QWEN_PLAIN
        add_tokens(tokenizer, [] if plain else [token], [token] if plain else [])
        if (got := tokenizer.token_to_id(token)) != expected:
            raise MvgptError(
                f"added token {token!r} has an unexpected id", stage="tokenizer", expected=expected, got=got
            )
    return tokenizer


def qwen_tokenizer() -> Tokenizer:
    """Qwen2.5's true tokenizer, from the rank file that the package `dashscope` carries (none of its code is run)."""
    spec = importlib.util.find_spec("dashscope")
    ranks = Path(spec.origin).parent / "resources" / "qwen.tiktoken" if spec and spec.origin else None
    if ranks is None or not ranks.is_file():
        raise MvgptError(
            "random weights of the published sizes need the true Qwen2.5 vocabulary",
            stage="tokenizer",
            expected="the package dashscope, which carries it",
            got="not installed",
            remedy="pip install 'mvgpt[random]', or export random:tiny",
        )
    return from_ranks(ranks)


def from_ranks(path: Path) -> Tokenizer:
    """A rank file (one `base64 rank` per line, in rank order) → byte-level BPE with Qwen2.5's added tokens."""
    tokens = [base64.b64decode(line.split()[0]) for line in path.read_bytes().splitlines() if line]
    rank = {token: i for i, token in enumerate(tokens)}
    letters = _byte_letters()

    def spelled(token: bytes) -> str:
        return "".join(letters[b] for b in token)

    merges = [
        (spelled(a), spelled(b)) for token in tokens if len(token) > 1 for a, b in [_last_merge(token, rank)] if b
    ]
    tokenizer = byte_level_bpe({spelled(token): i for token, i in rank.items()}, merges)
    add_tokens(tokenizer, QWEN_CONTROL, QWEN_PLAIN)
    return tokenizer


def _last_merge(token: bytes, rank: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The pair that BPE with the earlier ranks joins last to make `token`; (token, b"") if they cannot make it."""
    parts = [token[i : i + 1] for i in range(len(token))]
    limit = rank[token]
    while len(parts) > 2:
        pairs = [(rank.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1)]
        best, i = min(pairs)
        if best >= limit:
            return token, b""
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte: itself if printable Latin-1, else the next free one from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    free = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(free)) for b in range(256)]


def compact(tokenizer: Tokenizer) -> str:
    """tokenizer.json in two fifths of its usual bytes: unindented, a merge as one string, as every reader knows it.

    The library itself writes a merge as a pair, which only a token with a space in it needs; byte-level BPE has none.
    """
    content = json.loads(tokenizer.to_str())
    merges = content["model"].get("merges", [])
    if not any(" " in token for pair in merges for token in pair):
        content["model"]["merges"] = [" ".join(pair) for pair in merges]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def special_ids(tokenizer: Tokenizer, vocab_size: int) -> tuple[dict[str, int], tuple[int, ...]]:
    """Ids of the prompt's control tokens by name, and those that end an answer; checked against the embedding table."""
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= vocab_size:
        raise MvgptError(
            "the tokenizer has ids that the embedding table lacks",
            stage="tokenizer",
            expected=f"ids below {vocab_size}",
            got=largest,
            remedy="use the tokenizer that belongs to this checkpoint",
        )
    ids = {token: tokenizer.token_to_id(token) for token in ("<|im_start|>", *STOP_TOKENS)}
    for token in ("<|im_start|>", STOP_TOKENS[0]):
        if ids[token] is None:
            raise MvgptError(
                f"the tokenizer has no {token}", stage="tokenizer", remedy="the prompt is ChatML and needs it"
            )
    known = {token: i for token, i in ids.items() if i is not None}
    return known, tuple(known[t] for t in STOP_TOKENS if t in known)
