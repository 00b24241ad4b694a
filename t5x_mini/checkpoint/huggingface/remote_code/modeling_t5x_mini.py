"""A decoder-only T5-style language model, as t5x_mini trains them, in PyTorch for transformers' `generate`.

What differs from most language models: RMSNorm before each sublayer and no biases; attention without 1/sqrt(head_dim);
a learned bias for each relative distance instead of position embeddings; and a row begins with 0, T5's padding, which
the tokenizer of the same folder puts there. A prefix LM's prompt sees itself in both directions.
"""

import math

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_t5x_mini import T5XMiniConfig

ACTIVATIONS = {
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "linear": lambda x: x,
    "relu": functional.relu,
    "silu": functional.silu,
}


class RMSNorm(nn.Module):
    """No mean, no bias; statistics in float32."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
        return y.to(self.weight.dtype) * self.weight


class RelativePositionBias(nn.Embedding):
    """A bias for each head and bucket of distance; what comes after a query counts as distance 0."""

    def __init__(self, config: T5XMiniConfig):
        super().__init__(config.relpos_buckets, config.num_heads)
        self.max_distance = config.relpos_max_distance

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        """`[queries, keys]` of query minus key positions to `[heads, queries, keys]`."""
        exact, buckets = self.num_embeddings // 2, self.num_embeddings
        distance = distance.clamp(min=0)
        ratio = torch.log(distance.float() / exact + torch.finfo(torch.float32).eps) / math.log(
            self.max_distance / exact
        )
        far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
        return super().forward(torch.where(distance < exact, distance, far)).permute(2, 0, 1)


class Attention(nn.Module):
    def __init__(self, config: T5XMiniConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim, self.dropout_rate = layer, config.head_dim, config.dropout_rate
        joined = config.num_heads * config.head_dim
        self.query = nn.Linear(config.emb_dim, joined, bias=False)
        self.key = nn.Linear(config.emb_dim, joined, bias=False)
        self.value = nn.Linear(config.emb_dim, joined, bias=False)
        self.out = nn.Linear(joined, config.emb_dim, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        scores = (query @ key.transpose(2, 3)).float() + bias.float()
        # A finite number, so that a row that sees nothing (padding) does not become NaN.
        weights = scores.masked_fill(~mask, -1e10).softmax(-1).to(value.dtype)
        weights = functional.dropout(weights, self.dropout_rate, self.training)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: T5XMiniConfig):
        super().__init__()
        count, self.dropout_rate = len(config.mlp_activations), config.dropout_rate
        self.activations = dict(
            zip(["wi"] if count == 1 else [f"wi_{i}" for i in range(count)], config.mlp_activations, strict=True)
        )
        for name in self.activations:
            setattr(self, name, nn.Linear(config.emb_dim, config.mlp_dim, bias=False))
        self.wo = nn.Linear(config.mlp_dim, config.emb_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = math.prod(
            ACTIVATIONS[activation](getattr(self, name)(x)) for name, activation in self.activations.items()
        )
        return self.wo(functional.dropout(hidden, self.dropout_rate, self.training))


class Layer(nn.Module):
    def __init__(self, config: T5XMiniConfig, layer: int):
        super().__init__()
        if config.relpos_bias_per_layer:
            self.relpos_bias = RelativePositionBias(config)
        self.pre_self_attention_layer_norm = RMSNorm(config.emb_dim)
        self.self_attention = Attention(config, layer)
        self.pre_mlp_layer_norm = RMSNorm(config.emb_dim)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        x = x + self.dropout(self.self_attention(self.pre_self_attention_layer_norm(x), mask, bias, cache))
        return x + self.dropout(self.mlp(self.pre_mlp_layer_norm(x)))


class T5XMiniForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = T5XMiniConfig
    _no_split_modules = ["Layer"]

    def __init__(self, config: T5XMiniConfig):
        super().__init__(config)
        self.token_embedder = nn.Embedding(config.vocab_size, config.emb_dim)
        if not config.relpos_bias_per_layer:
            self.relpos_bias = RelativePositionBias(config)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_layers))
        self.decoder_norm = RMSNorm(config.emb_dim)
        if not config.tie_word_embeddings:
            self.logits_dense = nn.Linear(config.emb_dim, config.vocab_size, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.token_embedder

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.token_embedder = value

    def get_output_embeddings(self) -> nn.Module | None:
        """None where the head is the embedding: then there is nothing to tie, and one tensor to save."""
        return getattr(self, "logits_dense", None)

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.logits_dense = value

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        prefix_length: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits of the token after each position.

        Args:
            input_ids: `[batch, length]`, each row beginning with 0 in front of its text.
            attention_mask: `[batch, cached + length]`, 1 on tokens (the 0 in front is one) and 0 on padding, which
                stands left or right of them. None: `tokens_of(input_ids)`, and all that is cached.
            prefix_length: `[batch]`, of a prefix LM: how many tokens of each row, from its first on, see each other in
                both directions: inputs and the 0 in front, as targets follow. None: those before the first label, or
                without labels all of the first call's, and none that come to a cache. A causal LM does not read it.
            past_key_values: keys and values of the tokens before `input_ids`.
            labels: `[batch, length]`, the tokens of `input_ids` themselves with -100 where there is no loss.
            use_cache: make a cache where `past_key_values` is None.
            output_hidden_states: also return what goes into each layer, and the normalised output of the last.
            logits_to_keep: the last so many positions' logits; 0: all.
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        start = 0 if past_key_values is None else past_key_values.get_seq_length()
        positions = torch.arange(start + input_ids.shape[1], device=input_ids.device)
        if past_key_values is not None and past_key_values.is_compileable:
            raise ValueError("This model needs a cache that grows: leave `cache_implementation` at its default.")
        if attention_mask is None:
            attention_mask = functional.pad(tokens_of(input_ids), (start, 0), value=1)
        if prefix_length is None and labels is not None:
            prefix_length = (attention_mask.bool() & (labels.ne(-100).cumsum(-1) == 0)).sum(-1)
        mask = self._visible(attention_mask.bool(), prefix_length, start)
        distance = positions[start:, None] - positions[None, :]
        shared_bias = None if self.config.relpos_bias_per_layer else self.relpos_bias(distance)

        x = self.dropout(self.token_embedder(input_ids))
        hidden_states = []
        for layer in self.layers:
            hidden_states.append(x)
            bias = layer.relpos_bias(distance) if shared_bias is None else shared_bias
            x = layer(x, mask, bias, past_key_values)
        x = self.dropout(self.decoder_norm(x))
        hidden_states.append(x)

        logits = self._logits(x[:, -logits_to_keep:])
        return CausalLMOutputWithPast(
            loss=None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs),
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )

    def generate(self, inputs: torch.Tensor | None = None, *args, **kwargs):
        """transformers' `generate`; `inputs` (or `input_ids`) are prompts that begin with 0, padded on the left."""
        prompts = kwargs.get("input_ids", inputs)
        if prompts is not None:
            # transformers would take the 0 in front for padding; and without a cache a prefix has to be known later on.
            mask = kwargs.setdefault("attention_mask", tokens_of(prompts))
            if self.config.architecture == "prefix_lm":
                kwargs.setdefault("prefix_length", mask.sum(-1))
        return super().generate(inputs, *args, **kwargs)

    def _visible(self, is_token: torch.Tensor, prefix_length: torch.Tensor | None, start: int) -> torch.Tensor:
        """Which of all keys the queries from `start` on may see: `[batch, 1, queries, keys]`."""
        keys = torch.arange(is_token.shape[1], device=is_token.device)
        visible = (keys[start:, None] >= keys[None, :])[None]
        if self.config.architecture == "prefix_lm":
            in_prefix = is_token & (start == 0)
            if prefix_length is not None:
                if start == 0 and (prefix_length > is_token.sum(-1)).any():
                    raise ValueError("A prefix LM reads its prefix in one call: leave `prefill_chunk_size` out.")
                in_prefix = is_token & (is_token.cumsum(-1) <= prefix_length[:, None])
            visible = visible | (in_prefix[:, start:, None] & in_prefix[:, None, :])
        return (visible & is_token[:, None, :])[:, None]

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        if self.config.tie_word_embeddings:
            return functional.linear(x, self.token_embedder.weight) * self.config.emb_dim**-0.5
        return self.logits_dense(x)


def tokens_of(input_ids: torch.Tensor) -> torch.Tensor:
    """1 on the tokens of each row and 0 on its padding: all that isn't 0, and the 0 in front of the first of them."""
    is_text = input_ids.ne(0)
    is_text[:, -1] |= ~is_text.any(-1)  # a row of nothing but the 0 in front
    return (is_text | functional.pad(is_text[:, 1:], (0, 1))).long()
