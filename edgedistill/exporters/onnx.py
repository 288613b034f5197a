"""ONNX: one float graph for every device that runs ONNX Runtime.

Two files come out of one model, both fused by `onnxruntime.transformers.optimizer` into the operators that ONNX Runtime has fast kernels for. In
`model.onnx`, the fastest float graph, a whole attention layer is one operator, query, key and value weights included, and the embeddings another. In
`products.onnx` every product with a weight is still a `MatMul` of its own and every table a `Gather`, for schemes that treat each apart; only what
lies between (scores, softmax, layer norm, GELU) is fused. Each graph takes `input_ids` and `attention_mask` (int64 [batch, sequence]) and gives `logits`
(float32 [batch, classes], or [batch, sequence, classes] of a model that answers token by token); batch and sequence are free.

Nothing is built on a graph that was not checked: on real rows, alone and in padded batches, both graphs must give torch's logits, and the
tokenizer file must give the ids that the model was trained on.
Sources: https://onnxruntime.ai/docs/performance/transformers-optimization.html, https://huggingface.co/docs/optimum (TasksManager, NormalizedConfig).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.errors import ParityError, StageError
from edgedistill.onnx_graph import Batch, quiet, save_graph, session

FORMAT = "onnx"
OPSET = 17  # the oldest that has LayerNormalization; later ones break patterns that the fusions look for
FUSED_AS_BERT = ("bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta", "camembert")

FIRST_TOKEN = ("first_token_start", "first_token_end", "first_token_axis")  # the bounds of the slice that takes it

# What acts on each position by itself, so that it may be done for one alone.
BY_POSITION = frozenset(
    {"MatMul", "Add", "SkipLayerNormalization", "LayerNormalization", "BiasGelu", "Gelu", "FastGelu", "Erf", "Div", "Mul", "Tanh", "Relu"}
)

# Of the largest logit. Correct float32 graphs were seen 5e-7 to 2e-6 of it away from torch (order of additions), faults from 2e-2 on (dropout left on,
# a lost bias). The bound stands between, more than an order of magnitude from either.
TOLERANCE = 1e-4

AWKWARD = (
    "",
    " \t\n ",
    "👩‍👩‍👧 thumbs 👍🏽 up",
    "e\u0301le\u0300ve cafe\u0301 n\u0303",
    "مرحبا بالعالم \u202eabc\u202c שלום",
    "null\u0000 bell\u0007 escape\u001b soft\u00adhyphen \ufeff",
    "中文 字符 かな 한국어",
    "x" * 10_000,
    "word " * 2_000,
    "[CLS] [SEP] <s> </s> [MASK]",
)


def export(model_dir: Path, out: Path, texts: Sequence[str], max_tokens: int, task: str = "text-classification") -> dict[str, float]:
    """Export the model in `model_dir`, check it on `texts`, and give the facts of the check.

    model_dir: a Hugging Face folder (config.json, model.safetensors, tokenizer files). max_tokens: longest input, special tokens counted.
    task: as optimum's TasksManager names it.
    Facts: `rows`; `error_unfused`, `error_products` and `error_model`, each the largest |logit - torch's logit|; `tolerance`, in the same unit;
    `fused_attention`, the number of attention layers that became one operator.
    Raises ParityError when a graph or the tokenizer file differs from torch's.
    """
    import edgedistill.architectures  # noqa: F401  # our own are registered with the Auto classes

    out.mkdir(parents=True, exist_ok=True)
    with quiet():
        tokenizer = write_tokenizer(model_dir, out / "tokenizer.json", texts, max_tokens)
        model = load_eager(model_dir, task)
        rows = [tokenizer.encode(text).ids for text in (*texts, *AWKWARD)]
        pad = model.config.pad_token_id or 0
        truth = torch_logits(model, rows)  # of the model as it was given, before anything below changes it
        _fold_token_types(model)
        # Two rows of different length, so that no size of the example can be taken for one of the model.
        example = batches([max(rows, key=len)[:9], min(rows, key=len)], pad)[0]
        _trace(model, example, out / "unfused.onnx", by_token=truth[0].ndim == 2)
        _fuse(model.config, out / "unfused.onnx", out / "model.onnx", whole_attention=True)
        _fuse(model.config, out / "unfused.onnx", out / "products.onnx", whole_attention=False)
    tolerance = TOLERANCE * max(1.0, *(float(np.abs(row).max()) for row in truth))
    facts = {"rows": float(len(rows)), "tolerance": tolerance}
    for name in ("unfused", "products", "model"):
        facts[f"error_{name}"] = _check(out / f"{name}.onnx", rows, (*texts, *AWKWARD), truth, pad, tolerance)
    (out / "unfused.onnx").unlink()  # the step between; nothing reads it
    facts["fused_attention"] = float(_count(out / "model.onnx", "Attention"))
    return facts


def batches(rows: Sequence[Sequence[int]], pad: int, size: int = 16) -> list[Batch]:
    """Token ids as padded batches of `size` rows, in the given order."""
    made = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        ids = np.full((len(part), max(map(len, part))), pad, np.int64)
        mask = np.zeros_like(ids)
        for line, row in enumerate(part):
            ids[line, : len(row)] = row
            mask[line, : len(row)] = 1
        made.append({"input_ids": ids, "attention_mask": mask})
    return made


def write_tokenizer(model_dir: Path, path: Path, texts: Sequence[str], max_tokens: int) -> Any:
    """The tokenizers-library file that travels with the graph: no padding (some repositories ship a fixed 128), truncation at `max_tokens`."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    trained_on = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)
    shipped = model_dir / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(shipped)) if shipped.is_file() else Tokenizer.from_str(trained_on.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    path.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=None, separators=(",", ":")), encoding="utf-8")
    written = Tokenizer.from_file(str(path))
    for text in (*texts, *AWKWARD):
        right = trained_on(text, truncation=True, max_length=max_tokens, padding=False)["input_ids"]
        ids = written.encode(text).ids
        if ids != right:
            at = next((n for n, (a, b) in enumerate(zip(ids, right, strict=False)) if a != b), min(len(ids), len(right)))
            raise ParityError(
                f"the tokenizer file and AutoTokenizer give different ids for {text[:60]!r}: "
                f"{len(ids)} and {len(right)} tokens, first difference at {at} ({ids[at : at + 5]} and {right[at : at + 5]}).",
                where=str(shipped if shipped.is_file() else model_dir),
                write="Save the tokenizer again with AutoTokenizer.from_pretrained(...).save_pretrained(...), and train with that one.",
            )
    return written


def load_eager(model_dir: Path, task: str) -> Any:
    """The torch model in a folder, in float32, with eager attention."""
    import torch

    from edgedistill.models import model_class

    # Eager attention: the exporter writes it as plain MatMul and Softmax, the pattern that the fusion knows.
    model = model_class(task).from_pretrained(
        model_dir, trust_remote_code=False, local_files_only=True, use_safetensors=True, attn_implementation="eager", dtype=torch.float32
    )
    return model.eval()


def _fold_token_types(model: Any) -> None:
    """Put the token-type embedding of type 0 into the position table, where every position adds it anyway.

    A single text has type 0 throughout. Left in place, the type ids would be a third input on every device, or a dozen nodes that make zeros.
    """
    import torch

    class NoTypes(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1)

    for part in model.modules():
        types, positions = getattr(part, "token_type_embeddings", None), getattr(part, "position_embeddings", None)
        if (
            isinstance(types, torch.nn.Embedding)
            and isinstance(positions, torch.nn.Embedding)
            and types.weight.shape[1] == positions.weight.shape[1]
        ):
            with torch.no_grad():
                positions.weight += types.weight[0]
            part.token_type_embeddings = NoTypes()


def _trace(model: Any, example: Batch, path: Path, by_token: bool) -> None:
    import onnx
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits

    free = {0: "batch", 1: "sequence"}
    inputs = tuple(torch.from_numpy(example[name]) for name in ("input_ids", "attention_mask"))
    # dynamo=False: the newer exporter is as exact, but ONNX Runtime's attention fusion does not know the graphs it writes (onnxruntime 1.32).
    torch.onnx.export(
        Logits().eval(),  # else dropout is switched on again when the exporter leaves
        inputs,
        str(path),
        dynamo=False,
        opset_version=OPSET,
        do_constant_folding=True,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={"input_ids": free, "attention_mask": free, "logits": free if by_token else {0: "batch"}},
    )
    graph = onnx.load(str(path))
    _drop_added_zeros(graph)
    _plain_products(graph)
    save_graph(graph, path)


def _drop_added_zeros(model: Any) -> None:
    """Take out `Add(x, 0)`, what is left of the folded token types."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    zeros = {
        name
        for name, tensor in constants.items()
        if list(tensor.dims) == [1] and tensor.data_type == 1 and not numpy_helper.to_array(tensor).any()
    }
    for node in list(graph.node):
        if node.op_type == "Add" and len(zeros & set(node.input)) == 1:
            kept = next(name for name in node.input if name not in zeros)
            for other in graph.node:
                other.input[:] = [kept if name == node.output[0] else name for name in other.input]
            graph.node.remove(node)
    _drop_unused(graph)


def _plain_products(model: Any) -> None:
    """`Gemm` (pooler, classifier head) as `MatMul` and `Add`: as fast, and the one product that every quantizer knows."""
    import onnx

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        settings = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0 and not settings.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in constants or len(node.input) < 3:
            nodes.append(node)
            continue
        weight = onnx.numpy_helper.to_array(constants[node.input[1]])
        name = f"{node.input[1]}_product"
        graph.initializer.append(
            onnx.numpy_helper.from_array(np.ascontiguousarray(weight.T if settings.get("transB", 0) else weight), name)
        )
        stem = node.name.removesuffix("/Gemm")
        product = f"{node.output[0]}_product"
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], name], [product], name=f"{stem}/MatMul"))
        nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], list(node.output), name=f"{stem}/Add"))
    graph.ClearField("node")
    graph.node.extend(nodes)
    _drop_unused(graph)


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    for node in list(graph.node):
        if node.op_type == "Constant" and node.output[0] not in used:
            graph.node.remove(node)
    for tensor in list(graph.initializer):
        if tensor.name not in used:
            graph.initializer.remove(tensor)


def _fuse(config: Any, unfused: Path, path: Path, *, whole_attention: bool) -> None:
    """ONNX Runtime's own fusions, by architecture. One that it has no fusions for keeps the plain graph: the session still optimises it at load."""
    import onnx
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model
    from optimum.utils import NormalizedConfigManager

    if config.model_type not in FUSED_AS_BERT:
        plain = onnx.load(str(unfused))
        _fold_constants(plain)
        save_graph(plain, path)
        return
    sizes = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    options = FusionOptions("bert")
    options.use_multi_head_attention = not whole_attention
    # The fused embedding is no faster (ratio 1.01 over 12 rounds), and hides the tables from the quantizers.
    options.enable_embed_layer_norm = False
    fused = optimize_model(
        str(unfused),
        model_type="bert",
        num_heads=sizes.num_attention_heads,
        hidden_size=sizes.hidden_size,
        opt_level=0,  # only the Python fusions: what the C++ optimiser writes depends on the machine it runs on
        optimization_options=options,
    )
    _last_layer_for_first_token(fused.model)
    save_graph(fused.model, path)


def _fold_constants(model: Any) -> None:
    """Compute what follows from constants alone, such as the amounts of a `Pad`, which the tracer writes as ten nodes."""
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made: dict[str, npt.NDArray[Any]] = {}
    left = []
    for node in graph.node:
        if all(name in known or not name for name in node.input):
            lone = onnx.helper.make_graph(
                [node],
                "lone",
                *([onnx.helper.make_tensor_value_info(n, 0, None) for n in names if n] for names in (node.input, node.output)),
            )
            evaluator = ReferenceEvaluator(onnx.helper.make_model(lone, opset_imports=model.opset_import))
            values = evaluator.run(None, {name: known[name] for name in node.input if name})
            made |= {name: np.asarray(value) for name, value in zip(node.output, values, strict=True)}
            known |= made
        else:
            left.append(node)
    graph.ClearField("node")
    graph.node.extend(left)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in made.items())
    _drop_unused(graph)


def works_on_first_token(graphs: Path) -> bool:
    """Whether an exported student does the work behind its last attention at the first token alone."""
    import onnx

    return any(tensor.name == FIRST_TOKEN[0] for tensor in onnx.load(str(graphs / "model.onnx")).graph.initializer)


def _last_layer_for_first_token(model: Any) -> None:
    """Let everything behind the last attention work on position 0 alone, when that is all that the classifier reads.

    The last layer needs keys and values of every token, but its output projection and feed-forward part act on each position by itself; all but
    the first are thrown away. Slicing the attention's output and its residual is exact, and saves most of a layer. A graph that reads other
    positions (mean pooling) or holds any operator that is not known to act by position is left as it is.
    """
    import onnx

    graph = model.graph
    attention = next((node for node in reversed(graph.node) if node.op_type in ("Attention", "MultiHeadAttention")), None)
    if attention is None:
        return
    constants = {tensor.name for tensor in graph.initializer} | {node.output[0] for node in graph.node if node.op_type == "Constant"}
    behind, sliced, readers = {attention.output[0]}, {attention.output[0]}, []
    first_token = None
    for node in list(graph.node)[list(graph.node).index(attention) + 1 :]:
        if not behind & set(node.input):
            continue
        if node.op_type == "Gather" and node.input[0] in behind:
            first_token = node
            break
        if node.op_type not in BY_POSITION:
            return
        readers.append(node)
        behind |= set(node.output)
        residuals = {name for name in node.input if name and name not in constants and name not in behind}
        if residuals and node.op_type not in ("SkipLayerNormalization", "Add"):
            return
        sliced |= residuals
    if first_token is None or not _takes_position_0(graph, first_token):
        return
    if any(node is not first_token and node not in readers and behind & set(node.input) for node in graph.node):
        return  # somebody else reads the other positions
    for name, value in zip(FIRST_TOKEN, (0, 1, 1), strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    slices = [
        onnx.helper.make_node("Slice", [name, *FIRST_TOKEN], [f"{name}_first"], name=f"first_token_{n}")
        for n, name in enumerate(sorted(sliced))
    ]
    for node in readers:
        node.input[:] = [f"{name}_first" if name in sliced else name for name in node.input]
    nodes = list(graph.node)
    place = nodes.index(attention) + 1
    graph.ClearField("node")
    graph.node.extend([*nodes[:place], *slices, *nodes[place:]])


def _takes_position_0(graph: Any, gather: Any) -> bool:
    import onnx

    axis = next((attribute.i for attribute in gather.attribute if attribute.name == "axis"), 0)
    values = {tensor.name: tensor for tensor in graph.initializer}
    values |= {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    index = values.get(gather.input[1])
    return axis == 1 and index is not None and not onnx.numpy_helper.to_array(index).any()


def torch_logits(model: Any, rows: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
    """The truth: every row alone, without padding, through torch. [classes], or [tokens, classes] where each token is answered."""
    import torch

    with torch.inference_mode():
        found = []
        for row in rows:
            ids = torch.tensor([row])
            found.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].numpy())
    return found


def _check(
    graph: Path, rows: Sequence[Sequence[int]], texts: Sequence[str], truth: Sequence[npt.NDArray[np.float32]], pad: int, tolerance: float
) -> float:
    """The largest error of `graph` on `rows`, alone and in padded batches. Raises ParityError above `tolerance` or at another answer."""
    try:
        opened = session(graph)
        padded = [logits for batch in batches(rows, pad) for logits in opened.run(None, batch)[0]]
        alone = [logits for batch in batches(rows, pad, size=1) for logits in opened.run(None, batch)[0]]
    except Exception as problem:
        raise StageError(f"ONNX Runtime cannot run the exported graph: {problem}.", where=str(graph)) from problem
    worst = 0.0
    for how, logits in (("in a padded batch", padded), ("alone", alone)):
        if truth[0].ndim == 2:  # answers by token: what stands on padding is no answer
            logits = [values[: len(right)] for values, right in zip(logits, truth, strict=True)]
        pairs = [*zip(logits, truth, strict=True)]
        errors = np.array([np.abs(values - right).max() for values, right in pairs])
        # Written so that NaN counts as wrong.
        wrong = ~(errors <= tolerance) | np.array([_another_answer(values, right, tolerance) for values, right in pairs])
        if wrong.any():
            first = int(wrong.argmax())
            raise ParityError(
                f"the exported graph differs from torch on {int(wrong.sum())} of {len(rows)} texts {how}; the first is {texts[first][:60]!r}: "
                f"logits {_short(logits[first])} instead of {_short(truth[first])}, error {errors[first]:.2e} where {tolerance:.2e} is allowed.",
                where=str(graph),
                write="This model's architecture cannot be exported faithfully with these versions; choose another student or teacher.",
            )
        worst = max(worst, float(errors.max()))
    return worst


def _another_answer(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], tolerance: float) -> bool:
    """Whether another output is the largest, where torch's is so by more than the tolerance."""
    if truth.shape[-1] == 1:
        return False
    top = np.sort(truth, axis=-1)
    clear = top[..., -1] - top[..., -2] > tolerance
    return bool((clear & (logits.argmax(axis=-1) != truth.argmax(axis=-1))).any())


def _short(logits: npt.NDArray[np.float32]) -> str:
    values = logits.ravel()
    return "[" + ", ".join(f"{value:.4g}" for value in values[:6]) + (", …]" if len(values) > 6 else "]")


def _count(graph: Path, op_type: str) -> int:
    import onnx

    return sum(node.op_type == op_type for node in onnx.load(str(graph)).graph.node)
