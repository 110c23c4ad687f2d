"""One position encoding per file."""
