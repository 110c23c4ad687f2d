"""GGUF, llama.cpp's file format: read its rope, write it from a checkpoint, patch it. Needs the ``gguf`` extra."""

from ropewalk.gguf.inspect import inspect_gguf
from ropewalk.gguf.patch import patch_gguf, set_keys
from ropewalk.gguf.read import read
from ropewalk.gguf.write import write_gguf

__all__ = ["inspect_gguf", "patch_gguf", "read", "set_keys", "write_gguf"]
