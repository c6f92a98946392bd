"""What a user would run instead of our language model: llama.cpp (Q4_0) and Hugging Face's eager float32.

    python benchmarks/slm_peers.py [--threads 2]

Random weights of the same shapes, each program in a process of its own, the best repetition of each figure. llama.cpp
is npm's prebuilt library, which picks its own CPU variant, under llama.cpp's own `llama-bench`, compiled from the
source of the same release. Needs Linux, npm, git and a C++ compiler; downloads 46 MB once, into build/peers/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Quantization
from mvgpt_export.config import NAMED_CONFIGS, Qwen2Config

CACHE = Path(__file__).parents[1] / "build/peers"
VERSION = "3.22.1"  # of npm's node-llama-cpp: carries llama.cpp v0.5.0, as libraries and as source
PREFILL, CONTEXTS = (64, 512, 2450), (64, 2450)


def write_gguf(config: Qwen2Config, path: Path, embedding: Quantization = Quantization.Q8_0) -> None:
    """Random weights as `llama-quantize … Q4_0` stores them, and no vocabulary (token ids are all a benchmark needs).

    llama-quantize gives a tied embedding the output layer's type, Q6_K, and falls back to Q8_0 where rows are no
    multiple of 256, as these of 896 are: Q8_0 it is here. Q4_0 (`--token-embedding-type`) is what a smaller file has.
    """
    if not config.tied:
        raise ValueError("only tied embeddings are written")
    random = np.random.default_rng(0)
    # Quantizing in numpy is slow: every matrix is cut from one quantized stretch, at an offset of its own.
    noise = random.normal(0, 0.02, (16384, 256)).astype(np.float32)
    stretches = {
        t: gguf.quantize(noise, t).reshape(-1, gguf.GGML_QUANT_SIZES[t][1]) for t in (Quantization.Q4_0, embedding)
    }

    writer = gguf.GGUFWriter(path, "qwen2")

    def matrix(name: str, rows: int, columns: int, kind: Quantization = Quantization.Q4_0) -> None:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = np.arange(rows * columns // block) + random.integers(1 << 20)
        data = stretches[kind].take(blocks, axis=0, mode="wrap").reshape(rows, columns // block * size)
        writer.add_tensor(name + ".weight", data, raw_dtype=kind)

    def vector(name: str, size: int, mean: float = 0) -> None:
        writer.add_tensor(name, random.normal(mean, 0.05, size).astype(np.float32))

    writer.add_context_length(32768)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    matrix("token_embd", config.vocab_size, config.hidden_size, embedding)
    vector("output_norm.weight", config.hidden_size, 1)
    width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
    for layer in range(config.layers):
        for name, rows in (("q", width), ("k", kv_width), ("v", kv_width)):
            matrix(f"blk.{layer}.attn_{name}", rows, config.hidden_size)
            vector(f"blk.{layer}.attn_{name}.bias", rows)
        matrix(f"blk.{layer}.attn_output", config.hidden_size, width)
        matrix(f"blk.{layer}.ffn_gate", config.mlp_width, config.hidden_size)
        matrix(f"blk.{layer}.ffn_up", config.mlp_width, config.hidden_size)
        matrix(f"blk.{layer}.ffn_down", config.hidden_size, config.mlp_width)
        vector(f"blk.{layer}.attn_norm.weight", config.hidden_size, 1)
        vector(f"blk.{layer}.ffn_norm.weight", config.hidden_size, 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_bench() -> Path:
    """llama.cpp's benchmark program beside the prebuilt libraries; fetched and compiled the first time."""
    system = {"x86_64": "linux-x64", "aarch64": "linux-arm64"}[platform.machine()]
    libraries = CACHE / VERSION / "package/bins" / system
    program = libraries / "llama-bench"  # llama.cpp looks for its CPU variants in the program's folder
    if program.exists():
        return program
    folder = CACHE / VERSION
    folder.mkdir(parents=True, exist_ok=True)

    def run(*command: str | Path) -> str:
        return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    for package in (f"@node-llama-cpp/{system}@{VERSION}", f"node-llama-cpp@{VERSION}"):
        archive = run("npm", "pack", "--silent", package)
        run("tar", "xzf", archive)
        (folder / archive).unlink()
    if not (folder / "source").exists():
        run("git", "-c", "advice.detachedHead=false", "clone", "--quiet", "package/llama/gitRelease.bundle", "source")
    source = [f"source/tools/llama-bench/{name}.cpp" for name in ("llama-bench", "main")]
    include = [f"-Isource/{path}" for path in ("include", "ggml/include", "common", "vendor")]
    links = [*libraries.glob("libllama*.so"), *libraries.glob("libggml.*so"), libraries / "libggml-base.so"]
    partial = program.with_suffix(".partial")
    run("c++", "-std=c++17", "-O2", "-DNDEBUG", *include, *source, *links, "-Wl,-rpath,$ORIGIN", "-o", partial)
    partial.rename(program)
    return program


def run_alone(command: Sequence[str | Path]) -> tuple[str, str, int, float]:
    """Standard output, standard error, peak resident bytes and seconds of a process.

    Polls the kernel's high-water mark: wait4's would include this process, which the child was before exec.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        start, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, stdout=out, stderr=errors)
        while process.poll() is None:
            high = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            peak = int(high[1]) * 1024 if high else peak
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        for file in (out, errors):
            file.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command[0]} exited with {process.returncode}: {errors.read()[-2000:]}")
        return out.read(), errors.read(), peak, seconds


def measure_llama_cpp(
    config: Qwen2Config,
    threads: int,
    prefill: Sequence[int] = PREFILL,
    contexts: Sequence[int] = CONTEXTS,
    decode_tokens: int = 32,
    embedding: Quantization = Quantization.Q8_0,
) -> dict[str, Any]:
    """Each figure with flash attention off or on, whichever is better; the cache is float16, llama.cpp's default.

    The peak is of the prefill runs (of the leaner setting), loading is with the file in the page cache.
    """
    program = llama_bench()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(config, path, embedding)
        size = path.stat().st_size

        def bench(*options: str) -> tuple[list[tuple[dict[str, Any], float]], str, int, float]:
            command: list[str | Path] = [program, "-m", path, "-t", str(threads), "-o", "json", *options]
            out, errors, peak, seconds = run_alone(command)
            return [(test, max(test["samples_ts"])) for test in json.loads(out)], errors, peak, seconds

        ((_, speed),), log, _, seconds = bench(*"-p 1 -n 0 -r 1 --no-warmup -v".split())
        load = seconds - 1 / speed
        found: dict[str, tuple[dict[int, float], dict[int, float], int]] = {}
        for flash in ("off", "on"):
            options = ("--no-warmup", "-r", "3", "-fa", flash)
            tests, _, peak, _ = bench("-p", ",".join(map(str, prefill)), "-n", "0", *options)
            filled = {test["n_prompt"]: speed for test, speed in tests}
            tests, _, _, _ = bench("-p", "0", "-n", str(decode_tokens), "-d", ",".join(map(str, contexts)), *options)
            found[flash] = filled, {test["n_depth"]: speed for test, speed in tests}, peak
    variant = re.search(r"libggml-cpu-(\w+)\.so", log)
    results = [
        f"flash {flash}: prefill {show(filled)}, decode {show(decoded)}, {peak / 1e6:.0f} MB"
        for flash, (filled, decoded, peak) in found.items()
    ]
    return {
        "prefill": {n: max(filled[n] for filled, _, _ in found.values()) for n in prefill},
        "decode": {n: max(decoded[n] for _, decoded, _ in found.values()) for n in contexts},
        "peak_rss_bytes": min(peak for _, _, peak in found.values()),
        "file_bytes": size,
        "load_s": load,
        "detail": f"llama.cpp v0.5.0 Q4_0, {embedding.name} embedding, CPU variant "
        f"{variant[1] if variant else 'unknown'}; {'; '.join(results)}",
    }


def hugging_face_config(config: Qwen2Config) -> transformers.Qwen2Config:
    return transformers.Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tied,
    )


def measure_hugging_face(
    config: Qwen2Config,
    threads: int,
    prefill: Sequence[int] = PREFILL,
    contexts: Sequence[int] = CONTEXTS,
    decode_tokens: int = 8,
) -> dict[str, Any]:
    """transformers in float32, from a bfloat16 checkpoint as the published ones are."""
    shape = hugging_face_config(config)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        transformers.Qwen2ForCausalLM(shape).bfloat16().save_pretrained(folder)
        size = sum(p.stat().st_size for p in Path(folder).glob("*.safetensors"))
        job = json.dumps([folder, threads, list(prefill), list(contexts), decode_tokens])
        out, _, peak, _ = run_alone([sys.executable, __file__, "--hugging-face", job])
    filled, decoded, load = json.loads(out.splitlines()[-1])
    return {
        "prefill": dict(zip(prefill, filled, strict=True)),
        "decode": dict(zip(contexts, decoded, strict=True)),
        "peak_rss_bytes": peak,
        "file_bytes": size,
        "load_s": load,
        "detail": f"transformers {transformers.__version__}, torch {torch.__version__}, eager float32",
    }


@torch.no_grad()
def _hugging_face_job(
    folder: str, threads: int, prefill: list[int], contexts: list[int], decode_tokens: int
) -> tuple[list[float], list[float], float]:
    torch.set_num_threads(threads)
    start = time.perf_counter()
    model = transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    load = time.perf_counter() - start

    def fill(n: int) -> tuple[float, Any]:
        ids = torch.randint(model.config.vocab_size, (1, n))
        start = time.perf_counter()
        cache = model(ids, logits_to_keep=1, use_cache=True).past_key_values
        return n / (time.perf_counter() - start), cache

    def decode(context: int) -> float:
        _, cache = fill(context)
        seconds = []
        for _ in range(decode_tokens):
            ids = torch.randint(model.config.vocab_size, (1, 1))
            start = time.perf_counter()
            model(ids, past_key_values=cache, use_cache=True)
            seconds.append(time.perf_counter() - start)
        return 1 / min(seconds)

    fill(64)
    return [max(fill(n)[0] for _ in range(2)) for n in prefill], [decode(n) for n in contexts], load


def read_bandwidth(threads: int) -> float:
    """Bytes per second that this many threads read from memory: 1 GiB, the best of ten passes."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "reader"
        source = Path(__file__).with_name("read_bandwidth.c")
        subprocess.run(["cc", "-O3", "-march=native", "-pthread", source, "-o", program], check=True)
        return float(subprocess.run([program, str(threads)], check=True, stdout=subprocess.PIPE).stdout)


def show(speeds: dict[int, float]) -> str:
    return " / ".join(f"{speed:.1f} @{n}" for n, speed in speeds.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--hugging-face", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hugging_face:
        print(json.dumps(_hugging_face_job(*json.loads(arguments.hugging_face))))
        return
    for n in sorted({1, arguments.threads}):
        print(f"memory read, {n} thread(s): {read_bandwidth(n) / 1e9:.1f} GB/s")
    config = NAMED_CONFIGS["0.5b"].text
    peers: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
        ("llama.cpp Q4_0", lambda: measure_llama_cpp(config, arguments.threads)),
        ("Hugging Face", lambda: measure_hugging_face(config, arguments.threads)),
    )
    for name, measure in peers:
        row = measure()
        print(f"{name}: prefill {show(row['prefill'])}, decode {show(row['decode'])} tokens/s, ", end="")
        print(f"peak {row['peak_rss_bytes'] / 1e6:.0f} MB, file {row['file_bytes'] / 1e6:.0f} MB, ", end="")
        print(f"load {row['load_s']:.2f} s\n  {row['detail']}", flush=True)


if __name__ == "__main__":
    main()
