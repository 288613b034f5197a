"""trim: a bundle whose model is in ONNX Runtime's own format, with the list of the operators that it needs: the library can be built with these alone.

ONNX Runtime's library is 20 to 45 MB with all of its operators. A build for one model leaves the others out, and then reads ORT format alone, whose
graph is optimized already ("Fixed": for the processor's family, nothing is left to do on the device). Source: onnxruntime.ai, "ORT model format" and
"Reduced operator config file". The golden vectors are checked on the target again: another file is another model.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edgedistill import plugins
from edgedistill.bundle_format import digests, read_bundle, read_golden, write_manifest
from edgedistill.errors import InputError, ParityError, StageError, TargetError
from edgedistill.links import how
from edgedistill.stages.verify import Result, hello, on_runner, summary
from edgedistill.target import Target, find_target

MODEL, OPERATORS = "model.ort", "operators.config"


@dataclass(frozen=True)
class Trimmed:
    """operators: as ONNX Runtime's build takes them, `domain;opset;names`, without types. golden: on the target, by its link."""

    target: str
    how: str
    golden: Result
    bytes_before: int
    bytes_after: int
    operators: list[str]


def trim(folder: Path, out: Path, target_name: str | None = None) -> Trimmed:
    """Write the trimmed bundle into the new folder `out`. Raises InputError for what cannot be trimmed, ParityError when it answers otherwise."""
    manifest = read_bundle(folder)
    target = find_target(target_name) if target_name else Target(**manifest.target)
    if manifest.format != "onnx" or target.format != "onnx":
        raise InputError("only bundles of ONNX Runtime can be trimmed.", where=str(folder), write="Compile for a target of format onnx.")
    if manifest.model == MODEL:
        raise InputError("this bundle is trimmed already.", where=str(folder))
    if out.exists() and any(out.iterdir()):
        raise InputError("the folder is not empty.", where=str(out), write="Give a new folder with --out.")
    link = plugins.find("links", target.link.kind)
    if lacking := link.ready(target.link):
        raise TargetError(lacking, where=target.name)
    before = manifest.files[manifest.model]
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "bundle"
        shutil.copytree(folder, draft, ignore=shutil.ignore_patterns(manifest.model, "manifest.json"))
        _convert(folder / manifest.model, draft, _family(target))
        # What was measured was the file before.
        trimmed = replace(manifest, model=MODEL, files=digests(draft), measured={}, extra={**manifest.extra, "trimmed_from": before})
        write_manifest(draft, trimmed)
        vectors = list(read_golden(draft / "golden.jsonl"))
        request = hello(draft, trimmed, vectors[0].text, target.threads, target.kv_cache)
        runner = link.open_runner(target.link, target.runtime, request, target.limits)
        try:
            golden = on_runner(manifest.name, manifest.logit_bound, vectors, runner)
        finally:
            runner.close()
        if not golden.good:
            raise ParityError(f"the trimmed model answers otherwise on {target.name}: {summary(golden)}", where=str(folder))
        shutil.copytree(draft, out, dirs_exist_ok=True)
    before_bytes, after_bytes = (folder / manifest.model).stat().st_size, (out / MODEL).stat().st_size
    return Trimmed(target.name, how(target.link), golden, before_bytes, after_bytes, list(_names(out / OPERATORS)))


def _family(target: Target) -> str | None:
    """How ONNX Runtime's converter calls the processor: some graph optimizations are for one family alone."""
    return "arm" if target.isa.startswith("arm") else "amd64" if target.isa.startswith("x86") else None


def _convert(model: Path, out: Path, family: str | None) -> None:
    """`out`/model.ort and `out`/operators.config."""
    try:
        from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort
    except ImportError as problem:
        raise StageError(f"ONNX Runtime's converter cannot be loaded: {problem}.", write="Run: pip install flatbuffers onnx") from None
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copyfile(model, Path(scratch) / "model.onnx")
        logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of its steps
            convert_onnx_models_to_ort(
                Path(scratch) / "model.onnx",
                output_dir=Path(scratch),
                optimization_styles=[OptimizationStyle.Fixed],
                target_platform=family,
                enable_type_reduction=True,
            )
        shutil.move(Path(scratch) / "model.ort", out / MODEL)
        lines = (Path(scratch) / "model.required_operators_and_types.config").read_text(encoding="utf-8").splitlines()
    # Its comments name folders of this machine.
    (out / OPERATORS).write_text("".join(f"{line}\n" for line in lines if line and not line.startswith("#")), encoding="utf-8")


def _names(config: Path) -> Iterator[str]:
    """`domain;opset;Name,Name` of each line, the types left out."""
    for line in config.read_text(encoding="utf-8").splitlines():
        domain, opset, rest = line.split(";", 2)
        names, depth, word = [], 0, ""
        for char in f"{rest},":
            depth += (char == "{") - (char == "}")
            if char == "," and depth == 0:
                names.append(word.partition("{")[0])
                word = ""
            else:
                word += char
        yield f"{domain};{opset};{','.join(names)}"
