"""GGUF, llama.cpp's file format: written from a checkpoint, or again with another rope. Needs the ``gguf`` extra."""
