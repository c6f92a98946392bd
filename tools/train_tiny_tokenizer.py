"""Train the embedded default's tokenizer: byte-level BPE with Qwen2's splitting, on sentences made here.

usage: python tools/train_tiny_tokenizer.py export/mvgpt_export/data/tiny/tokenizer.json
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.tokenizer import byte_level_bpe
from mvgpt_runtime.contract import PROMPT_PREFIX, PROMPT_SUFFIX
from mvgpt_runtime.synthetic import ask_about, scene
from tokenizers import pre_tokenizers, trainers

CLIPS = 2000
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
COLOURS = "red green blue yellow orange purple pink white black grey brown cyan".split()
SHAPES = "circle square triangle star ring cross diamond bar ball box".split()
ACTIONS = (
    "moves to the left|moves to the right|moves up|moves down|bounces off the wall|appears|disappears|vanishes|"
    "grows|shrinks|stands still|turns around|speeds up|slows down|swaps places with the other one|"
    "stops|crosses the middle|leaves the picture"
).split("|")
WHEN = (
    "first|then|after that|at the end|in the beginning|halfway through|before the other one|for a moment|again|never"
).split("|")
QUESTIONS = (
    "What happens in this video?|What does the {c} {s} do?|How many {s}s are there?|Which colour is the {s}?|"
    "Does the {c} {s} move to the left or to the right?|What happens {w}?|Is there a {c} {s} in the clip?|"
    "Which one is faster, the {c} {s} or the other one?|Describe the video in one sentence.|"
    "What is the first thing you see?|When does the {c} {s} appear?|"
    "Which event comes before the others? Answer with A, B, C or D."
).split("|")
ANSWERS = (
    "The {c} {s} {a}.|A {c} {s} {a} {w}.|It {a}.|Yes, there is one.|No, there is none.|There are {n} of them.|"
    "The answer is {o}.|{w}, the {c} {s} {a}, and the background does not change.|The {s} is {c}.|"
    "The {c} one is faster than the other one."
).split("|")
NUMBERS = "zero one two three four five six seven eight nine ten 0 1 2 3 4 5 6 7 8 9 10 12 15 16 20 24 30".split()


def sentences() -> Iterator[str]:
    options = itertools.cycle("ABCD")
    numbers, when, questions, answers = (itertools.cycle(x) for x in (NUMBERS, WHEN, QUESTIONS, ANSWERS))
    for c, s, a in itertools.product(COLOURS, SHAPES, ACTIONS):
        fill = {"c": c, "s": s, "a": a, "w": next(when), "n": next(numbers), "o": next(options)}
        yield PROMPT_PREFIX + PROMPT_SUFFIX.format(question=next(questions).format(**fill))
        yield next(answers).format(**fill)
    for index in range(CLIPS):  # last and often: each of their words gets a token
        for question in ask_about(scene(0, index), 0, index):
            yield PROMPT_PREFIX + PROMPT_SUFFIX.format(question=question.text)
            yield question.answer


def main(output: Path) -> None:
    tokenizer = byte_level_bpe({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=NAMED_CONFIGS["tiny"].text.vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.save(str(output))
    print(f"{output}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
