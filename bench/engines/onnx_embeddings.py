"""A longer embedding model as ONNX: its vectors, by optimum and onnxruntime, against those of its folder by torch.

    python -m venv ONNX && ONNX/bin/pip install 'optimum-onnx[onnxruntime]' sentence-transformers
    ONNX/bin/python bench/engines/onnx_embeddings.py FOLDER

An environment of its own, since optimum-onnx 0.1.0 wants transformers 4: so the folder is read by that version as well.
Nothing of ropewalk is imported. It ends with 1 if vectors are further apart than 1e-5.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import numpy as np
from sentence_transformers import SentenceTransformer

SENTENCE = "The rope of the harbour is long, and older than the pier that it lies on. "
EQUAL = 1e-5


def main(folder: str) -> int:
    stock = SentenceTransformer(folder, device="cpu")
    onnx = SentenceTransformer(folder, device="cpu", backend="onnx", model_kwargs={"export": True})
    texts = [SENTENCE, SENTENCE * 20, SENTENCE * 400]  # the last one is cut
    ours, theirs = (model.encode(texts, show_progress_bar=False) for model in (stock, onnx))
    off = float(np.abs(ours - theirs).max())
    packages = ("transformers", "sentence-transformers", "optimum-onnx", "onnxruntime", "torch")
    print(json.dumps({"reads": onnx.max_seq_length, "off": off, **{name: version(name) for name in packages}}))
    return int(not off < EQUAL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
