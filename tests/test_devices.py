"""Finding a phone and reading what the tools say, each failure with its remedy; and the lines of the apps."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mvgpt_runtime import MvgptError
from mvgpt_runtime.bench.devices import connect
from mvgpt_runtime.bench.devices.adb import Adb, parse_devices, parse_df, parse_thermalservice
from mvgpt_runtime.bench.devices.ios import error_chain, parse_files, read_record
from mvgpt_runtime.bench.launch import Done, Failed, Progress, Request, Started, parse_line
from phones import ADB, IOS, Phone, plug_in

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    return plug_in(tmp_path / "phone", monkeypatch)


def refused(spec: str, app: str | None = None) -> str:
    with pytest.raises(MvgptError) as caught:
        connect(spec, app)
    return str(caught.value)


def test_a_phone_by_usb(phone: Phone) -> None:
    device = connect(ADB)
    assert (device.facts.name, device.facts.os, device.facts.emulator) == ("Google Pixel 8", "Android 15", False)
    assert connect("adb:R5CT").facts == device.facts


def test_an_emulator(phone: Phone) -> None:
    phone.change(serial="emulator-5554")
    assert connect("adb:emulator-5554").facts.emulator
    phone.change(serial="localhost:6520", emulator=True)
    assert connect("adb").facts.emulator


def test_a_phone_over_the_network(phone: Phone) -> None:
    phone.change(state="gone", reachable="192.168.1.5:41233")
    assert connect("adb:192.168.1.5:41233").facts.name == "Google Pixel 8"
    message = refused("adb:192.168.1.6:41233")
    assert "Connection refused" in message
    assert "Wireless debugging" in message


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"state": "gone"}, ["adb sees no device", "USB debugging"]),
        ({"state": "unauthorized"}, ["R5CT is unauthorized", "allow USB debugging"]),
        ({"state": "offline"}, ["R5CT is offline", "kill-server"]),
        ({"state": "recovery"}, ["R5CT is recovery", "start Android"]),
        (
            {"state": "no permissions (user in plugdev group; are your udev rules wrong?); see [http://x]"},
            ["udev rules"],
        ),
        ({"others": {"A7": "device"}}, ["several devices", "A7 (device)", "--device adb:A7"]),
        ({"state": "gone", "others": {"A": "offline", "B": "unauthorized"}}, ["A (offline), B (unauthorized)"]),
        ({"app": "absent"}, ["org.mvgpt.demo is not installed on Google Pixel 8", "adb install"]),
    ],
)
def test_no_android_phone(phone: Phone, state: dict[str, Any], words: list[str]) -> None:
    phone.change(**state)
    message = refused(ADB)
    for word in words:
        assert word in message, message


def test_which_of_several(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is ready, the one that is named, or the one that the environment names, as adb itself takes it."""
    phone.change(others={"A7": "unauthorized"})
    assert connect(ADB).facts.name == "Google Pixel 8"
    assert "A7 is unauthorized" in refused("adb:A7")
    assert "adb knows no device B1" in refused("adb:B1")
    monkeypatch.setenv("ANDROID_SERIAL", "A7")
    assert "A7 is unauthorized" in refused(ADB)


def test_an_iphone(phone: Phone) -> None:
    device = connect(IOS)
    assert (device.facts.name, device.facts.os) == ("iPhone 16", "iOS 18.1")
    for name in ("00008120-000A3C0134A3401E", "Anna's iPhone", "12345BB5-AEDE-4A22-B653-6037262550DD"):
        assert connect(f"ios:{name}").facts == device.facts


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"known": False}, ["knows no iPhone or iPad with iOS 17", "trust this Mac"]),
        ({"pairing": "unpaired"}, ["iPhone 16 is not ready", "got: unpaired", "trust this Mac"]),
        ({"developer_mode": "disabled"}, ["developerModeStatus enabled", "Developer Mode"]),
        ({"others": ["iPad"]}, ["several devices", "iPad-id (iPad)", "--device ios:12345BB5"]),
        ({"state": "gone"}, ["was disconnected"]),
        ({"xcode": 14}, ["no devicectl", "Xcode 15"]),
        ({"app": "absent"}, ["not installed on iPhone 16", "from Xcode"]),
    ],
)
def test_no_iphone(phone: Phone, state: dict[str, Any], words: list[str]) -> None:
    phone.change(**state)
    message = refused(IOS)
    for word in words:
        assert word in message, message


def test_an_app_that_keeps_its_files(phone: Phone) -> None:
    phone.change(app="from the store")
    with pytest.raises(MvgptError, match="install the app from Xcode"):
        connect(IOS).hashes("Documents/bench/videos")


def test_a_locked_iphone(phone: Phone) -> None:
    phone.change(locked=True)
    device = connect(IOS)
    lines = device.start(request())
    lines.wait(10)
    with pytest.raises(MvgptError, match="the phone is locked"):
        device.crash_log()


@pytest.mark.parametrize("status", [0, 1])
def test_an_app_without_the_activity(phone: Phone, status: int) -> None:
    """Older Androids say so with exit status 0."""
    phone.change(app="old", am_status=status)
    device = connect(ADB)
    with pytest.raises(MvgptError, match="does not exist"):
        device.start(request())


@pytest.mark.parametrize(("kind", "tool"), [(ADB, "adb"), (IOS, "xcrun")])
def test_no_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, tool: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"there is no `{tool}` on this machine" in refused(kind)


def test_no_such_kind() -> None:
    assert "adb[:SERIAL] or ios[:UDID]" in refused("usb:1")


def test_a_crash_is_explained(phone: Phone) -> None:
    device = connect(ADB)
    assert isinstance(device, Adb)
    phone.change(app="crashes")
    lines = device.start(request())
    while device.running():
        lines.read(0.05)
    lines.close()
    log = device.crash_log()
    assert "Abort message: 'could not map slm.pte'" in log
    assert "reason=5 (APP CRASH(NATIVE))" in log
    assert "description=crash" in log
    assert "beginning of" not in log


def test_temperature_before_android_10(phone: Phone) -> None:
    phone.change(android=9)
    thermal = connect(ADB).thermal()
    assert thermal is not None
    assert (thermal.status, thermal.temperature_c) == (None, 31.4)


def test_sensors_as_a_pixel_prints_them() -> None:
    text = (
        "Thermal Status: 2\n\tTemperature{mValue=33.931, mType=-1, mName=neutral_therm, mStatus=1}\n"
        "\tTemperature{mValue=39.674004, mType=-1, mName=charger_skin_therm, mStatus=0}\n"
        "\tTemperature{mValue=0.0, mType=4, mName=VIRTUAL-USB-UI, mStatus=0}\n"
        "\tTemperature{mValue=-40.5, mType=9, mName=off, mStatus=0}\n"
        "TemperatureThreshold{mType=3, mName=VIRTUAL-SKIN, mHotThrottlingThresholds=[NaN, 39.0, 43.0]}\n"
    )
    thermal = parse_thermalservice(text)
    assert (thermal.status, thermal.temperature_c) == ("moderate", 39.674004)


def test_free_room() -> None:
    wrapped = "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/by-name/userdata\n 100 40 60 40% /data\n"
    assert parse_df(wrapped) == 60 * 1024
    with pytest.raises(MvgptError):
        parse_df("df: not found")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    parse_devices(text)
    parse_thermalservice(text)
    read_record(text.encode("utf-8", "replace"))
    with suppress(MvgptError):
        assert parse_df(text) >= 0


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9.:_-]+", fullmatch=True), st.sampled_from(["device", "offline"])))
def test_devices_come_back(states: dict[str, str]) -> None:
    listing = "* daemon started successfully\nList of devices attached\n"
    assert parse_devices(listing + "".join(f"{serial}\t{state}\n" for serial, state in states.items()) + "\n") == states


@given(JSON)
def test_any_json_is_read(value: object) -> None:
    parse_files(value, "f")
    parse_files({"files": value}, "f")
    parse_files({"files": [{"name": "a", "metadata": value, "relativePath": value}]}, "f")
    list(error_chain(value))
    list(error_chain({"userInfo": value, "code": value}))
    read_record(json.dumps(value).encode())


LINE = 'mvgpt-bench {"run": "r1", "event": '


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (
            LINE + '"started", "protocol": 1, "version": "2.1"}',
            Started(run="r1", event="started", protocol=1, version="2.1"),
        ),
        (
            "2026-01-01 10:00:00.1 Demo[12:3] " + LINE + '"progress", "step": "load", "done": 0, "total": 9}',
            Progress(run="r1", event="progress", step="load", done=0, total=9),
        ),
        (LINE + f'"done", "sha256": "{"a" * 64}"}}', Done(run="r1", event="done", sha256="a" * 64)),
        (LINE + '"failed", "what": "no memory"}', Failed(run="r1", event="failed", what="no memory")),
        (LINE.replace("r1", "r2") + '"done"}', None),
        (LINE + '"prog', None),
        ("mvgpt-bench [1]", None),
        ("I/Choreographer: Skipped 31 frames!", None),
    ],
)
def test_lines_of_the_app(line: str, event: object) -> None:
    assert parse_line(line, "r1") == event


@given(JSON | st.fixed_dictionaries({"run": st.just("r1"), "event": st.sampled_from(["progress", "done", "failed"])}))
def test_any_line_is_read_or_refused(value: object) -> None:
    for line in (str(value), f"mvgpt-bench {json.dumps(value)}"):
        with suppress(MvgptError):
            parse_line(line, "r1")


def request() -> Request:
    return Request("r1", "no bundle", "no video", 1, 0, None, False, "?")
