"""Both ways between ropewalk and lm-evaluation-harness: our backends as its model, our tasks as its tasks.

    lm_eval.simple_evaluate(model=as_lm(backend), tasks=["lambada_openai", as_task("niah", backend, 4096)])

Needs the extra ``eval``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.common.extras import install
from ropewalk.evaluation.samples import cells
from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening

if TYPE_CHECKING:
    from ropewalk.backends.backend import Backend

ROOM = 256  # tokens of an answer whose length a task does not limit
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def _harness() -> Any:
    try:
        import lm_eval.api.instance
        import lm_eval.api.model
        import lm_eval.api.task
    except ImportError:
        raise UserError("the bridge needs lm-evaluation-harness", install("eval")) from None
    return lm_eval


def as_lm(backend: Backend) -> Any:
    """A backend as a model of lm-evaluation-harness (``lm_eval.api.model.LM``).

    Raises:
        UserError: if lm-evaluation-harness is missing.
    """

    class RopewalkLM(_harness().api.model.LM):  # type: ignore[misc]
        """Requests go to the backend all at once, so that it can share their prefixes."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return backend.loglikelihood([pair(backend.tokenizer, *one.args) for one in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            rows = [_begin(backend.tokenizer) + token_ids(one.args[0], backend.tokenizer) for one in requests]
            found = dict(backend.rolling(rows))
            return [-float(found[i].sum()) for i in range(len(rows))]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            options = [one.args[1] for one in requests]
            if any(option.get("do_sample") for option in options):
                raise UserError("ropewalk decodes greedily", "Leave do_sample out of the task's generation_kwargs.")
            begin = opening(backend.tokenizer)
            prompts = [begin + token_ids(one.args[0], backend.tokenizer) for one in requests]
            rooms = [int(option.get("max_gen_toks") or ROOM) for option in options]
            texts = backend.generate(prompts, rooms)
            return [_until(text, option.get("until") or []) for text, option in zip(texts, options, strict=True)]

    return RopewalkLM()


def as_task(name: str, backend: Backend, length: int, samples: int = 50, seed: int = 0) -> Any:
    """One of our tasks at one length as a task of lm-evaluation-harness; its metric is "score", 0 to 1.

    Prompts go as text, so that any model of the harness can be asked; other tokenizers give other lengths.

    Raises:
        UserError: if there is no such task, it does not fit the length, or lm-evaluation-harness is missing.
    """
    harness = _harness()
    found, skipped = cells([name], [length], samples, DEPTHS, seed, backend.tokenizer)
    if skipped:
        raise UserError(f"{name} does not fit into {length} tokens: {skipped[0].reason}")
    (cell,) = found
    made = list(cell.samples(range(len(cell))))
    documents = [{"index": i, "prompt": cell.units.decode(one.prompt)} for i, one in enumerate(made)]

    class RopewalkTask(harness.api.task.Task):  # type: ignore[misc, name-defined]
        """Asks for a free answer, scored by the task's own rule."""

        VERSION = 1
        OUTPUT_TYPE = "generate_until"

        def __init__(self) -> None:
            options = {"until": [], "do_sample": False}
            super().__init__()
            config = harness.api.task.TaskConfig
            self._config = config(task=f"{name}_{length}", num_fewshot=0, generation_kwargs=options)

        def download(self, *_: Any, **__: Any) -> None:
            """Nothing to download: samples are made here."""

        def has_training_docs(self) -> bool:
            return False

        def has_validation_docs(self) -> bool:
            return False

        def has_test_docs(self) -> bool:
            return True

        def test_docs(self) -> list[dict[str, Any]]:
            return documents

        def doc_to_text(self, doc: dict[str, Any]) -> str:
            return str(doc["prompt"])

        def doc_to_target(self, doc: dict[str, Any]) -> str:
            return f" {made[doc['index']].text}"

        def construct_requests(self, doc: dict[str, Any], ctx: str, **more: Any) -> Any:
            options = {"until": [], "max_gen_toks": max(made[doc["index"]].room, len(made[doc["index"]].answer))}
            more = {key: more[key] for key in ("metadata",) if key in more}
            return harness.api.instance.Instance("generate_until", doc, (ctx, options), 0, **more)

        def process_results(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
            return {"score": cell.task.score(results[0], made[doc["index"]])}

        def aggregation(self) -> dict[str, Any]:
            return {"score": lambda scores: sum(scores) / len(scores)}

        def higher_is_better(self) -> dict[str, bool]:
            return {"score": True}

    return RopewalkTask()


def pair(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of a context and its continuation, split where the context ends when both are tokenised as one text.

    Spaces at the end of the context belong to the continuation, since most tokenizers join them with a word.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    if not context:
        return _begin(tokenizer), token_ids(continuation, tokenizer)
    begin = opening(tokenizer)
    before, both = token_ids(context, tokenizer), token_ids(context + continuation, tokenizer)
    if both[: len(before)] != before:  # a join merged tokens: the continuation is tokenised alone
        return begin + before, token_ids(continuation, tokenizer)
    return begin + before, both[len(before) :]


def _begin(tokenizer: Any) -> list[int]:
    """Something to stand before the first token, so that it can be scored."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
    return opening(tokenizer) or [next(token for token in known if token is not None)]


def _until(text: str, stops: str | Sequence[str]) -> str:
    """``text`` up to the first of ``stops``."""
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text
