"""Strategies that read more than a window holds, by asking a language model several times."""
