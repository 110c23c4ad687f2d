"""Tiny random models without a rope, as folders with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.tokenizers import byte_level

WINDOW = 32
SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {  # kind -> configuration, class, keys
    "bloom": ("BloomConfig", "BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "seq_length": WINDOW}),
    "bloom-6": ("BloomConfig", "BloomForCausalLM", {
        "hidden_size": 48, "n_layer": 2, "n_head": 6, "seq_length": WINDOW}),
    "mpt": ("MptConfig", "MptForCausalLM", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": WINDOW}),
    "mpt-6": ("MptConfig", "MptForCausalLM", {"d_model": 48, "n_layers": 2, "n_heads": 6, "max_seq_len": WINDOW}),
    "falcon": ("FalconConfig", "FalconForCausalLM", {
        **SIZE, "alibi": True, "multi_query": True, "max_position_embeddings": WINDOW}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": WINDOW}),
    "opt": ("OPTConfig", "OPTForCausalLM", {
        **SIZE, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": WINDOW}),
    "biogpt": ("BioGptConfig", "BioGptForCausalLM", {
        **SIZE, "intermediate_size": 64, "max_position_embeddings": WINDOW}),
    "gpt_neo": ("GPTNeoConfig", "GPTNeoForCausalLM", {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "window_size": 8, "max_position_embeddings": WINDOW}),
    "gpt_bigcode": ("GPTBigCodeConfig", "GPTBigCodeForCausalLM", {
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": WINDOW}),
    "t5": ("T5Config", "T5ForConditionalGeneration", {
        "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "n_positions": WINDOW,
        "decoder_start_token_id": 0}),
    "mt5": ("MT5Config", "MT5ForConditionalGeneration", {
        "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "n_positions": WINDOW,
        "decoder_start_token_id": 0}),
    "umt5": ("UMT5Config", "UMT5ForConditionalGeneration", {
        "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "n_positions": WINDOW,
        "decoder_start_token_id": 0}),
    "bart": ("BartConfig", "BartForConditionalGeneration", {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
        "max_position_embeddings": WINDOW}),
    "mamba2": ("Mamba2Config", "Mamba2ForCausalLM", {
        "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "falcon_mamba": ("FalconMambaConfig", "FalconMambaForCausalLM", {
        "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "mamba": ("MambaConfig", "MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
}  # fmt: skip
ALIBI, TABLES, T5 = ("bloom", "bloom-6", "mpt", "mpt-6", "falcon"), ("gpt2", "opt", "biogpt"), ("t5", "mt5", "umt5")
TWO_TABLES = ("bart",)  # an encoder's and a decoder's
STATES = ("mamba", "mamba2", "falcon_mamba")
BUFFERED = ("gpt_neo", "gpt_bigcode")  # tables beside masks of the window's size


def model(kind: str, **more: Any) -> Any:
    """A random one, in evaluation mode: with weights large enough for positions to be seen."""
    config, name, keys = KINDS[kind]
    made = getattr(transformers, config)(vocab_size=len(byte_level()), **keys | more)
    torch.manual_seed(0)
    live = getattr(transformers, name)(made).eval()
    with torch.no_grad():
        for weight in live.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    return live


def folder(place: Path, kind: str, **more: Any) -> Path:
    """A folder with one."""
    model(kind, **more).save_pretrained(place)
    byte_level().save_pretrained(place)
    return place


def ids(n: int, rows: int = 1) -> torch.Tensor:
    """Random tokens [rows, n]."""
    return torch.randint(5, 300, (rows, n), generator=torch.Generator().manual_seed(n))
