"""The house: who may import whom, and what the wheel carries."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mvgpt_runtime.build_kernels import FOLDER, LIBRARY, find_compiler

REPOSITORY = Path(__file__).parent.parent
EXPORT, RUNTIME = REPOSITORY / "export" / "mvgpt_export", REPOSITORY / "runtime" / "mvgpt_runtime"

# Third-party packages that a runtime module may import anywhere, and where the heavy ones may be imported at all.
RUNTIME_ANYWHERE = {"numpy"}
RUNTIME_ALLOWED = {
    "torch": {"engines", "kernels.py"},
    "executorch": {"engines", "kernels.py"},
    "coremltools": {"engines"},
    "google": {"engines"},  # protobuf, which coremltools brings
    "onnx": {"engines"},
    "onnxruntime": {"engines"},
    "decord": {"video.py"},
    "lmms_eval": {"lmms_eval.py"},
    "tqdm": {"lmms_eval.py"},  # which lmms-eval brings
    "tokenizers": {"prompt.py"},
    "pydantic": {"manifest.py", "vectors.py", "results.py", "launch.py"},
    "jinja2": {"page.py"},
    "typer": {"cli.py"},
    "rich": {"cli.py", "inspection.py", "show.py"},
}


def imports(path: Path, package: str) -> set[str]:
    """Absolute names of all modules that a file imports, at the top or inside functions."""
    root = path.parents[len(path.parts) - 1 - path.parts.index(package)]
    module = path.relative_to(root).with_suffix("").parts
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module[: len(module) - node.level]) + "." if node.level else ""
            names |= {f"{base}{node.module}" if node.module else f"{base}{a.name}" for a in node.names}
    return names


def third_party(names: set[str]) -> set[str]:
    return {n.split(".")[0] for n in names} - sys.stdlib_module_names - {"mvgpt_runtime", "mvgpt_export"}


@pytest.mark.parametrize("path", sorted(RUNTIME.rglob("*.py")), ids=lambda p: p.relative_to(RUNTIME).as_posix())
def test_runtime_imports(path: Path) -> None:
    names = imports(path, "mvgpt_runtime")
    assert not any(name.startswith("mvgpt_export") for name in names)
    for package in third_party(names) - RUNTIME_ANYWHERE:
        places = RUNTIME_ALLOWED.get(package, set())
        assert places & set(path.relative_to(RUNTIME).parts), f"{package} may only be imported in {places}"


def test_the_contract_is_standard_library_only() -> None:
    names = imports(RUNTIME / "contract.py", "mvgpt_runtime")
    assert not third_party(names)
    assert not any(name.startswith("mvgpt") for name in names)


@pytest.mark.parametrize("path", sorted((EXPORT / "models").glob("*.py")), ids=lambda p: p.name)
def test_networks_import_torch_and_the_contract_only(path: Path) -> None:
    names = imports(path, "mvgpt_export")
    assert third_party(names) <= {"torch", "numpy"}
    allowed = (
        "mvgpt_runtime.contract",
        "mvgpt_runtime.frames",
        "mvgpt_export.models",
        "mvgpt_export.config",
        "mvgpt_export.ops.selective_scan",
    )
    assert all(n.startswith(allowed) for n in names if n.startswith("mvgpt"))


def test_importing_the_packages_is_light() -> None:
    """Nothing heavy until it is used: the command line depends on it."""
    heavy = "{'torch', 'executorch', 'numpy', 'decord', 'tokenizers', 'pydantic', 'rich', 'jinja2', 'coremltools'}"
    code = f"import sys, mvgpt_runtime, mvgpt_export, mvgpt_export.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_session_needs_no_exporter() -> None:
    heavy = "{'mvgpt_export', 'torch', 'executorch', 'onnxruntime', 'decord', 'tokenizers'}"
    code = f"import sys, mvgpt_runtime.session; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_files_stay_small() -> None:
    for path in (*EXPORT.rglob("*.py"), *RUNTIME.rglob("*.py")):
        assert len(path.read_text().splitlines()) <= 400, path


def test_wheel_contents(tmp_path: Path) -> None:
    """Both packages with their data, the kernels' sources and, with a compiler, their library; nothing else."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("mvgpt-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(root.parent).as_posix()
        for root in (EXPORT, RUNTIME)
        for path in root.rglob("*")
        if path.is_file() and not {"__pycache__", FOLDER} & set(path.parts)
    }
    compiled = {n for n in names if f"/{FOLDER}/" in n}
    assert {n for n in names if ".dist-info/" not in n} - compiled == sources
    assert f"mvgpt_runtime/{FOLDER}/src/selective_scan.cpp" in compiled
    assert (f"mvgpt_runtime/{FOLDER}/{LIBRARY}" in compiled) == (find_compiler() is not None)
    assert "mvgpt_export/data/tiny/tokenizer.json" in sources
    assert "mvgpt_runtime/bench/report/report.html.j2" in sources
    assert any(n.endswith("licenses/LICENSE") for n in names)
