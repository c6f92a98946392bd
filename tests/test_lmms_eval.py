"""The plugin for lmms-eval: the tool itself runs tasks on a bundle, the six published ones on made-up documents."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmms_eval.tasks
import numpy as np
import pytest
from lmms_eval.api.instance import Instance
from lmms_eval.caching.response_cache import ResponseCache
from mvgpt_runtime import Session
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.evaluation.cases import folder_cases
from mvgpt_runtime.evaluation.lmms_eval import BundleModel, Generation
from mvgpt_runtime.evaluation.score import evaluate
from mvgpt_runtime.manifest import Bundle
from PIL import Image

ASSETS = Path(__file__).parent.parent / "assets"
TASKS = Path(lmms_eval.tasks.__file__).parent
QUESTIONS = [
    ("flash.mp4", "What flashes up?"),
    ("still.mp4", "What shape is the red object?"),
    ("flash.mp4", "What colour is the circle?"),
    ("still.mp4", "Are there more than two objects?"),
    ("flash.mp4", "Which shape flashes up?"),
]
DRAWN = """
task: drawn
doc_to_visual: !function utils.visual
doc_to_text: question
doc_to_target: answer
process_results: !function utils.score
generation_kwargs: {max_new_tokens: 24, temperature: 0, do_sample: false}
metric_list: [{metric: accuracy, aggregation: mean, higher_is_better: true}]
"""
UTILS = """
from pathlib import Path
from mvgpt_runtime.evaluation.score import normalised

def visual(doc):
    return [str(Path(__file__).parent / doc["video"])]

def score(doc, results):
    return {"accuracy": float(normalised(results[0]) == normalised(doc["answer"]))}
"""
OPTIONS = ["a circle", "a star", "a cross", "a square", "a heart"]
LETTERS = "ABCDE"
# Each published benchmark: its task, the metric, where HF_HOME has its videos, a document of its form about still.mp4.
# ActivityNet-QA is scored by a language model on the internet: here by equal words.
SIX: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "activitynetqa": (
        "activitynetqa/activitynetqa_generation.yaml",
        "accuracy",
        "activitynetqa/all_test/v_still.mp4",
        {"video_name": "still", "question": "what is red", "answer": "a star", "question_id": "1", "type": "3"},
    ),
    "egoschema_subset": (
        "egoschema/egoschema_subset.yaml",
        "score",
        "egoschema/videos/still.mp4",
        {
            "video_idx": "still",
            "question": "What is red?",
            "option": [f"{letter}. {text}" for letter, text in zip(LETTERS, OPTIONS, strict=True)],
            "answer": "1",
        },
    ),
    "mlvu_dev": (
        "mlvu/mlvu_dev.yaml",
        "mlvu_percetion_score",
        "mlvu/still.mp4",
        {"video_name": "still.mp4", "question": "What is red?\n(A) a circle\n(B) a star", "answer": "B"}
        | {"task_type": "plotQA"},
    ),
    "mvbench_action_antonym": (
        "mvbench/mvbench_action_antonym.yaml",
        "mvbench_accuracy",
        "mvbench_video/ssv2_video_mp4/still.mp4",
        {"video": "still.mp4", "question": "What is red?", "candidates": OPTIONS[:3], "answer": "a star"},
    ),
    "nextqa_mc_test": (
        "nextqa/nextqa_mc_test.yaml",
        "exact_match",
        "nextqa/NExTVideo/still.mp4",
        {"video": "still", "question": "what is red", "answer": 1} | {f"a{i}": text for i, text in enumerate(OPTIONS)},
    ),
    "perceptiontest_val_mc": (
        "perceptiontest/val/perceptiontest_mc.yaml",
        "accuracy",
        "perceptiontest_val/videos/still.mp4",
        {"video_name": "still", "question": "What is red?", "question_id": "1", "options": OPTIONS[:3], "answer_id": 1},
    ),
}


def write_task(folder: Path, name: str, text: str, documents: list[dict[str, Any]], split: str = "test") -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("\n".join(map(json.dumps, documents)))
    local = {"dataset_path": "json", "dataset_name": None, "test_split": split}
    local["dataset_kwargs"] = {"data_files": {split: str(data)}}
    (folder / f"{name}.yaml").write_text(text + "\n".join(f"{key}: {json.dumps(v)}" for key, v in local.items()))


def answer(session: Session, question: str, limit: int) -> str:
    return "".join(map(str, session.ask(question, max_new_tokens=limit, temperature=0)))


@pytest.fixture(scope="module")
def session(tiny_bundle: Bundle) -> Session:
    return Session(tiny_bundle)


@pytest.fixture(scope="module")
def folder(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task in lmms-eval's format, whose data `mvgpt eval` reads too. Three of five answers are right by construction:
    what the model says is taken for the truth."""
    folder = tmp_path_factory.mktemp("drawn")
    documents = []
    for index, (video, question) in enumerate(QUESTIONS):
        shutil.copy(ASSETS / video, folder)
        session.load_video(folder / video)
        said = answer(session, question, 24)
        documents.append(
            {"video": video, "question": question, "answer": f"The {said}." if index % 2 == 0 else "wrong"}
        )
    (folder / "utils.py").write_text(UTILS)
    write_task(folder, "drawn", DRAWN, documents)
    shutil.copy(folder / "drawn.jsonl", folder / "questions.jsonl")
    return folder


def lmms(folder: Path, tasks: str, *args: object, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lmms_eval", "--tasks", tasks, "--include_path", folder, "--model", "mvgpt", *args]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home or folder / "home"), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **offline}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=550, env=environment, check=False
    )


def test_the_tool_runs_a_task_and_the_six(tiny_bundle: Bundle, session: Session, folder: Path) -> None:
    for name, (task, _, video, document) in SIX.items():
        target = folder / "home" / video
        target.parent.mkdir(parents=True)
        shutil.copy(ASSETS / "still.mp4", target)
        text = f"include: {TASKS / task}\ntask: local_{name}\n"
        if name == "activitynetqa":
            text += "process_results: !function utils.score\n" + DRAWN.strip().splitlines()[-1] + "\n"
        write_task(folder, f"local_{name}", text, [document])
    tasks = ",".join(["drawn", *(f"local_{name}" for name in SIX)])
    options = (
        "--output_path",
        folder / "out",
        "--log_samples",
        "--model_args",
        f"bundle={tiny_bundle.folder},threads=1",
    )
    result = lmms(folder, tasks, *options)
    files = list((folder / "out").rglob("*_results.json"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(files) == 1
    results = json.loads(files[0].read_text())["results"]

    ours = evaluate(session, folder_cases(folder)).total
    assert (ours.correct, ours.questions) == (3, 5)
    assert results["drawn"]["accuracy,none"] == pytest.approx(ours.accuracy)

    session.load_video(ASSETS / "still.mp4")
    for name, (_, metric, _, document) in SIX.items():
        (samples,) = (folder / "out").rglob(f"*_samples_local_{name}.jsonl")
        (sample,) = map(json.loads, samples.read_text().splitlines())
        prompt = sample["input"]
        assert document["question"].lower() in prompt.lower()
        assert len(prompt) > len(document["question"]) + 5  # options, or how to answer
        limit = 64 if name == "activitynetqa" else 128 if name.startswith(("nextqa", "perception")) else 16
        assert sample["filtered_resps"] == answer(session, prompt, limit).split("\n\n")[0].strip()
        assert f"{metric},none" in results[f"local_{name}"]


@pytest.mark.slow
def test_the_tool_prints_an_error_of_the_plugin(folder: Path, tmp_path: Path) -> None:
    result = lmms(folder, "drawn", "--model_args", f"bundle={tmp_path}")
    assert "no manifest.json" in result.stdout
    assert "accuracy" not in result.stdout


class Watched(BundleModel):  # type: ignore[misc]
    """Documents are what visuals are; `loaded` is what the session was shown, `frames` what of images."""

    def __init__(self, bundle: Bundle, documents: list[Any]) -> None:
        super().__init__(bundle=bundle.folder)
        self.task_dict = {"task": {"test": documents}}
        self.loaded: list[str] = []
        self.frames: list[np.ndarray] = []
        load_video, load_frames = self.session.load_video, self.session.load_frames

        def load(path: str) -> object:
            self.loaded.append(Path(path).name)
            return load_video(path)

        def load_images(frames: Iterator[np.ndarray]) -> object:
            self.frames = list(frames)
            return load_frames(self.frames)

        self.session = SimpleNamespace(load_video=load, load_frames=load_images, ask=self.session.ask)


def instance(index: int, question: str = "What?", **kwargs: object) -> Instance:
    return Instance(
        "generate_until",
        (question, {"max_new_tokens": 8, **kwargs}, lambda visuals: visuals, index, "task", "test"),
        0,
        {"task": "task", "doc_id": index, "repeats": 1},
    )


PATHS = [[str(ASSETS / video)] for video, _ in QUESTIONS]


def test_a_video_is_loaded_once(tiny_bundle: Bundle, session: Session) -> None:
    model = Watched(tiny_bundle, PATHS)
    answers = model.generate_until([instance(i, question) for i, (_, question) in enumerate(QUESTIONS)])
    first = next(answers)
    assert model.loaded == ["flash.mp4"]  # nothing is done before its turn
    texts = [first.text, *(a.text for a in answers)]
    assert model.loaded == ["flash.mp4", "still.mp4"]
    for text, (video, question) in zip(texts, QUESTIONS, strict=True):
        session.load_video(ASSETS / video)
        assert text == answer(session, question, 8)
    assert 0 < first.token_counts.output_tokens <= 8
    assert first.token_counts.input_tokens > session.geometry.visual_tokens


def test_an_interrupted_run_goes_on(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMMS_CACHE_RUN_ID", "first")  # otherwise the tool leaves what a failed run stored
    requests = [instance(i, question) for i, (_, question) in enumerate(QUESTIONS)]
    whole = [a.text for a in Watched(tiny_bundle, PATHS).generate_until(requests)]

    def run(model: Watched) -> list[str]:
        cache = ResponseCache.create(str(tmp_path), model="mvgpt", model_args="bundle=b")
        try:
            return [getattr(a, "text", a) for a in cache.execute(model, "generate_until", requests)]
        finally:
            cache.finalize(success=False)

    broken = Watched(tiny_bundle, PATHS)
    load = broken.session.load_video

    def interrupted(path: str) -> object:
        if path.endswith("still.mp4"):
            raise KeyboardInterrupt
        return load(path)

    broken.session.load_video = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    assert broken.loaded == ["flash.mp4"]
    again = Watched(tiny_bundle, PATHS)
    asked = []
    ask = again.session.ask

    def watched_ask(question: str, **options: object) -> object:
        asked.append(question)
        return ask(question, **options)

    again.session.ask = watched_ask
    assert run(again) == whole
    assert QUESTIONS[0][1] not in asked
    assert len(asked) == 4


def test_images_are_frames(tiny_bundle: Bundle) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    model = Watched(tiny_bundle, [[Image.fromarray(frame) for frame in pixels]])
    (said,) = model.generate_until([instance(0)])
    assert np.array_equal(model.frames, pixels)
    assert said.token_counts.output_tokens > 0


def test_repetitions_are_drawn_anew(tiny_bundle: Bundle) -> None:
    model = Watched(tiny_bundle, PATHS)
    drawn = instance(0, do_sample=True, temperature=1.5)
    first, second = model.generate_until([drawn, drawn])
    assert first.text != second.text
    assert [a.text for a in model.generate_until([drawn, drawn])] == [first.text, second.text]


def test_an_answer_ends_before_a_stop(tiny_bundle: Bundle) -> None:
    model = Watched(tiny_bundle, PATHS)
    (whole,) = model.generate_until([instance(0)])
    stop = whole.text[1:3]
    (cut,) = model.generate_until([instance(0, until=["not there", "", stop])])
    assert cut.text == whole.text.split(stop)[0] != whole.text
    assert cut.token_counts.output_tokens < whole.token_counts.output_tokens


@pytest.mark.parametrize(
    ("kwargs", "options", "until"),
    [
        ({"until": None, "do_sample": False}, {"temperature": 0}, ()),
        ({"do_sample": False, "temperature": 0.7, "until": "\n"}, {"temperature": 0}, ("\n",)),
        ({"temperature": 0.7, "top_k": 5}, {"temperature": 0.7, "top_k": 5}, ()),
        ({"do_sample": True, "top_p": 0.9}, {"temperature": 1, "top_p": 0.9}, ()),
        ({"num_beams": 1, "image_aspect_ratio": "original", "max_new_tokens": 4}, {"temperature": 0}, ()),
    ],
)
def test_generation_kwargs(kwargs: dict[str, Any], options: dict[str, Any], until: tuple[str, ...]) -> None:
    read = Generation.of(kwargs)
    limit = {"max_new_tokens": kwargs["max_new_tokens"]} if "max_new_tokens" in kwargs else {}
    assert (read.options, read.until) == (options | limit, until)


@pytest.mark.parametrize("kwargs", [{"num_beams": 4}, {"max_tokens": 4}])
def test_generation_kwargs_that_cannot_be_honoured(kwargs: dict[str, Any]) -> None:
    with pytest.raises(MvgptError, match=f"got: {next(iter(kwargs))}=4"):
        Generation.of(kwargs)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("", "no bundle"),
        ("bundle=nowhere", "no such bundle folder"),
        ("bundle=b,thread=2", "got: thread=2"),
        ("bundle=b,threads=none", "got: threads=none"),
        ("bundle=b,threads=0,low_memory=1", "got: threads=0, low_memory=1"),
        ("bundle=b,batch_size=4,device=cuda", "got: batch_size=4, device=cuda"),
    ],
)
def test_bad_model_args(args: str, message: str) -> None:
    with pytest.raises(MvgptError, match=message):
        BundleModel.create_from_arg_string(args)


@pytest.mark.parametrize(
    ("visuals", "message"),
    [
        (["nowhere.mp4"], "no such video"),
        (PATHS[0] * 2, "got: str, str"),
        ([], "got: nothing"),
        ([{"array": 0}], "got: dict"),
    ],
)
def test_bad_visuals_come_before_any_work(tiny_bundle: Bundle, visuals: list[Any], message: str) -> None:
    model = Watched(tiny_bundle, [PATHS[0], visuals])
    with pytest.raises(MvgptError, match=message):
        next(model.generate_until([instance(0), instance(1)]))
    assert model.loaded == []


def test_other_kinds_of_tasks_are_refused(tiny_bundle: Bundle) -> None:
    model = Watched(tiny_bundle, PATHS)
    for refused in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(MvgptError, match=r"expected: output_type generate_until\n  got: task"):
            refused([instance(0)])
