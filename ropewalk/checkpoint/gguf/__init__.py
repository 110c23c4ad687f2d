"""GGUF, llama.cpp's file format: what a file says of its rope, its tokenizer, its model. Needs the ``gguf`` extra."""
