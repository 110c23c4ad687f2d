"""GGUF, llama.cpp's file format: what a file says of its rope and its tokenizer. Needs the ``gguf`` extra."""
