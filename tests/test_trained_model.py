"""Correct answers first: a language model with trained weights says, as exported, what transformers says with them.

Random weights cannot show this: their answers are noise before and after any damage.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slm
import smollm2
from conftest import REPOSITORY
from mvgpt_export.quant import RECIPES
from mvgpt_export.sources import Source, open_source
from mvgpt_runtime.generate import Generator
from tokenizers import Tokenizer
from tolerances import ANSWER_AGREEMENT, ANSWER_NATS, FP32_BUNDLE

START, END = 1, 2  # <|im_start|>, <|im_end|>
SHORT, LONG = "What is the capital of France?", "Why is the sky blue?"
QUANTIZED = [name for name, recipe in RECIPES.items() if recipe.bits("text_decoder") < 32]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2.write_checkpoint(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def source(checkpoint: Path) -> Source:
    return open_source(str(checkpoint))


def tokenizer_of(source: Source) -> Tokenizer:
    assert source.tokenizer is not None
    return source.tokenizer


def assert_same_greedy_answer(generator: Generator, checkpoint: Path, prompt: list[int], count: int) -> list[int]:
    """The exported model's answer, which must be transformers' token for token, and at least `count` of them."""
    answer = slm.greedy(generator, prompt, max(count, 64), {END})
    assert len(answer) >= count
    expected = slm.reference_logits(slm.reference(checkpoint), prompt + answer, len(prompt) - 1).argmax(-1).tolist()
    assert answer == expected[: len(answer)]
    assert len(answer) >= 64 or expected[-1] == END, "the answer stops where transformers goes on"
    return answer


def test_the_checkpoint_is_the_trained_model(checkpoint: Path) -> None:
    """One swapped row in q or k, or a wrong constant, and it would not know."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    prompt = slm.chat_ids(tokenizer, SHORT)
    assert [i for i in prompt if i < 3] == [START, END] * 2 + [START]
    answer = tokenizer.encode("The capital of France is Paris.").ids
    choices = slm.reference_logits(slm.reference(checkpoint), prompt + answer, len(prompt) - 1).argmax(-1)
    assert choices.tolist() == [*answer, END]


def test_the_first_layers_equal_transformers(tmp_path: Path) -> None:
    """What the default suite can afford: four layers, on prose in decode steps and in free greedy decoding."""
    folder = smollm2.write_checkpoint(tmp_path / "checkpoint", layers=4)
    source = open_source(str(folder))
    generator = slm.generator(slm.export(source, RECIPES["fp32"], tmp_path))

    text = (REPOSITORY / "benchmarks" / "data" / "prose.txt").read_text(encoding="utf-8")
    ids = tokenizer_of(source).encode(text[:600]).ids[:100]
    expected = slm.reference_logits(slm.reference(folder), ids, first=9)
    got = np.stack(list(slm.forced_logits(generator, ids, prefilled=10)))
    assert np.abs(got - expected).max() <= FP32_BUNDLE * np.abs(expected).max()
    assert got.argmax(-1).tolist() == expected.argmax(-1).tolist()
    assert_same_greedy_answer(generator, folder, slm.chat_ids(tokenizer_of(source), LONG), 64)


@pytest.mark.slow  # lowering 30 layers takes minutes
@pytest.mark.timeout(1200)
def test_the_whole_model_answers_as_transformers(source: Source, checkpoint: Path, tmp_path: Path) -> None:
    generator = slm.generator(slm.export(source, RECIPES["fp32"], tmp_path))
    tokenizer = tokenizer_of(source)
    assert "Paris" in tokenizer.decode(
        assert_same_greedy_answer(generator, checkpoint, slm.chat_ids(tokenizer, SHORT), 1)
    )
    assert_same_greedy_answer(generator, checkpoint, slm.chat_ids(tokenizer, LONG), 64)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", QUANTIZED)
def test_a_quantized_model_answers_in_fluent_english(
    recipe: str, source: Source, checkpoint: Path, tmp_path: Path
) -> None:
    """It knows Paris, and transformers in float32 would have chosen most of its words and is surprised by none."""
    generator = slm.generator(slm.export(source, RECIPES[recipe], tmp_path))
    tokenizer = tokenizer_of(source)
    assert "Paris" in tokenizer.decode(slm.greedy(generator, slm.chat_ids(tokenizer, SHORT), 16, {END}))

    prompt = slm.chat_ids(tokenizer, LONG)
    answer = slm.greedy(generator, prompt, 64, {END})
    logits = slm.reference_logits(slm.reference(checkpoint), prompt + answer, len(prompt) - 1)[: len(answer)]
    said = tokenizer.decode(answer)
    assert len(answer) >= 32, said
    assert np.mean(logits.argmax(-1) == answer) >= ANSWER_AGREEMENT[recipe], said
    surprise = slm.log_softmax(logits)[np.arange(len(answer)), answer]
    assert -surprise.mean() <= ANSWER_NATS, said
