"""What a recipe costs the language model's answers: every form's artifact, with trained weights, against float32.

    python benchmarks/slm_quality.py [--forms fp32 …] [--windows 8] [--output build/benchmarks/slm_quality.json]

The forms are those of slm_recipes.py; by default, those that are recipes. The model is SmolLM2-135M-Instruct
(tests/smollm2.py), the text benchmarks/data/prose.txt, the reference transformers' Qwen2 in float32. All logits of a
form come out of its .pte, one decode step per token. Prints a table and writes the same as JSON. Exporting and
running a form take minutes; only that depends on the machine's load.

    ppl        perplexity: each window of 512 tokens by itself, all its tokens but the first
    KL         mean Kullback-Leibler divergence from the reference at the same positions, in nats
    top-1      share of these positions with the reference's likeliest token
    forced     the same share on the reference's own greedy answers, 4 × 64 tokens
    free       tokens of the form's own greedy answers before they leave the reference's, of the same 256
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mvgpt_export.quant import RECIPES
from mvgpt_export.sources import open_source
from mvgpt_runtime.generate import Generator

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))
import slm  # noqa: E402
import smollm2  # noqa: E402
from slm_recipes import FORMS  # noqa: E402

DEFAULT = [name for name in FORMS if name in RECIPES]

WINDOW = 512
ANSWER = 64
# Each answered in more than 64 tokens by the reference.
QUESTIONS = (
    "Why is the sky blue?",
    "Describe a busy street market in the morning.",
    "How do I make a cup of tea?",
    "Write a short story about a dog who gets lost.",
)


@dataclass(frozen=True)
class Passage:
    """Token ids, and the reference's logits after each of them from position `first` on."""

    ids: list[int]
    first: int
    logits: np.ndarray

    @property
    def following(self) -> np.ndarray:
        """The id that stands after each of these positions but the last."""
        return np.array(self.ids[self.first + 1 :])


def reference_passages(checkpoint: Path, windows: int) -> tuple[list[Passage], list[Passage]]:
    """The text in windows, and the prompts with the reference's greedy answers."""
    tokenizer = open_source(str(checkpoint)).tokenizer
    assert tokenizer is not None
    model = slm.reference(checkpoint)

    def passage(ids: list[int], first: int) -> Passage:
        return Passage(ids, first, slm.reference_logits(model, ids, first))

    text = (REPOSITORY / "benchmarks" / "data" / "prose.txt").read_text(encoding="utf-8")
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    starts = range(0, len(ids) - WINDOW + 1, WINDOW)[:windows]
    prose = [passage(ids[start : start + WINDOW], 0) for start in starts]
    answers = []
    for question in QUESTIONS:
        prompt = slm.chat_ids(tokenizer, question)
        answers.append(passage(prompt + slm.reference_greedy(model, prompt, ANSWER), len(prompt) - 1))
    return prose, answers


def measure(generator: Generator, prose: Iterable[Passage], answers: Iterable[Passage]) -> dict[str, float]:
    surprise, divergence, same = [], [], []
    for passage in prose:
        for step, logits in enumerate(slm.forced_logits(generator, passage.ids)):
            log_q, log_p = slm.log_softmax(logits), slm.log_softmax(passage.logits[step])
            divergence.append(float(np.exp(log_p) @ (log_p - log_q)))
            same.append(log_q.argmax() == log_p.argmax())
            if step + 1 < len(passage.ids):
                surprise.append(-log_q[passage.ids[step + 1]])
    forced, free = [], 0
    for passage in answers:
        prompt, answer = passage.ids[: passage.first + 1], passage.following.tolist()
        chosen = [int(row.argmax()) for row in slm.forced_logits(generator, passage.ids[:-1], len(prompt))]
        forced += [a == b for a, b in zip(chosen, answer, strict=True)]
        free += common_prefix(slm.greedy(generator, prompt, len(answer)), answer)
    return {
        "perplexity": float(np.exp(np.mean(surprise))),
        "tokens": len(surprise),
        "kl": float(np.mean(divergence)),
        "top1": float(np.mean(same)),
        "forced_agreement": float(np.mean(forced)),
        "free_prefix": free,
        "answer_tokens": len(forced),
    }


def common_prefix(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def line(form: str, row: dict[str, float]) -> str:
    return (
        f"{form:36}{row['bytes'] / 1e6:8.1f}{row['perplexity']:9.3f}{row['kl']:10.2e}{row['top1']:9.2%}"
        f"{row['forced_agreement']:9.2%}{row['free_prefix']:4.0f}/{row['answer_tokens']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=DEFAULT, metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--windows", type=int, default=8, help="of the text; fewer are for trying things out")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/slm_quality.json"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # torch.export's own

    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        checkpoint = smollm2.write_checkpoint(Path(name) / "checkpoint")
        prose, answers = reference_passages(checkpoint, arguments.windows)
        nats = [-slm.log_softmax(p.logits)[np.arange(WINDOW - 1), p.following].mean() for p in prose]
        reference = {"perplexity": float(np.exp(np.mean(nats)))}
        source = open_source(str(checkpoint))
        for form in arguments.forms:
            kernels, recipe = FORMS[form]
            folder = Path(name) / "form"
            folder.mkdir()
            start = time.perf_counter()
            bundle = slm.export(source, recipe, folder, kernels=kernels)
            exported = time.perf_counter()
            row = measure(slm.generator(bundle), prose, answers)
            row |= {"export_s": exported - start, "run_s": time.perf_counter() - exported}
            path = bundle.path("text_decoder")
            rows[form] = {"bytes": path.stat().st_size, **row}
            path.unlink()  # half a gigabyte each
            folder.rmdir()
            print(line(form, rows[form]), file=sys.stderr)  # the next form may fail, after many minutes

    tokens = next(iter(rows.values()))["tokens"]
    print(f"perplexity of {tokens} tokens under transformers, float32: {reference['perplexity']:.3f}")
    print(f"{'form':36}{'MB':>8}{'ppl':>9}{'KL':>10}{'top-1':>9}{'forced':>9}{'free':>7}")
    for form, row in rows.items():
        print(line(form, row))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": platform.processor() or platform.machine(),
        "model": "SmolLM2-135M-Instruct",
        "reference": reference,
        "forms": [{"form": form, **row} for form, row in rows.items()],
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
