"""The sampler: against Hugging Face's processors, against itself said plainly, and draw for draw."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mvgpt_runtime import MvgptError
from mvgpt_runtime.sampler import Sampler, SamplingOptions, SplitMix64
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 32
# Sixteenths: no two scores come so close that float32 (Hugging Face) and double (ours) could order them differently.
logit_lists = st.lists(st.integers(-320, 320), min_size=VOCAB, max_size=VOCAB, unique=True)
every_option = {
    "temperature": st.sampled_from([0.3, 0.7, 1.0, 1.5]),
    "top_p": st.sampled_from([0.05, 0.5, 0.9, 0.99, 1.0]),
    "top_k": st.sampled_from([0, 1, 3, 10, VOCAB, 1000]),
    "repetition_penalty": st.sampled_from([0.8, 1.0, 1.1, 1.7]),
    "seed": st.integers(0, 2**64 - 1),
}


def hugging_face(logits: np.ndarray, seen: list[int], options: SamplingOptions) -> np.ndarray:
    """Probabilities float32 [vocab] after transformers' processors, in the order in which `generate` runs them."""
    processors = LogitsProcessorList()
    if options.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    processors.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        processors.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        processors.append(TopPLogitsWarper(options.top_p))
    scores = processors(torch.tensor([seen], dtype=torch.long), torch.from_numpy(logits)[None].clone())
    return torch.softmax(scores, -1)[0].numpy()


@settings(max_examples=300, deadline=None)
@given(numbers=logit_lists, seen=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), **every_option)
def test_equals_hugging_face(numbers: list[int], seen: list[int], **values: float) -> None:
    """The token that inverting Hugging Face's distribution gives for the same uniform number."""
    options = SamplingOptions(**values)  # type: ignore[arg-type]
    logits = np.array(numbers, np.float32) / 16
    whole = hugging_face(logits, seen, replace(options, top_p=1.0)).astype(np.float64)
    # float32 against double: where probabilities add up to top_p exactly, the nucleus may end before or after
    assume(options.top_p == 1 or np.abs(np.cumsum(-np.sort(-whole)) - options.top_p).min() > 1e-5)
    probabilities = hugging_face(logits, seen, options).astype(np.float64)
    order = np.argsort(-probabilities, kind="stable")
    edges = np.cumsum(probabilities[order])
    target = SplitMix64(options.seed).uniform()
    got = Sampler(options, seen)(logits)
    place = int(np.flatnonzero(order == got)[0])
    # float32 against double: at an edge of the distribution, or of the nucleus, either neighbour is right
    assert (edges[place - 1] if place else 0) - 1e-4 <= target <= edges[place] + 1e-4 or place == len(order) - 1
    assert probabilities[got] > 0 or options.top_p < 1


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_greedy_with_a_penalty_equals_hugging_face(penalty: float) -> None:
    """Token after token: what was chosen joins what is penalised."""
    logits = np.random.default_rng(5).normal(0, 3, 50).astype(np.float32)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    seen = [3, 3, 8]
    sampler = Sampler(SamplingOptions(repetition_penalty=penalty), seen)
    for _ in range(20):
        expected = int(processor(torch.tensor([seen]), torch.from_numpy(logits)[None].clone()).argmax())
        assert sampler(logits) == expected
        seen.append(expected)


def plain(logits: list[float], seen: set[int], o: SamplingOptions) -> int:
    """sampler.py's first lines again, a loop per step: how another language would write it."""
    scores = list(logits)
    if o.repetition_penalty != 1:
        for i in seen:
            scores[i] = scores[i] * o.repetition_penalty if scores[i] < 0 else scores[i] / o.repetition_penalty
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    if o.temperature == 0:
        return order[0]
    if o.top_k:
        order = order[: o.top_k]
    cumulative: list[float] = []
    for i in order:
        weight = float(np.exp((scores[i] - scores[order[0]]) / o.temperature))  # this platform's exp, as in the sampler
        cumulative.append((cumulative[-1] if cumulative else 0.0) + weight)
    kept = next(n for n, c in enumerate(cumulative) if c >= o.top_p * cumulative[-1]) + 1
    target = SplitMix64(o.seed).uniform() * cumulative[kept - 1]
    return next((order[n] for n in range(kept) if cumulative[n] > target), order[kept - 1])


@settings(max_examples=300, deadline=None)
@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    seen=st.sets(st.integers(0, 39)),
    temperature=st.one_of(st.just(0.0), st.floats(1e-300, 5)),
    top_p=st.floats(1e-9, 1),
    top_k=st.integers(0, 45),
    repetition_penalty=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**64 - 1),
)
def test_equals_the_plain_one_exactly(logits: list[float], seen: set[int], **values: float) -> None:
    """Ties, tiny temperatures and all."""
    options = SamplingOptions(**values)  # type: ignore[arg-type]
    seen = {i for i in seen if i < len(logits)}
    assert Sampler(options, seen)(np.array(logits, np.float32)) == plain(logits, seen, options)


def test_known_draws() -> None:
    """For whoever writes the sampler in another language."""
    logits = np.array([(i * 37 % 101) / 16 for i in range(101)], np.float32)
    options = SamplingOptions(temperature=0.8, top_p=0.95, top_k=40, repetition_penalty=1.2, seed=2024)
    sampler = Sampler(options, seen=[30, 60])
    assert [sampler(logits) for _ in range(12)] == [16, 19, 38, 49, 84, 76, 79, 60, 8, 46, 30, 73]


def test_splitmix64_known_answers() -> None:
    """The first outputs for seed 1234567, as the generator's authors publish them."""
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_frequencies() -> None:
    sampler = Sampler(SamplingOptions(temperature=1.0))
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    counts = np.bincount([sampler(logits) for _ in range(20_000)], minlength=4) / 20_000
    assert np.abs(counts - [0.5, 0.3, 0.15, 0.05]).max() < 0.012  # 3.4 standard deviations


def test_greedy_takes_the_lowest_of_equal_ids_and_refuses_nan() -> None:
    sampler = Sampler(SamplingOptions())
    assert sampler(np.array([0, 2, 2, 1], np.float32)) == 1
    with pytest.raises(MvgptError, match="not finite"):
        sampler(np.array([0, np.nan], np.float32))


def test_top_k_of_equal_scores_keeps_k() -> None:
    """Hugging Face would keep all three that equal the second; the order by id is ours."""
    options = SamplingOptions(temperature=1.0, top_k=2)
    drawn = {Sampler(SamplingOptions(temperature=1.0, top_k=2, seed=s))(np.ones(4, np.float32)) for s in range(64)}
    assert drawn == {0, 1}
    assert len(Sampler(options).candidates(np.ones(4))[0]) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", -1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("repetition_penalty", 1e4),
    ],
)
def test_bad_options(name: str, value: float) -> None:
    with pytest.raises(MvgptError, match=f"bad {name}"):
        SamplingOptions(**{name: value})  # type: ignore[arg-type]
