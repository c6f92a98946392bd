"""Tokenizers: Qwen2.5's true vocabulary, older file layouts, and what does not fit a model."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mvgpt_export.sources import tiny_tokenizer
from mvgpt_export.tokenizer import SPLIT_PATTERN, add_tokens, compact, folder_tokenizer, qwen_tokenizer, special_ids
from mvgpt_runtime import MvgptError, prompt
from mvgpt_runtime.prompt import read_tokenizer
from tokenizers import Tokenizer, models

TEXTS = [
    "What happens in this video?",
    "Ünïcödé, 北京 и 東京, 12345 tokens\n\n  def f(x):\treturn x",
    "🎬🎥 👩‍👩‍👧 e\u0301 vs é",
    "it's WE'LL i'd\r\n \r\n  trailing   ",
]


@pytest.fixture(scope="module")
def qwen() -> Tokenizer:
    return qwen_tokenizer()


@pytest.fixture(scope="module")
def reference() -> object:
    """tiktoken on the same ranks: an independent byte-pair encoder."""
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    spec = importlib.util.find_spec("dashscope")
    assert spec is not None
    assert spec.origin is not None
    ranks = load_tiktoken_bpe(str(Path(spec.origin).parent / "resources" / "qwen.tiktoken"))
    return tiktoken.Encoding("qwen", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})


def assert_equal(qwen: Tokenizer, reference: object, text: str) -> None:
    expected = reference.encode(unicodedata.normalize("NFC", text))  # type: ignore[attr-defined]
    assert qwen.encode(text, add_special_tokens=False).ids == expected


@pytest.mark.parametrize("text", TEXTS)
def test_qwen_equals_tiktoken(qwen: Tokenizer, reference: object, text: str) -> None:
    assert_equal(qwen, reference, text)
    ids = qwen.encode(text, add_special_tokens=False).ids
    assert qwen.decode(ids) == unicodedata.normalize("NFC", text)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60).filter(lambda t: "<|" not in t and "_call>" not in t))
def test_qwen_equals_tiktoken_on_any_text(qwen: Tokenizer, reference: object, text: str) -> None:
    assert_equal(qwen, reference, text)


def test_qwen_known_ids(qwen: Tokenizer) -> None:
    assert qwen.get_vocab_size() == 151665
    known, stop = special_ids(qwen, 151666)
    assert known == {"<|im_start|>": 151644, "<|im_end|>": 151645, "<|endoftext|>": 151643}
    assert stop == (151645, 151643)
    assert qwen.token_to_id("<|file_sep|>") == 151664
    assert qwen.encode("<|im_start|>user\n", add_special_tokens=False).ids == [151644, 872, 198]


def test_compact_files_are_the_same_tokenizer(qwen: Tokenizer) -> None:
    for tokenizer in (tiny_tokenizer(), qwen):
        text = compact(tokenizer)
        assert len(text.encode()) < 0.9 * len(tokenizer.to_str(pretty=False).encode())
        assert Tokenizer.from_str(text).to_str() == tokenizer.to_str()


def test_compact_files_in_executorch(qwen: Tokenizer, tmp_path: Path) -> None:
    """Apps have its reader, which splits a few texts otherwise, but by either file alike."""
    from pytorch_tokenizers import CppHFTokenizer

    ids = []
    for text in (compact(qwen), qwen.to_str()):
        (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
        theirs = CppHFTokenizer()
        theirs.load(str(tmp_path / "tokenizer.json"))
        ids.append([theirs.encode(text, 0, 0) for text in TEXTS])
    assert ids[0] == ids[1]
    assert ids[0][0] == qwen.encode(TEXTS[0]).ids


def test_tokens_with_spaces_stay_pairs() -> None:
    spaced = Tokenizer(models.BPE({"a": 0, " ": 1, "b": 2, "a ": 3, "a b": 4}, [("a", " "), ("a ", "b")]))
    assert Tokenizer.from_str(compact(spaced)).to_str() == spaced.to_str()
    assert Tokenizer.from_str(compact(spaced)).encode("a b").ids == [4]


def test_vocab_and_merges_files(tmp_path: Path) -> None:
    """The layout of checkpoints without tokenizer.json."""
    tiny = tiny_tokenizer()
    model = json.loads(tiny.to_str())["model"]
    special = {t: tiny.token_to_id(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
    # ids of added tokens follow the vocabulary's in such files
    size = len(model["vocab"])
    vocab = {t: i - len(special) for t, i in model["vocab"].items() if t not in special}
    added = {token: size - len(special) + i for i, token in enumerate(special)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]))
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    built = folder_tokenizer(tmp_path)
    assert built is not None
    for text in TEXTS:
        assert built.encode(text).ids == [i - len(special) for i in tiny.encode(text).ids]
    assert {t: built.token_to_id(t) for t in added} == added

    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 9999}))
    with pytest.raises(MvgptError, match="unexpected id"):
        folder_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("a b c")
    with pytest.raises(MvgptError, match="cannot read"):
        folder_tokenizer(tmp_path)


def test_folders_without_a_usable_tokenizer(tmp_path: Path) -> None:
    assert folder_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(MvgptError, match=r"tokenizer\.json is no tokenizer"):
        folder_tokenizer(tmp_path)


def _asking_for(**more: object) -> str:
    return json.dumps({**json.loads(tiny_tokenizer().to_str()), **more})


_CUT = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
_FILL = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}


@pytest.mark.parametrize(
    "more",
    [
        {"truncation": _CUT},
        {"truncation": {**_CUT, "stride": 5}},
        {"padding": {**_FILL, "strategy": {"Fixed": 10**12}}},
    ],
    ids=["cut", "cut, which panics", "filled up to a terabyte"],
)
def test_a_prompt_is_neither_cut_nor_filled_up(tmp_path: Path, more: dict[str, object]) -> None:
    (tmp_path / "tokenizer.json").write_text(_asking_for(**more))
    assert read_tokenizer(tmp_path / "tokenizer.json").encode(TEXTS[0]).ids == tiny_tokenizer().encode(TEXTS[0]).ids


def test_a_panic_in_the_library_is_an_error() -> None:
    """It is a BaseException, as Ctrl-C is, which passes."""
    panicking = Tokenizer.from_str(_asking_for(truncation={**_CUT, "stride": 5}))
    with pytest.raises(MvgptError, match=r"cannot encode[\s\S]*stride"), prompt._failures("cannot encode"):
        panicking.encode(TEXTS[0])
    with pytest.raises(KeyboardInterrupt), prompt._failures("cannot encode"):
        raise KeyboardInterrupt


def test_a_tokenizer_that_does_not_fit_the_model() -> None:
    tiny = tiny_tokenizer()
    with pytest.raises(MvgptError, match="embedding table lacks"):
        special_ids(tiny, tiny.get_vocab_size() - 1)
    plain = Tokenizer.from_str(tiny.to_str().replace("<|im_end|>", "<|nothing|>"))
    with pytest.raises(MvgptError, match=r"has no <\|im_end\|>"):
        special_ids(plain, 10_000)
    add_tokens(plain, ["<|im_end|>"], [])
    assert special_ids(plain, 10_000)[1][0] == plain.get_vocab_size() - 1
