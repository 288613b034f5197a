"""The architectures that are edgedistill's own: one or few convolutions over sub-words, and a bag of sub-words.

Both are real transformers models: they save, load, train and export through the Auto classes like any BERT, under a `model_type` of their own. They are
registered when this module is imported, which `models.py` does on first use; nothing of them is code in a model folder.

They are written for budgets of microseconds, in which every node of the graph counts (a node of ONNX Runtime costs about a microsecond before it
computes anything). So a convolution is one product over shifted copies set side by side, which every quantizer knows as a `MatMul`; the rectifier makes
features that are never negative, so one multiplication with the mask serves the mean, the maximum and the next layer; and no node transposes.

Whatever stands at masked positions is multiplied away before anything reads it, so padding never changes an answer.

Sources: convolutions with pooling over time for sentences, arXiv:1408.5882 (Kim); max and mean pooling side by side, arXiv:1803.11175; bags of
embeddings with n-grams, arXiv:1607.01759 (fastText).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput, TokenClassifierOutput


class ConvConfig(PretrainedConfig):  # type: ignore[misc]  # transformers carries no types
    """embedding_size: width of the token table. hidden_size: channels of each convolution. kernel_size: tokens that one looks at, odd.

    num_hidden_layers: convolutions; each after the first adds to what it reads. classifier_width: hidden width of the head, 0 for a linear one.
    """

    model_type = "edgedistill_conv"

    vocab_size: int = 30522
    embedding_size: int = 128
    hidden_size: int = 256
    kernel_size: int = 3
    num_hidden_layers: int = 1
    classifier_width: int = 0
    hidden_dropout_prob: float = 0.1
    pad_token_id: int | None = 0


class StaticConfig(PretrainedConfig):  # type: ignore[misc]
    """hidden_size: width of the token table. ngrams: rows of the table of hashed pairs, 0 for none. classifier_width: as in ConvConfig."""

    model_type = "edgedistill_static"

    vocab_size: int = 30522
    hidden_size: int = 128
    ngrams: int = 0
    classifier_width: int = 128
    num_hidden_layers: int = 0
    hidden_dropout_prob: float = 0.1
    pad_token_id: int | None = 0


class _Small(PreTrainedModel):  # type: ignore[misc]
    """What both share: how weights begin, and where the token table is."""

    base_model_prefix = "encoder"

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)

    def get_input_embeddings(self) -> nn.Embedding:
        encoder: Any = getattr(self, "encoder", self)
        table: nn.Embedding = encoder.embeddings
        return table

    def set_input_embeddings(self, table: nn.Embedding) -> None:
        encoder: Any = getattr(self, "encoder", self)
        encoder.embeddings = table


def _kept(input_ids: Tensor, attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """1 for real tokens and 0 for padding, [rows, tokens, 1]."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return mask.unsqueeze(-1).to(dtype)


def _pooled(hidden: Tensor, kept: Tensor) -> Tensor:
    """Maximum and mean over the real tokens, [rows, 2 · width]. `hidden` is 0 at padding and never negative elsewhere."""
    return torch.cat([hidden.amax(dim=1), hidden.sum(dim=1) / kept.sum(dim=1)], dim=-1)


def _head(width: int, config: Any) -> nn.Module:
    if not config.classifier_width:
        return nn.Sequential(nn.Dropout(config.hidden_dropout_prob), nn.Linear(width, config.num_labels))
    return nn.Sequential(
        nn.Dropout(config.hidden_dropout_prob),
        nn.Linear(width, config.classifier_width),
        nn.ReLU(),
        nn.Linear(config.classifier_width, config.num_labels),
    )


class Convolution(nn.Module):
    """A convolution over tokens as one product: the `kernel` neighbours of each token side by side, times one weight matrix; then ReLU."""

    def __init__(self, width: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.dense = nn.Linear(width * kernel, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        reach = self.kernel // 2
        if not reach:
            return functional.relu(self.dense(hidden))
        padded = functional.pad(hidden, (0, 0, reach, reach))
        last = self.kernel - 1
        # Negative ends: a length that was taken from the example would stay in the exported graph.
        shifted = [hidden if place == reach else padded[:, place : place - last or None] for place in range(self.kernel)]
        return functional.relu(self.dense(torch.cat(shifted, dim=-1)))


class ConvModel(_Small):
    """Sub-word embeddings and convolutions. `pooler_output` is the sentence's embedding, [rows, 2 · hidden_size]."""

    config_class = ConvConfig

    def __init__(self, config: ConvConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        widths = [config.embedding_size] + [config.hidden_size] * config.num_hidden_layers
        self.layers = nn.ModuleList(
            Convolution(width, config.hidden_size, config.kernel_size) for width in widths[: config.num_hidden_layers]
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False, **_: Any) -> Any:
        kept = _kept(input_ids, attention_mask, self.embeddings.weight.dtype)
        hidden = self.dropout(self.embeddings(input_ids)) * kept
        states = [hidden]
        for number, layer in enumerate(self.layers):
            new = layer(hidden)
            hidden = (hidden + new if number else new) * kept
            states.append(hidden)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=_pooled(hidden, kept),
            hidden_states=tuple(states) if output_hidden_states else None,
        )


class StaticModel(_Small):
    """A bag of sub-words and, with `ngrams`, of pairs of neighbours. `pooler_output` is the sentence's embedding, [rows, 2 · hidden_size].

    A learned weight a token needs no table of its own: a weight times a row is another row.
    """

    config_class = StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.ngrams:
            self.pairs = nn.Embedding(config.ngrams, config.hidden_size)
        self.bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False, **_: Any) -> Any:
        kept = _kept(input_ids, attention_mask, self.embeddings.weight.dtype)
        found = self.embeddings(input_ids)
        if self.config.ngrams:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            ids = input_ids * mask  # a pair with padding is the same pair whatever the padding is
            following = functional.pad(ids, (0, 1))[:, 1:]
            found = found + self.pairs((ids * HASH + following) % self.config.ngrams)
        hidden = functional.relu(self.dropout(found) + self.bias) * kept
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=_pooled(hidden, kept),
            hidden_states=(hidden,) if output_hidden_states else None,
        )


HASH = 40503  # Knuth's multiplier for 16 bits: odd, near 2¹⁶ divided by the golden ratio, so neighbouring ids land far apart


class _ForSequenceClassification(_Small):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = ConvModel(config) if isinstance(config, ConvConfig) else StaticModel(config)
        self.classifier = _head(2 * config.hidden_size, config)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        found = self.encoder(input_ids, attention_mask, **options)
        return SequenceClassifierOutput(logits=self.classifier(found.pooler_output), hidden_states=found.hidden_states)


class ConvForSequenceClassification(_ForSequenceClassification):
    config_class = ConvConfig


class StaticForSequenceClassification(_ForSequenceClassification):
    config_class = StaticConfig


class ConvForTokenClassification(_Small):
    """A head on every token, [rows, tokens, labels]."""

    config_class = ConvConfig

    def __init__(self, config: ConvConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = ConvModel(config)
        self.classifier = _head(config.hidden_size, config)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        found = self.encoder(input_ids, attention_mask, **options)
        return TokenClassifierOutput(logits=self.classifier(found.last_hidden_state), hidden_states=found.hidden_states)


class SentenceEncoder:
    """For transformers' own encoders and for ours: a model whose `logits` are the text's vector of length 1, float [rows, config.num_labels].

    The tokens' vectors are pooled as `config.pooling` says ("mean", "cls" or "max"; sentence-transformers, arXiv:1908.10084, §3), ours as they
    always are, then a linear map gives as many numbers as are wanted. Where that is as many as there were it begins as the identity, so that a
    ready-made encoder stays what it is. There is a class for each architecture, under the names that its other heads have, so that their
    checkpoints load.
    """

    embeds = True  # what the losses take for the embedding is what it gives

    @staticmethod
    def from_pretrained(folder: Any, *, config: Any = None, **options: Any) -> Any:
        if config is None:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        kind: type = type(config)
        return sentence_encoder(kind).from_pretrained(folder, config=config, **options)

    @staticmethod
    def from_config(config: Any) -> Any:
        kind: type = type(config)
        return sentence_encoder(kind)(config)


@cache
def sentence_encoder(config_class: type) -> Any:
    """The class for one architecture."""
    base = MODEL_MAPPING[config_class]
    base = base[0] if isinstance(base, tuple) else base
    parent: Any = next(one for one in base.__mro__[1:] if issubclass(one, PreTrainedModel))
    prefix: str = base.base_model_prefix

    class Encoder(parent):  # type: ignore[misc]
        embeds = True

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.num_labels = config.num_labels
            encoder = base(config)
            if hasattr(encoder, "pooler"):
                encoder.pooler = None  # made for another training task, and read by nothing here
            setattr(self, prefix, encoder)
            if config.model_type in OWN:
                self.dense: nn.Module = _head(2 * config.hidden_size, config)
            else:
                self.dense = nn.Linear(config.hidden_size, config.num_labels)
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            if module is getattr(self, "dense", None) and isinstance(module, nn.Linear):
                (nn.init.eye_ if module.in_features == module.out_features else nn.init.orthogonal_)(module.weight)
                nn.init.zeros_(module.bias)
            else:
                super()._init_weights(module)

        def get_input_embeddings(self) -> Any:
            return getattr(self, prefix).get_input_embeddings()

        def set_input_embeddings(self, table: Any) -> None:
            getattr(self, prefix).set_input_embeddings(table)

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
            found = getattr(self, prefix)(input_ids=input_ids, attention_mask=attention_mask, **options)
            if self.config.model_type in OWN:
                pooled = found.pooler_output
            else:
                hidden = found.last_hidden_state
                pooled = _sentence(hidden, _kept(input_ids, attention_mask, hidden.dtype), getattr(self.config, "pooling", "mean"))
            return SequenceClassifierOutput(logits=functional.normalize(self.dense(pooled), dim=-1), hidden_states=found.hidden_states)

    Encoder.__name__ = Encoder.__qualname__ = "SentenceEncoder"
    return Encoder


def _sentence(hidden: Tensor, kept: Tensor, pooling: str) -> Tensor:
    """One vector a text, [rows, width], of one a token."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "max":
        return (hidden - (1 - kept) * 1e4).amax(dim=1)
    return (hidden * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


OWN = frozenset({ConvConfig.model_type, StaticConfig.model_type})

for config, base, classifier in (
    (ConvConfig, ConvModel, ConvForSequenceClassification),
    (StaticConfig, StaticModel, StaticForSequenceClassification),
):
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, base, exist_ok=True)
    AutoModelForSequenceClassification.register(config, classifier, exist_ok=True)
    AutoTokenizer.register(config, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True)
AutoModelForTokenClassification.register(ConvConfig, ConvForTokenClassification, exist_ok=True)
