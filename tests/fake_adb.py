"""An `adb` with one phone, and the commands in that phone's shell: formats, streams and exit statuses as the real ones.

Of adb 29.0.6 the answers without a device were looked at; the others follow AOSP's sources. The phone's shell is this
machine's, with its own `am`, `pm`, `pidof`, `getprop`, `dumpsys`, `df` and `logcat` in front.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import fake_phone as phone

APP = "org.mvgpt.demo"
MOUNTS = ("/data/local/tmp", "/sdcard")
UNAUTHORIZED = """device unauthorized.
This adb server's $ADB_VENDOR_KEYS is not set
Try 'adb kill-server' if that seems wrong.
Otherwise check for a confirmation dialog on your device."""


def inside(text: str) -> str:
    for mount in MOUNTS:
        text = text.replace(mount, f"{phone.ROOT}{mount}")
    return text


def adb(argv: list[str]) -> int:
    if argv == ["devices"]:
        rows = dict(phone.state().get("others", {}))
        if phone.state()["state"] != "gone":
            rows[phone.state()["serial"]] = phone.state()["state"]
        print("List of devices attached", *(f"{s}\t{state}" for s, state in rows.items()), "", sep="\n")
        return 0
    if argv[0] == "connect":
        if argv[1] != phone.state().get("reachable"):
            print(f"failed to connect to '{argv[1]}': Connection refused")
            return 0  # indeed
        phone.change(state="device", serial=argv[1])
        print(f"connected to {argv[1]}")
        return 0
    assert argv[0] == "-s"
    serial, command, *rest = argv[1:]
    if why := refusal(serial):
        copying = command in ("push", "pull")  # these speak on standard output
        print(f"adb: error: failed to get feature set: {why}" if copying else f"error: {why}", file=stream(copying))
        return 1
    return {"get-state": get_state, "shell": shell, "push": push, "pull": pull, "logcat": logcat}[command](rest)


def stream(out: bool):
    return sys.stdout if out else sys.stderr


def refusal(serial: str) -> str | None:
    s = phone.state()
    if serial != s["serial"] or s["state"] == "gone":
        return f"device '{serial}' not found"
    return {"device": None, "offline": "device offline", "unauthorized": UNAUTHORIZED}[s["state"]]


def get_state(rest: list[str]) -> int:
    print("device")
    return 0


def shell(rest: list[str]) -> int:
    path = f"{phone.PHONE / 'shell'}:{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/sh", "-c", inside(" ".join(rest))], env=os.environ | {"PATH": path}, check=False
    ).returncode


def push(rest: list[str]) -> int:
    local, remote = rest
    problem = phone.copy(Path(local), Path(inside(remote)))
    if problem is None:
        print(f"{local}: 1 file pushed, 0 skipped. 53.7 MB/s ({Path(local).stat().st_size} bytes in 0.278s)")
        return 0
    why = {"gone": "couldn't read from device", "full": "remote No space left on device"}[problem]
    print(f"adb: error: failed to copy '{local}' to '{remote}': {why}")
    print(f"{local}: 0 files pushed. 5.2 MB/s (99995728 bytes in 18.348s)")
    return 1


def pull(rest: list[str]) -> int:
    remote, local = rest
    source = Path(inside(remote))
    if not source.is_file():
        print(f"adb: error: failed to stat remote object '{remote}': No such file or directory")
        return 1
    Path(local).write_bytes(source.read_bytes())
    print(f"{remote}: 1 file pulled, 0 skipped. 11.2 MB/s ({source.stat().st_size} bytes in 0.001s)")
    return 0


def logcat(rest: list[str]) -> int:
    """What is in the log since a time, then what comes; the log's lines are: seconds, tag, message."""
    if "crash" in rest:
        print("--------- beginning of crash")
        print(phone.CRASHES.read_text() if phone.CRASHES.exists() else "", end="")
        return 0
    since, tag = float(rest[rest.index("-T") + 1]), rest[rest.index("-s") + 1].removesuffix(":V")
    print("--------- beginning of main", flush=True)
    phone.LOG.touch()
    with phone.LOG.open() as log:
        while phone.state()["state"] != "gone":
            line = log.readline()
            if line:
                at, its_tag, message = line.rstrip("\n").split("\t", 2)
                if float(at) >= since and its_tag == tag:
                    print(message, flush=True)
            else:
                time.sleep(0.01)
    return 0


def am(argv: list[str]) -> int:
    if argv[0] == "force-stop":
        with suppress(OSError, ValueError):
            os.kill(int((phone.PHONE / "pid").read_text()), signal.SIGKILL)
        (phone.PHONE / "pid").unlink(missing_ok=True)
        return 0
    assert argv[:3] == ["start", "-S", "-W"]
    component, action = argv[argv.index("-n") + 1], argv[argv.index("-a") + 1]
    print(f"Stopping: {component.split('/')[0]}")
    print(f"Starting: Intent {{ act={action} cmp={component} (has extras) }}", flush=True)
    if phone.state().get("app") == "old":
        print(f"Error type 3\nError: Activity class {{{component}}} does not exist.", file=sys.stderr)
        return phone.state().get("am_status", 1)
    extras = [argv[i + 1 : i + 3] for i, word in enumerate(argv) if word == "--es"]
    child = subprocess.Popen(
        [sys.executable, "-S", __file__, "app", *(f"{k}={v}" for k, v in extras)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(phone.PHONE / "app errors").open("w"),
    )
    (phone.PHONE / "pid").write_text(str(child.pid))
    print(f"Status: ok\nLaunchState: COLD\nActivity: {component}\nTotalTime: 312\nWaitTime: 318\nComplete")
    return 0


def app(argv: list[str]) -> int:
    pid = phone.PHONE / "pid"
    while not pid.exists() or pid.read_text() != str(os.getpid()):
        time.sleep(0.005)

    def say(line: str) -> None:
        with phone.LOG.open("a") as log:
            log.write(f"{time.time():.3f}\tmvgpt-bench\t{line}\n")

    parameters = dict(word.split("=", 1) for word in argv)
    results = Path(inside(f"/sdcard/Android/data/{APP}/files/bench"))
    status = phone.app(parameters, Path("/"), results, say)
    if status < 0:
        phone.CRASHES.write_text(
            f"F/libc    ({os.getpid()}): Fatal signal {-status} (SIGABRT), code -1 (SI_QUEUE) in tid 4 (main)\n"
            "F/DEBUG   ( 9999): Abort message: 'could not map slm.pte'\n"
        )
    (phone.PHONE / "last pid").write_text(str(os.getpid()))
    pid.unlink()
    return 0


def pidof(argv: list[str]) -> int:
    pid = phone.PHONE / "pid"
    if argv != [APP] or not pid.exists():
        return 1
    print(pid.read_text())
    (phone.PHONE / "seen").touch()
    return 0


def pm(argv: list[str]) -> int:
    if phone.state().get("app") == "absent" or argv != ["path", APP]:
        return 1
    print(f"package:/data/app/~~c2Vl==/{APP}-QQ==/base.apk")
    return 0


def getprop(argv: list[str]) -> int:
    emulator = "1" if phone.state().get("emulator") else ""
    properties = {"manufacturer": "Google", "model": "Pixel 8", "release": "15", "qemu": emulator}
    print(properties[argv[0].rpartition(".")[2]])
    return 0


def df(argv: list[str]) -> int:
    free = phone.state().get("free", 10**10)
    if free is None:
        print(f"df: {argv[1]}: No such file or directory", file=sys.stderr)
        return 1
    print("Filesystem     1K-blocks     Used Available Use% Mounted on")
    print(f"/dev/block/dm-50 113041388 43061932 {free // 1024} 39% /data/user/0")
    return 0


def dumpsys(argv: list[str]) -> int:
    s = phone.state()
    if argv == ["thermalservice"]:
        if s.get("android") == 9:
            print("Can't find service: thermalservice", file=sys.stderr)
            return 0
        status, celsius = s["thermal"][0]
        if len(s["thermal"]) > 1:
            phone.change(thermal=s["thermal"][1:])
        print(f"IsStatusOverride: false\nThermal Status: {status}\nCached temperatures:")
        print(
            " Temperature{mValue=99.0, mType=0, mName=CPU0, mStatus=0}\nHAL Ready: true\nCurrent temperatures from HAL:"
        )
        print(f" Temperature{{mValue={celsius}, mType=3, mName=skin, mStatus=0}}")
        print(" Temperature{mValue=999.0, mType=9, mName=npu_off, mStatus=0}")
        print("Current cooling devices from HAL:\n CoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}")
    elif argv == ["battery"]:
        print(
            "Current Battery Service state:\n  USB powered: true\n  level: 80\n  temperature: 314\n  technology: Li-ion"
        )
    elif argv[:2] == ["activity", "exit-info"]:
        last = phone.PHONE / "last pid"
        print("ACTIVITY MANAGER PROCESS EXIT INFO (dumpsys activity exit-info)")
        print(f"  package: {APP}\n    Historical Process Exit for uid=10085\n        ApplicationExitInfo #0:")
        print(
            f"          timestamp=2026-08-14 10:00:00.000 pid={last.read_text() if last.exists() else 1} realUid=10085"
        )
        print(f"          process={APP} reason=5 (APP CRASH(NATIVE)) subreason=0 (UNKNOWN) status=6")
        print("          importance=100 pss=0.00 rss=1.2GB description=crash state=empty trace=null")
    return 0


if __name__ == "__main__":
    name, argv = Path(os.environ.get("FAKE_NAME", "app")).name, sys.argv[1:]
    if argv[:1] == ["app"]:
        sys.exit(app(argv[1:]))
    phone.note_call()
    sys.exit(globals()[name](argv))
