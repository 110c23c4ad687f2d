"""GGUF, llama.cpp's file format: read its rope, write it from a checkpoint, patch it. Needs the ``gguf`` extra."""
