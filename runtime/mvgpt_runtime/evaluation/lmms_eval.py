"""A bundle as a model of lmms-eval, the tool that the published accuracies are measured with: `--model mvgpt`.

lmms-eval finds `manifest` by its entry point, and only this file imports it. Tasks, prompts and scoring are its own;
docs/evaluation.md says how to run the six published benchmarks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm

from ..errors import MvgptError
from ..session import Session

STAGE = "lmms-eval"
ASK_OPTIONS = ("max_new_tokens", "top_p", "top_k", "repetition_penalty")
IGNORED = ("image_aspect_ratio",)  # tasks set LLaVA's image preprocessing for all models; it says nothing about a video


def manifest() -> ModelManifest:
    """What the entry point gives lmms-eval."""
    return ModelManifest("mvgpt", simple_class_path=f"{__name__}.{BundleModel.__name__}")


@dataclass(frozen=True)
class Generation:
    """A task's generation_kwargs, read.

    `options`: arguments of `Session.ask`; the manifest has defaults for what a task leaves out. `until`: an answer ends
    before the first of these texts.
    """

    options: dict[str, Any]
    until: tuple[str, ...]

    @classmethod
    def of(cls, kwargs: dict[str, Any]) -> Generation:
        """do_sample decides whether tokens are drawn, as in transformers; without it, a temperature above 0 does.

        Raises:
            MvgptError: an option that a bundle cannot honour.
        """
        rest = {name: value for name, value in kwargs.items() if value is not None and name not in IGNORED}
        until, temperature = rest.pop("until", ()), rest.pop("temperature", None)
        draws = rest.pop("do_sample", bool(temperature))
        options = {name: rest.pop(name) for name in ASK_OPTIONS if name in rest}
        options["temperature"] = (1 if temperature is None else temperature) if draws else 0
        if rest.get("num_beams") == 1:
            del rest["num_beams"]
        if rest:
            raise MvgptError(
                "generation_kwargs that a bundle cannot honour",
                stage=STAGE,
                expected=f"until, do_sample, temperature, {', '.join(ASK_OPTIONS)}, num_beams=1",
                got=_listed(rest),
                remedy="change the task's generation_kwargs, or set one with --gen_kwargs",
            )
        return cls(options, tuple(text for text in ([until] if isinstance(until, str) else until) if text))

    def ended(self, text: str) -> str | None:
        """The text before the first stop; None while there is none."""
        ends = [text.index(stop) for stop in self.until if stop in text]
        return text[: min(ends)] if ends else None


@dataclass(frozen=True)
class Request:
    """One of lmms-eval's requests, read.

    `document`: task, split and index. `shown`: requests with the same value are about the same video.
    `repetition`: how often the same request came before; the seed of what is drawn.
    """

    question: str
    generation: Generation
    document: tuple[str, str, int]
    doc_to_visual: Any
    shown: Hashable
    repetition: int


class BundleModel(lmms):  # type: ignore[misc]
    """`--model mvgpt --model_args bundle=FOLDER[,threads=N][,low_memory=true]`: a session, one question at a time.

    Raises:
        MvgptError: other arguments, or a bundle that cannot be opened.
    """

    is_simple = True  # lmms-eval hands over a prompt's text and its visuals, no chat messages
    device = "cpu"  # where lmms-eval counts requests, if it runs in several processes

    def __init__(
        self,
        bundle: object = None,
        threads: object = None,
        low_memory: object = False,
        batch_size: object = 1,
        device: object = None,
        max_batch_size: object = None,  # without meaning at batch size 1
        **unknown: object,
    ) -> None:
        super().__init__()
        wrong = dict(unknown)
        if threads is not None and (type(threads) is not int or threads < 1):
            wrong["threads"] = threads
        if not isinstance(low_memory, bool):
            wrong["low_memory"] = low_memory
        if str(batch_size) not in ("1", "None"):
            wrong["batch_size"] = batch_size
        if device not in (None, "cpu"):
            wrong["device"] = device
        if wrong or bundle is None:
            raise MvgptError(
                "bad model_args" if wrong else "no bundle",
                stage=STAGE,
                expected="bundle=FOLDER, and perhaps threads=N, low_memory=true; batch size 1, device cpu",
                got=_listed(wrong) if wrong else None,
                remedy="--model mvgpt --model_args bundle=FOLDER",
            )
        # lmms-eval makes a number of what looks like one
        self.session = Session(str(bundle), threads=threads, low_memory=low_memory)  # type: ignore[arg-type]

    def generate_until(self, requests: Sequence[Instance]) -> Iterator[GenerationResult]:
        """Answers in the order of the requests; a video's questions are asked together, at the first one's turn.

        A generator, so that lmms-eval's response cache stores answers as they come, and an interrupted run goes on.

        Raises:
            MvgptError: options or visuals that a bundle has no use for, a file that is not there (all before the first
                question is asked), a video that cannot be decoded, a prompt that does not fit the KV cache.
        """
        read = list(self._read(requests))
        together: dict[Hashable, list[int]] = defaultdict(list)
        for index, request in enumerate(read):
            together[request.shown].append(index)
        answers: dict[int, GenerationResult] = {}
        with tqdm(total=len(read), desc="mvgpt", unit="question", disable=self.rank != 0) as bar:
            for index, request in enumerate(read):
                if index not in answers:
                    self._load(request)
                    for other in together[request.shown]:
                        answers[other] = self._ask(read[other])
                        bar.update()
                yield answers.pop(index)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refused: a session has no likelihood of a given answer.

        Raises:
            MvgptError: always.
        """
        raise MvgptError(
            "this task compares likelihoods of answers",
            stage=STAGE,
            expected="output_type generate_until",
            got=", ".join(sorted({request.task_name for request in requests})),
            remedy="take the task that generates: egoschema for egoschema_mcppl, perceptiontest_val_mc for …_mcppl",
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refused: none of the six benchmarks has rounds.

        Raises:
            MvgptError: always.
        """
        raise MvgptError(
            "this task asks in several rounds",
            stage=STAGE,
            expected="output_type generate_until",
            got=", ".join(sorted({request.task_name for request in requests})),
        )

    def _read(self, requests: Sequence[Instance]) -> Iterator[Request]:
        seen: Counter[Hashable] = Counter()
        for instance in requests:
            question, kwargs, doc_to_visual, index, task, split = instance.args
            document = (task, split, index)
            match self._visuals(document, doc_to_visual):
                case [str(path)]:
                    if not Path(path).is_file():
                        raise MvgptError("no such video", stage=STAGE, expected=f"a file for {task}", got=path)
                    shown: Hashable = path
                case [_, *_] as images if all(hasattr(image, "convert") for image in images):
                    shown = document  # not kept: those of all documents may be larger than the memory
                case other:
                    raise MvgptError(
                        f"task {task} shows what a bundle cannot see",
                        stage=STAGE,
                        expected="a video's path, or PIL images",
                        got=", ".join(type(visual).__name__ for visual in other) or "nothing",
                    )
            request = (*document, instance.idx)
            yield Request(question, Generation.of(kwargs), document, doc_to_visual, shown, seen[request])
            seen[request] += 1

    def _visuals(self, document: tuple[str, str, int], doc_to_visual: Any) -> list[Any]:
        task, split, index = document
        return list(doc_to_visual(self.task_dict[task][split][index]) or ())

    def _load(self, request: Request) -> None:
        if isinstance(request.shown, str):
            self.session.load_video(request.shown)
        else:
            images = self._visuals(request.document, request.doc_to_visual)
            self.session.load_frames(np.asarray(image.convert("RGB")) for image in images)

    def _ask(self, request: Request) -> GenerationResult:
        answer = self.session.ask(request.question, seed=request.repetition, **request.generation.options)
        for _ in answer:
            if request.generation.ended(answer.text) is not None:
                break
        ended = request.generation.ended(answer.text)
        counts = TokenCounts(int(answer.stats["num_prompt_tokens"]), len(answer.token_ids))
        return GenerationResult(answer.text if ended is None else ended, counts)


def _listed(values: dict[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
