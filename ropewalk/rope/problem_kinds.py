"""Every kind of problem that ``inspect`` reports: what is wrong, why it matters, and what its mend does."""

from __future__ import annotations

from dataclasses import dataclass

CONFIG, GGUF, BESIDE = "In a config.json", "In a GGUF file", "Beside the configuration"
ENCODER = "In an embedding model"
ROPELESS = "In a model without a rope"


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        code: its stable name.
        wrong: what is wrong.
        why: what comes of it.
        mend: what the printed line does.
        where: files that have it.
        stops: whether every verb but ``inspect`` refuses the model, as what a method starts from is not known.
    """

    code: str
    wrong: str
    why: str
    mend: str
    where: tuple[str, ...] = (CONFIG,)
    stops: bool = False


S = True
BOTH = (CONFIG, GGUF)
AGAIN = "Writes the file again with the rope of the checkpoint that it was made from."
ORIGIN = "None: only the checkpoint that the file was made from knows."
KINDS = {kind.code: kind for kind in (
    # The base
    Kind("rope-theta-missing", "No key says the base of the rope.",
         "Classes have different bases of their own; with a wrong one every frequency is wrong, at every length.",
         "Writes a base; put the model's own in its place.", stops=S),
    Kind("rope-theta-invalid", "The base is no number above 1, or a text.",
         "No frequency can be computed from it, or transformers stops.",
         "Writes the number that the text says, or a place for the model's own base.", stops=S),
    Kind("rope-theta-conflict", "Two keys say two bases.", "Which of them counts depends on the engine.",
         "Makes them one; a second line takes the other one.", stops=S),
    # The type
    Kind("rope-type-missing", "A rope dict has keys of a scaling, and names no type.",
         "No type is the type 'default': nothing is scaled, and the model is told that it is longer.",
         "Names the type that reads these keys.", stops=S),
    Kind("rope-type-unknown", "The type is misspelt, of an older name, or of other code.",
         "Engines refuse it, or take the plain rope without a word.", "Writes the type that is meant, if one is near.",
         stops=S),
    Kind("rope-type-conflict", "'type' and 'rope_type' name two types.", "Which of them counts depends on the engine.",
         "Makes 'type' say what 'rope_type' says.", stops=S),
    # Its numbers
    Kind("factor-invalid", "The factor is missing, below 1, no number, or llama3's two bounds are not in order.",
         "Lengths are multiplied by the factor and positions divided by it: an inverse shrinks the window.",
         "Writes the factor that the lengths say; where they do not, you must.", BOTH, S),
    Kind("beta-order", "YaRN's beta_fast is below beta_slow, or one of them is not above 0.",
         "The ramp between dimensions that are interpolated and those that are not is upside down.",
         "Writes YaRN's own: 32 and 1.", stops=S),
    Kind("factor-list-invalid", "LongRoPE's factors are missing, not one per rotated pair, or not above 0.",
         "Engines stop, or rotate by whatever they make of it.",
         "Writes a list of the right length, of ones; put the model's own factors there.", stops=S),
    Kind("attention-factor-invalid", "The attention factor is not a number above 0.", "Every logit is scaled by it.",
         "Writes 1.", stops=S),
    Kind("partial-rotary-invalid", "The share of a head that rotates is not above 0 and at most 1.",
         "It decides which dimensions rotate, and by how much.", "Writes 1.", stops=S),
    Kind("head-dim-missing", "YaRN or LongRoPE in a class that has no head_dim of its own, and the file says none.",
         "transformers computes these types from the key as it stands, and stops.",
         "Writes hidden_size / num_attention_heads.", stops=S),
    Kind("head-count-invalid", "Query heads are no multiple of key-value heads, or tensors have other numbers of them.",
         "The model cannot be made.", "None: the file is to be taken anew from where the model came.", BOTH, S),
    # Lengths
    Kind("original-length-missing", "A scaling that starts from the pretrained length, and no key says that length.",
         "transformers takes the extended length in its place, and scales from there.",
         "Writes the length divided by the factor.", BOTH, S),
    Kind("original-length-invalid", "The pretrained length is no number of tokens.", "The scaling starts from it.",
         "Writes the number that the text says, or a place for the model's own.", stops=S),
    Kind("length-contradicts-factor", "The length is not the pretrained length times the factor.",
         "Engines differ in which of the three they go by, so the same file has two windows.",
         "Writes the length that the factor is for.", BOTH, S),
    Kind("length-contradicted", "Another key of the file says another length.",
         "A window that is promised too long is read without a warning; one too short wastes what was trained.",
         "Makes the smaller one the larger; the remark says how to do the opposite."),
    Kind("length-ambiguous", "Linear scaling, and nothing says whether the stated length is before or after it.",
         "Both readings are common, and differ by the factor.",
         "Says the reading that is taken here; the remark says the other."),
    # Keys
    Kind("key-misspelt", "A key that nobody reads, spelled like one that decides the rope or the length.",
         "The class's own value counts in its place, unsaid.", "Writes the value under the right key.", stops=S),
    Kind("keys-outside", "A key of the language model beside 'text_config' and not in it.", "There nobody reads it.",
         "Moves it inside.", stops=S),
    Kind("two-rope-dicts-disagree", "'rope_parameters' and 'rope_scaling' say two things.",
         "transformers 5 reads the first, transformers 4 and some engines the second.", "Removes 'rope_scaling'.",
         stops=S),
    Kind("rope-not-nested", "One rope dict for all layers, in an architecture with one per type of layer.",
         "Sliding layers would get the rope of the others.", "Writes one dict per type.", stops=S),
    Kind("rope-unused", "A scaling in the file of a model that does not rotate.", "It does nothing.", "Removes it."),
    # M-RoPE
    Kind("mrope-section-missing", "No key says which pairs turn with time, height and width, in a model of pictures.",
         "transformers takes its class's own division, which may be another; other engines take one position for all.",
         "Writes the class's own; put the model's there."),
    Kind("mrope-section-invalid", "The pairs for time, height and width are not three numbers that sum to those that "
         "rotate, or not what the class can give each.",
         "The first forward fails, vLLM stops, or a picture is rotated otherwise than the file says.",
         "Writes what the class rotates by; where that is not known, its own, for you to replace.", stops=S),
    Kind("mrope-layout-contradicted", "'mrope_interleaved' says another layout than the class in transformers has.",
         "transformers does not read it; vLLM and SGLang do, and rotate pictures otherwise.",
         "Makes it say what the class does."),
    # What is well-formed, and not the same everywhere
    Kind("sliding-layer-scaled", "Layers that never look past their window are scaled.",
         "Their distances do not grow with the text, so that scaling only blurs them.", "Leaves their rope plain."),
    Kind("dynamic-scaling", "The type 'dynamic', whose base grows with the text.",
         "transformers keeps keys that an earlier base rotated; vLLM and SGLang take one fixed table.",
         "Extends the model by a base that is fixed at the target."),
    Kind("longrope-switch", "LongRoPE with other factors for short texts than for long ones.",
         "A generation that crosses the pretrained length mixes two rotations in its cache.",
         "Makes both sets the long one."),
    Kind("attention-factor-ignored", "An attention factor under a key that another engine does not read.",
         "That engine scales its logits otherwise: same weights, other answers.", "Adds the key that it reads."),
    Kind("dual-chunk-not-served", "The configuration asks for Dual Chunk Attention.",
         "vLLM has removed it and SGLang has no backend for it: they refuse the model.", "Removes the key."),
    # Of a GGUF file alone
    Kind("freq-base-missing", "No base, and a length for which llama.cpp's 10,000 is too small.",
         "llama.cpp rotates by 10,000.", AGAIN, (GGUF,), S),
    Kind("scaling-type-missing", "A factor without a type.", "llama.cpp takes linear scaling.",
         "Writes linear; or yarn, if that was meant.", (GGUF,), S),
    Kind("scaling-type-unknown", "A type that llama.cpp does not know.", "It stops.", AGAIN, (GGUF,), S),
    Kind("factors-missing", "A scaling that needs factors per dimension, and the tensor is not there.",
         "llama.cpp rotates as the model that was not extended.", AGAIN, (GGUF,), S),
    Kind("factors-not-used", "Factors per dimension in an architecture where llama.cpp rotates without them.",
         "It computes another model than the checkpoint.", AGAIN, (GGUF,)),
    Kind("yarn-ext-factor", "YaRN's yarn_ext_factor holds the factor of the extension.",
         "It is the share of YaRN's ramp that is used, from 0 to 1.", "Writes 1.", (GGUF,), S),
    Kind("attention-factor-unread", "An attention factor under a key that llama.cpp does not read here.",
         "It scales its logits otherwise.", "Moves it to the key that it reads.", (GGUF,), S),
    Kind("beta-unread", "YaRN's betas in an architecture where llama.cpp does not read them.",
         "It takes 32 and 1.", "Removes the key, so that the file says what is computed; or gives the flag.",
         (GGUF,), S),
    Kind("key-not-understood", "A key that llama.cpp passes over here, or a value that transformers has no model for.",
         "It is computed without, or not at all.", "Removes the key; what was meant, only the checkpoint knows.",
         (GGUF,), S),
    Kind("block-count-invalid", "The number of layers is not that of the tensors.", "The model cannot be made.", ORIGIN,
         (GGUF,), S),
    Kind("differs-from-checkpoint", "The rope is not that of the checkpoint given by --against.",
         "The file computes another model.", AGAIN, (GGUF,)),
    # Beside the configuration
    Kind("tokenizer-shorter", "The tokenizer's limit is below the extended length.",
         "Texts are cut, or warned about, at the old length.", "Raises the limit.", (BESIDE,)),
    Kind("record-contradicted", "The rope is not the one that ropewalk noted when it extended the model.",
         "Somebody changed one and not the other; the next extension would start from a wrong rope.",
         "Restores what ropewalk wrote; or forgets the note, if the change is meant.", (BESIDE,), S),
    Kind("rope-not-written", "The weights were trained with a rope that needs code, which no configuration can say.",
         "Read without it, the model rotates otherwise than in its training.",
         "Gives the line that measures or serves it with that rope.", (BESIDE,)),
    # Embedding models
    Kind("cut-behind-the-table", "Texts are cut at more tokens than the table of positions has rows.",
         "A text that is longer than the table ends in an error. In RoBERTa's the first rows are for padding, so it "
         "has two positions less than its configuration says.", "Writes the number of rows.", (ENCODER,), S),
    Kind("table-of-other-length", "The configuration says another number of positions than the table has rows.",
         "It cannot be loaded; or is, and without its table.", "Writes the number of rows.", (ENCODER,), S),
    Kind("limit-invalid", "What says where texts are cut is no number of tokens.",
         "sentence-transformers stops, or cuts texts at their beginning, or not at all.",
         "Writes the window, or removes the key where there is none.", (ENCODER,), S),
    Kind("weights-lacking", "Tensors of the encoder are not in its weights, or under other names.",
         "transformers fills them with random numbers: every vector is one by chance, and another at the next start.",
         "None: the weights are to be taken anew from where the model came.", (ENCODER,), S),
    Kind("two-tables", "The weights hold several tables of positions.", "Which one is read is not known here.",
         "None: the weights are to be taken anew from where the model came.", (ENCODER,), S),
    Kind("tokenizer-missing", "No file of a tokenizer lies beside the encoder.",
         "transformers makes one without words: every text is read as unknown tokens.",
         "None: the tokenizer's files are to be put there from where the model came.", (ENCODER,), S),
    Kind("pooled-elsewhere", "The configuration of CLIP names another end token than the tokenizer writes.",
         "A text is pooled at a token that does not end it, or at its first one, without an error. Where it names 2, "
         "as older ones do, texts are pooled at their highest id, which a token that was added can be.",
         "Names the tokenizer's end token; none where that is 2: the model's own tokenizer is to be put there.",
         (ENCODER,), S),
    # Of models that write, and have no rope
    Kind("alibi-unread", "The configuration of MPT says other slopes than transformers' code has.",
         "transformers computes slopes for a bound of 8, without a word: distances weigh otherwise than in training.",
         "None with transformers: the code that the model came with reads the key.", (ROPELESS,), S),
    Kind("rows-contradict", "The configuration says another number of positions, or buckets, than there are rows.",
         "It cannot be loaded; or is, and with random rows.", "Writes the number of rows.", (ROPELESS,), S),
)}  # fmt: skip
