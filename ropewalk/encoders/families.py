"""Where encoders keep what they know of positions: a table with a row for each, a bias by distance, a rope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ropewalk.common.errors import UserError


@dataclass(frozen=True)
class Family:
    """Weights of one architecture, by the ends of their names.

    Attributes:
        table: holds a row for each position; empty if there is none.
        queries: projections of the queries, of which ``.weight`` and ``.bias`` are the parameters.
        bias: of logits, by distance; empty if there is none.
        first: row of position 0, where that is the same for all.
        behind_padding: positions begin behind the row of the padding token, ``pad_token_id``.
        tower: what names of its weights begin with, in a model that has others beside it.
        inside: keys under which the configuration speaks of it, in such a model; what stands under a later one counts.
        defaults: what transformers takes where the configuration says nothing under these keys.
        causal: a token reads those before it, and a text is pooled at its end token.
    """

    table: str = ""
    queries: str = ""
    bias: str = ""
    first: int = 0
    behind_padding: bool = False
    tower: str = ""
    inside: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    causal: bool = False

    def row(self, config: Mapping[str, Any]) -> int:
        """Row of position 0.

        Raises:
            UserError: if that depends on a padding token, and none is named.
        """
        if not self.behind_padding:
            return self.first
        padding = config.get("pad_token_id", 1)
        if not isinstance(padding, int) or isinstance(padding, bool) or padding < 0:
            raise UserError(
                f"config.json: pad_token_id is {padding!r}, expected the number of a token: positions begin behind it",
                "Restore the file from where the model came.",
            )
        return padding + 1


_BERT = Family("embeddings.position_embeddings.weight", "attention.self.query")
_ROBERTA = Family(_BERT.table, _BERT.queries, behind_padding=True)
_CLIP_DEFAULTS = {"max_position_embeddings": 77, "eos_token_id": 49407, "hidden_size": 512, "num_hidden_layers": 12}
_CLIP_TABLE, _CLIP_QUERIES = "embeddings.position_embedding.weight", "self_attn.q_proj"
_T5 = Family("", "SelfAttention.q", "block.0.layer.0.SelfAttention.relative_attention_bias.weight")

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "electra": _BERT,
    "albert": Family(_BERT.table, "attention.query"),
    "distilbert": Family(_BERT.table, "attention.q_lin"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": Family(_BERT.table, "attention.attn.q", "encoder.relative_attention_bias.weight", first=2),
    "t5": _T5,
    "mt5": _T5,
    "clip_text_model": Family(_CLIP_TABLE, _CLIP_QUERIES, causal=True),
    "clip": Family(_CLIP_TABLE, _CLIP_QUERIES, tower="text_model.", inside=("text_config", "text_config_dict"),
                   defaults=_CLIP_DEFAULTS, causal=True),
}  # fmt: skip

# Encoders that rotate: their ropes are read as those of language models are.
ROTATING = frozenset(
    "modernbert nomic_bert eurobert jina_embeddings_v3 gte embedding_gemma2 embedding_gemma2_text".split()
)
ROPE_KEYS = frozenset("rope_parameters rope_theta rope_scaling rotary_emb_base".split())  # of others that do

TABLE, ROPE, BIAS, UNKNOWN = "table", "rope", "bias", "unknown"  # what of an encoder decides how far it reads
