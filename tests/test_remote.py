"""A benchmark on a phone, through fake `adb` and `xcrun` executables. No real phone was at hand."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import mvgpt_runtime.bench.cli  # noqa: F401 (adds the command)
import pytest
from mvgpt_runtime import MvgptError
from mvgpt_runtime.bench import metrics
from mvgpt_runtime.bench.remote import SPARE_BYTES, Limits, follow, is_back, run_on_device
from mvgpt_runtime.bench.results import Result, Thermal, read_result
from mvgpt_runtime.cli import app
from mvgpt_runtime.manifest import file_sha256
from phones import ADB, IOS, QUICK, Phone, plug_in, write_bundle
from typer.testing import CliRunner


@pytest.fixture(params=[ADB, IOS])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("one") / "my bundle", "one")


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported again under the same name: every program differs, and none in size."""
    return write_bundle(tmp_path_factory.mktemp("two") / "my bundle", "two")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "Anna's clip.mp4"
    path.write_bytes(b"frames")
    return path


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    """With nothing on it but the app."""
    return plug_in(tmp_path / "phone", monkeypatch)


@pytest.fixture(scope="module")
def after_a_benchmark(tmp_path_factory: pytest.TempPathFactory, bundle: Path, clip: Path) -> Path:
    """A phone that measured `bundle` through both tools: the folder of it."""
    with pytest.MonkeyPatch.context() as patch:
        phone = plug_in(tmp_path_factory.mktemp("phones") / "phone", patch)
        for kind in (ADB, IOS):
            measure(kind, bundle, clip)
    (phone.folder / "calls").unlink()
    return phone.folder


@pytest.fixture
def used(phone: Phone, after_a_benchmark: Path) -> Phone:
    """A phone that has the bundle and the clip."""
    shutil.rmtree(phone.folder)
    shutil.copytree(after_a_benchmark, phone.folder)
    return phone


def measure(kind: str, bundle: Path, clip: Path, limits: Limits = QUICK, **options: Any) -> Result:
    return run_on_device(kind, bundle, video=clip, limits=limits, **{"repeats": 1, **options})


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(MvgptError) as caught:
        measure(*arguments, **options)
    return str(caught.value)


def test_a_benchmark(phone: Phone, kind: str, bundle: Path, clip: Path) -> None:
    """Everything is pushed, the manifest last; repeats are launches; what the app was asked is what it measured."""
    prompt = 'What\'s in "it"? $HOME `ls` naïve 猫'
    options = {"repeats": 3, "warmup": 2, "threads": 4, "low_memory": True, "prompt": prompt}
    said: list[tuple[str, int, int]] = []
    result = measure(kind, bundle, clip, **options, progress=lambda *what: said.append(what))
    assert phone.pushed()[-2:] == ["manifest.json", clip.name]
    for path in (*bundle.iterdir(), clip):
        assert phone.files()[path.name] == path.read_bytes()
    assert [run.warmup for run in result.runs] == [True, True, False] * 3
    assert [run.index for run in result.runs] == list(range(9))
    assert (result.protocol.repeats, result.protocol.warmup, result.protocol.n_threads) == (3, 6, 4)
    assert (result.protocol.prompt, result.protocol.low_memory) == (prompt, True)
    assert result.protocol.follow_up == metrics.FOLLOW_UP
    assert result.aggregates["decode_tokens_per_s@64"].median == pytest.approx(40)
    assert result.aggregates["decode_tokens_per_s@64"].n == 3
    Result.model_validate(result.model_dump(mode="json"))
    assert ("run 3 of 3: prefill@64", 2, 4) in said
    sizes = [done for what, done, _ in said if what.startswith("push: ") and not what.endswith(clip.name)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == sum(p.stat().st_size for p in bundle.iterdir())


def test_a_bundle_with_folders(phone: Phone, kind: str, bundle: Path, clip: Path, tmp_path: Path) -> None:
    """A CoreML package is one; what is there is not pushed again, and the manifest comes after all files."""
    nested = Path(shutil.copytree(bundle, tmp_path / "nested"))
    package = nested / "frame_scorer.mlpackage"
    (package / "Data" / "weights").mkdir(parents=True)
    (nested / "frame_scorer.pte").rename(package / "Data" / "weights" / "weight.bin")
    (package / "Manifest.json").write_bytes(b"{}")
    manifest = json.loads((nested / "manifest.json").read_text())
    manifest["stages"]["frame_scorer"]["file"] = package.name
    del manifest["files"]["frame_scorer.pte"]
    for path in (package / "Manifest.json", package / "Data" / "weights" / "weight.bin"):
        info = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        manifest["files"][path.relative_to(nested).as_posix()] = info
    (nested / "manifest.json").write_text(json.dumps(manifest))
    measure(kind, nested, clip)
    root = phone.root / {ADB: "data/local/tmp/mvgpt", IOS: "container/Documents/bench"}[kind] / "bundles/nested"
    for path in (p for p in nested.rglob("*") if p.is_file()):
        assert (root / path.relative_to(nested)).read_bytes() == path.read_bytes()
    assert phone.pushed()[-2:] == ["manifest.json", clip.name]
    count = len(phone.pushed())
    measure(kind, nested, clip)
    assert len(phone.pushed()) == count


def test_what_is_there_is_not_pushed_again(used: Phone, kind: str, bundle: Path, clip: Path) -> None:
    measure(kind, bundle, clip)
    assert used.pushed() == []


def test_what_changed_is_pushed_again(used: Phone, kind: str, bundle: Path, newer: Path, clip: Path) -> None:
    """Files of the same size too: only hashes tell."""
    sizes = {path.name: path.stat().st_size for path in newer.iterdir()}
    assert sizes == {path.name: path.stat().st_size for path in bundle.iterdir()}
    measure(kind, newer, clip)
    assert set(used.pushed()) == {path.name for path in newer.iterdir()} - {"tokenizer.json"}
    root = used.root / {ADB: "data/local/tmp/mvgpt", IOS: "container/Documents/bench"}[kind]
    assert (root / "bundles/my bundle/slm.pte").read_bytes() == (newer / "slm.pte").read_bytes()


def test_a_push_goes_on_after_a_disconnection(phone: Phone, kind: str, bundle: Path, clip: Path) -> None:
    phone.change(disconnect_after=200_000)  # in the third file
    message = refused(kind, bundle, clip)
    assert "was disconnected" in message
    assert "run the command again" in message
    first = phone.pushed()
    phone.change(state="device")
    measure(kind, bundle, clip)
    assert phone.pushed()[len(first)] == first[-1]  # the one that was interrupted
    assert len(phone.pushed()) == len([*bundle.iterdir()]) + 2  # the clip, and that one twice
    assert not any(name.endswith(".part") for name in phone.files())


def test_a_disconnection_in_a_file_that_keeps_its_size(
    used: Phone, kind: str, bundle: Path, newer: Path, clip: Path
) -> None:
    """A part of the new file over the old one, then the old bundle again: what is damaged is not taken for whole."""
    used.change(disconnect_after=1000)
    refused(kind, newer, clip)
    used.change(state="device")
    measure(kind, bundle, clip)
    assert all(used.files()[path.name] == path.read_bytes() for path in bundle.iterdir())


def test_storage_that_fills_up(phone: Phone, kind: str, bundle: Path, clip: Path) -> None:
    phone.change(full_after=200_000)
    assert "storage is full" in refused(kind, bundle, clip)


def test_a_file_cut_short(phone: Phone, kind: str, bundle: Path, clip: Path) -> None:
    """The tool says it went well; only looking at what arrived tells."""
    phone.change(cut_short="slm.pte")
    assert "slm.pte arrived damaged" in refused(kind, bundle, clip)
    measure(kind, bundle, clip)


def test_no_room_is_found_out_before_pushing(phone: Phone, bundle: Path, clip: Path) -> None:
    phone.change(free=SPARE_BYTES + 1024)
    message = refused(ADB, bundle, clip)
    assert "not enough room" in message
    assert "got: 67 MB" in message
    assert phone.pushed() == []


def test_no_storage(phone: Phone, bundle: Path, clip: Path) -> None:
    phone.change(free=None)
    message = refused(ADB, bundle, clip)
    assert "No such file or directory" in message


@pytest.mark.parametrize(
    ("behaves", "words"),
    [
        ("crashes", ["ended during 'prefill@64'", "signal 6"]),
        ("refuses", ["slm.pte has another sha256", "remedy: push it again"]),
        ("other bundle", ["result is of another bundle"]),
        ("forgets", ["result.json is no benchmark result", "os"]),
        ("writes late", ["changed on its way"]),
        ("newer", ["another version of the protocol", "got: 2"]),
        ("babbles", ["was not agreed"]),
        ("absent", ["org.mvgpt.demo is not installed"]),
    ],
)
def test_an_app_that_misbehaves(
    used: Phone, kind: str, bundle: Path, clip: Path, behaves: str, words: list[str]
) -> None:
    used.change(app=behaves)
    message = refused(kind, bundle, clip)
    for word in words:
        assert word in message, message
    assert not (used.folder / "pid").exists()


def test_a_disconnection_while_it_measures(used: Phone, kind: str, bundle: Path, clip: Path) -> None:
    """adb's log ends then; devicectl's console may just be silent."""
    used.change(app="unplugged")
    limits = Limits(start=10, stall=1, poll=0.05)
    assert "was disconnected" in refused(kind, bundle, clip, limits=limits)


@pytest.mark.parametrize(
    ("behaves", "limits", "words"),
    [
        ("silent", Limits(start=0.3, stall=9, poll=0.05), "during 'start'"),
        ("hangs", Limits(start=9, stall=0.4, poll=0.05), "during 'prefill@64'"),
    ],
)
def test_an_app_that_says_nothing(
    used: Phone, kind: str, bundle: Path, clip: Path, behaves: str, limits: Limits, words: str
) -> None:
    used.change(app=behaves)
    assert words in refused(kind, bundle, clip, limits=limits)
    assert not (used.folder / "pid").exists()  # stopped


def test_ctrl_c_stops_the_app(
    used: Phone, kind: str, bundle: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the app measures; nothing of the run is left here or goes on there."""
    used.change(app="hangs")

    def interrupt(what: str, done: int, total: int) -> None:
        if what.endswith("prefill@64"):
            raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        measure(kind, bundle, clip, progress=interrupt)
    assert threading.active_count() == threads
    if kind == ADB:
        assert "force-stop" in used.calls[-1]
        assert not (used.folder / "pid").exists()


def test_the_command(used: Phone, bundle: Path, clip: Path, tmp_path: Path) -> None:
    """A table, and a file that is whole or not there."""
    output = tmp_path / "result.json"
    arguments = ["bench", str(bundle), "--device", ADB, "--video", str(clip), "--repeats", "1", "--json", str(output)]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    assert "decode_tokens_per_s@64" in ran.output
    assert read_result(output).device.name == "Pixel 8"
    output.unlink()
    used.change(app="crashes")
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 2
    assert not output.exists()
    assert CliRunner().invoke(app, ["bench", str(bundle), "--app", "a.b"]).exit_code == 2


def test_cooling_down(used: Phone, bundle: Path, clip: Path) -> None:
    """Before the first run until nothing is throttled, then each time until it is as cool as it was then."""
    start, hot, warm = [0, 30.0], [2, 44.0], [0, 32.5]
    used.change(thermal=[hot, start, start, hot, warm, warm, [0, 31.9], start])
    said: list[str] = []
    limits = Limits(start=10, stall=10, cool_down=10, poll=0.1)
    progress = lambda what, *_: said.append(what)  # noqa: E731
    result = measure(ADB, bundle, clip, limits, repeats=3, warmup=0, progress=progress)
    cooling = [what for what in said if what.startswith("cool")]
    assert cooling == ["cool down: 44 °C"] * 2 + ["cool down: 32 °C"] * 2
    assert 0.15 < result.protocol.cool_down_s < 2  # the mean of about 0.5 and 0


def test_a_phone_that_stays_hot(used: Phone, bundle: Path, clip: Path) -> None:
    used.change(thermal=[[0, 30.0], [0, 30.0], [1, 50.0]])
    result = measure(ADB, bundle, clip, repeats=2, warmup=0)
    assert QUICK.cool_down <= result.protocol.cool_down_s < QUICK.cool_down + 1


@pytest.mark.parametrize(("ended", "waits"), [("fair", True), ("nominal", False)])
def test_an_iphone_is_as_hot_as_its_app_last_said(
    used: Phone, bundle: Path, clip: Path, ended: str, waits: bool
) -> None:
    template = used.folder / "template.json"
    result = json.loads(template.read_text())
    result["environment"]["thermal_before"] = {"status": "nominal", "temperature_c": None}
    result["runs"][0]["thermal"] = {"status": ended, "temperature_c": None}
    template.write_text(json.dumps(result))
    measured = measure(IOS, bundle, clip, repeats=2, warmup=0)
    assert (measured.protocol.cool_down_s >= QUICK.cool_down) is waits


@pytest.mark.parametrize(
    ("now", "start", "back"),
    [
        (Thermal(status="nominal", temperature_c=None), Thermal(status="none", temperature_c=None), True),
        (Thermal(status="fair", temperature_c=None), Thermal(status="nominal", temperature_c=None), False),
        (Thermal(status="fair", temperature_c=None), Thermal(status="fair", temperature_c=None), True),
        (Thermal(status="light", temperature_c=30), Thermal(status="none", temperature_c=40), False),
        (Thermal(status=None, temperature_c=32), Thermal(status="none", temperature_c=30), True),
        (Thermal(status=None, temperature_c=32.1), Thermal(status="none", temperature_c=30), False),
        (None, Thermal(status="none", temperature_c=30), True),
    ],
)
def test_as_cool_as_at_the_start(now: Thermal | None, start: Thermal, back: bool) -> None:
    assert is_back(now, start) is back


def test_last_words_that_arrive_late() -> None:
    """A log may be slower than the app, which has ended by then."""

    class Device:
        def running(self) -> bool:
            return False

    class Late:
        heard = iter([None, None, 'mvgpt-bench {"run": "r", "event": "done", "sha256": "' + "0" * 64 + '"}'])

        def read(self, timeout_s: float) -> str | None:
            return next(self.heard)

    done = follow(Device(), Late(), "r", QUICK, lambda *what: None)  # type: ignore[arg-type]
    assert done.sha256 == "0" * 64
