"""Build hook: compiles the ExecuTorch operators while the package is installed, if this machine can.

A build runs isolated and before its dependencies are installed, so the headers and libraries come from the first of:
the executorch of this interpreter, that of the environment the build was started from, and the very wheel that the
installer is about to install (through pip and its cache, so it is downloaded once). Only the release that this project
pins will do. Without a compiler or executorch the installation goes on without the operators, and
`python -m mvgpt_runtime.kernels build` makes them later.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "mvgpt_runtime"
DOWNLOAD_SECONDS = 120


class KernelsBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        compiler = _load(root / "runtime" / PACKAGE / "build_kernels.py")
        sources, folder = root / "runtime" / "kernels", f"{PACKAGE}/{compiler.FOLDER}"
        # An editable installation runs from the clone, so the library belongs there; a wheel must not pick up that one.
        parent = root / "runtime" / folder if version == "editable" else Path(self.scratch.name)
        library = parent / compiler.LIBRARY
        try:
            if compiler.find_compiler() is None:
                raise compiler.BuildError("no C++ compiler")
            compiler.build(sources, self._executorch(compiler.BuildError), library)
        except compiler.BuildError as e:
            self.app.display_warning(f"{e}\nThe fused operators are not compiled: exports will use the stock form.")
        if version == "editable":
            return
        for path in sorted(p for p in sources.glob("*.[hc]*") if not p.name.startswith("test_")):
            build_data["force_include"][str(path)] = f"{folder}/src/{path.name}"
        if library.is_file():
            build_data["force_include"][str(library)] = f"{folder}/{library.name}"
            build_data["pure_python"] = False
            # The library is loaded through ctypes: any Python 3, this platform.
            build_data["tag"] = f"py3-none-{re.sub('[-.]', '_', sysconfig.get_platform())}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self.scratch.cleanup()

    def _executorch(self, error: type[Exception]) -> Path:
        pinned = [d for d in self.metadata.core.dependencies if d.startswith("executorch==")]
        if len(pinned) != 1:
            raise error("pyproject.toml does not pin executorch")
        release = pinned[0].partition("==")[2]
        spec = importlib.util.find_spec("executorch")
        here = [Path(p).parent for p in spec.submodule_search_locations or ()] if spec else []
        for site in (*here, Path(sysconfig.get_path("platlib"))):
            if (site / f"executorch-{release}.dist-info").is_dir():
                return site / "executorch"
        return _download(pinned[0], Path(self.scratch.name), error)


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _download(requirement: str, folder: Path, error: type[Exception]) -> Path:
    """The package folder of `requirement`'s wheel, unpacked below `folder`."""
    # An isolated build hides the environment's own packages, pip among them, by this variable.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), requirement],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise error(f"no answer when downloading {requirement}") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise error(f"{requirement} is not installed and cannot be downloaded: {done.stderr.strip()[-500:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = [n for n in wheel.namelist() if n.startswith(("executorch/include/", "executorch/lib/"))]
        wheel.extractall(folder, names)
    return folder / "executorch"
