"""GGUF, llama.cpp's file format: read its rope, write it from a checkpoint, patch it. Needs the ``gguf`` extra."""

from ropewalk.engines.gguf.from_gguf import read
from ropewalk.engines.gguf.patch import patch_gguf, set_keys
from ropewalk.engines.gguf.summary import inspect_gguf
from ropewalk.engines.gguf.to_gguf import write_gguf

__all__ = ["inspect_gguf", "patch_gguf", "read", "set_keys", "write_gguf"]
