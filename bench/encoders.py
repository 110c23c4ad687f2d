"""Reading long texts by an embedding model that was extended in code, against its folder in sentence-transformers.

    python bench/encoders.py [--model FOLDER] [--quick] --json FILE

The peer is stock: ``SentenceTransformer`` on the folder that ``ropewalk extend`` wrote, with attention as it comes.
Ours reads the same token ids with the table put on the live model. Both in this process, in alternation, one text at a
time; vectors must be equal. Without a folder, a random BERT of the size of all-MiniLM-L6-v2. ``ratio`` is ours / peer,
of the least seconds of all rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common.row import row
from sentence_transformers import SentenceTransformer

sys.path.insert(0, str(Path(__file__).parent.parent))

from ropewalk.common.whole import write_text
from ropewalk.encoders.encoder import Encoder
from ropewalk.encoders.encoder_extension import extend_encoder
from ropewalk.encoders.encoder_folder import EncoderFolder
from ropewalk.encoders.encoder_method import encoder_methods
from ropewalk.encoders.extended_encoder import ExtendedEncoder

TARGET = 4096
LENGTHS = (1024, 2048, 4096)
METHODS = ("recurrent", "pi")
EQUAL = 1e-5


def made(place: Path) -> Path:
    """A random BERT of all-MiniLM-L6-v2's size, with a tokenizer of letters."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    place.mkdir()
    letters = [chr(code) for code in range(97, 123)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *(f"##{one}" for one in letters)]
    vocabulary = place / "vocab.txt"
    vocabulary.write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(vocabulary), model_max_length=512)
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def measured(folder: Path, lengths: tuple[int, ...], rounds: int) -> list[dict[str, object]]:
    found = []
    source = EncoderFolder.open(folder)
    encoder = Encoder(str(folder))
    for spelling in METHODS:
        methods = encoder_methods(spelling)
        with tempfile.TemporaryDirectory() as temporary:
            done = extend_encoder(source, TARGET, methods, Path(temporary) / "out")
            stock = SentenceTransformer(str(done.folder))
        extended = ExtendedEncoder(encoder, source, methods, TARGET)
        for length in lengths:
            room = length - sum(map(len, encoder.around))
            text = "a " * room
            ids = encoder.ids(text)[:room]
            seconds: dict[str, list[float]] = {"ours": [], "peer": []}
            for turn in range(rounds + 1):
                begun = time.perf_counter()
                ours = extended.vectors(ids)[0]
                middle = time.perf_counter()
                peer = stock.encode([text], show_progress_bar=False)[0]
                ended = time.perf_counter()
                if turn:  # the first round warms both up
                    seconds["ours"].append(middle - begun)
                    seconds["peer"].append(ended - middle)
            peer = peer / np.linalg.norm(peer)
            off = float(np.abs(ours - peer).max())
            if off > EQUAL:
                raise SystemExit(f"{spelling} at {length}: vectors are {off:.1e} apart")
            name = f"a text of {length} tokens under {spelling}, against its folder in sentence-transformers"
            ours_s, peer_s = min(seconds["ours"]), min(seconds["peer"])
            found.append(row(name, ours_s, peer_s, "s", rounds, model=folder.name, off=off))
            print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder with a table of positions")
    parser.add_argument("--quick", action="store_true", help="the shortest length, two rounds")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.model or made(Path(temporary) / "bert")
        rows = measured(folder, LENGTHS[: 1 if given.quick else None], 2 if given.quick else 5)
    write_text(given.json, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
