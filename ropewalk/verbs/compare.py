"""Methods side by side, against the plain model, on the same documents and prompts; and what every experiment asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ropewalk.common.errors import UserError
from ropewalk.common.lengths import show
from ropewalk.methods import catalogue
from ropewalk.verbs.request import (
    Count,
    Length,
    Lengths,
    LiveRequest,
    Methods,
    Numbers,
    Place,
    ServedRequest,
    Source,
    Strategies,
    TargetRequest,
    Words,
    verb,
)

if TYPE_CHECKING:
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.evaluation.experiment import Experiment
    from ropewalk.evaluation.outcome import Outcome
    from ropewalk.methods.base import Method
    from ropewalk.report.schema import Results
    from ropewalk.tasks.benchmarks.judge import Judge

RUNS = Path("runs")
PLAIN, FULL = "none", "full"  # the method and the strategy that change nothing
SHOWN = 3  # models in the name of a folder
TASKS = ("ppl", "passkey", "niah")
LATE, UNCUT = "late-chunking", "uncut"
READINGS = ("none", "parallel-windows", "chunks", LATE)
OF_CARRIERS = {  # of models that write, without a rope, by what carries their positions
    "alibi": ("alibi-pi", "alibi-pi(follow=True)", "alibi-pi(form='ntk')"),
    "table": ("pi", "grouped", "recurrent"),
    "buckets": ("unlimiformer",),
    "two tables": ("unlimiformer",),
    "state": (),
}
OF_ENCODERS = {  # by what decides how far they read
    "table": (*READINGS, "recurrent", "grouped", "pi"),
    "rope": (*READINGS, "pi", "ntk-aware", "longembed-rope", "yarn", "self-extend"),
    "bias": (*READINGS, "uncut", "uncut+tempscale"),
}
NOT_OF_ENCODERS = (
    "more_models", "documents", "data", "qa", "sequential", "judge", "judge_model", "on", "workers", "bos",
    "strategies", "spend", "window", "embed", "tokenizer", "served", "dtype", "device", "trust_remote_code",
)  # fmt: skip


def is_served(model: str) -> bool:
    """Whether a model is the address of a server."""
    return model.startswith(("http://", "https://"))


def encoder_at(model: str) -> Checkpoint | None:
    """The checkpoint that a name is of, if it is one of an embedding model."""
    if is_served(model):
        return None
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.encoders.encoder_folder import is_encoder

    checkpoint = Checkpoint(model)
    return checkpoint if is_encoder(checkpoint) else None


def kind_of_carrier(models: Sequence[str]) -> str | None:
    """What carries the positions of models that write, where that is no rope; None of a rope, and of a server.

    Raises:
        UserError: if the models differ in that.
    """
    from ropewalk.carriers.carrier import FAMILIES, has_none
    from ropewalk.checkpoint.checkpoint import Checkpoint

    found = {}
    for name in models:
        raw = {} if is_served(name) or (checkpoint := Checkpoint(name)).gguf or checkpoint.adapter else checkpoint.raw
        found[name] = FAMILIES[raw["model_type"]].kind if has_none(raw) else None
    if len(set(found.values())) > 1:
        said = "; ".join(f"{name}: {kind or 'a rope'}" for name, kind in found.items())
        raise UserError(f"positions are carried differently, so that no method fits all: {said}", "Compare them apart.")
    return next(iter(found.values()))


@dataclass(frozen=True, kw_only=True)
class ExperimentRequest(ServedRequest, LiveRequest):
    """What every experiment is asked for.

    Attributes:
        more_models: Other models, measured in the same way; commas separate.
        tasks: Tasks, suites, benchmarks (longbench, longbio/all) and subsets of these (longbench/hotpotqa); by default
            ppl,passkey,niah to compare, and those of the suite to evaluate.
        lengths: Context lengths: 512..8k doubles, commas separate; by default half the window, doubling to the target.
        samples: How many of each task at each length; by default 20 to compare, and the suite's number to evaluate. Of
            a benchmark, all questions unless given.
        documents: How many texts for perplexity, at most; by default 24 to compare, and the suite's number to evaluate.
        data: Texts for perplexity: stdlib (held-out Python modules), topics (English), or a file or folder.
        rows: File or folder of a benchmark's rows (of several benchmarks: a folder with one folder each), or a hub id;
            benchmarks need it.
        qa: Folder with SQuAD's dev-v2.0.json as qa_1.json and HotpotQA's hotpot_dev_distractor_v1.json as qa_2.json,
            for RULER's question tasks; a suite has made-up documents in their place.
        seeds: Of prompts, such as 0,1,2: each is another draw of samples, and all draws are pooled.
        sequential: Stop asking where the outcome is clear, and bisect over the lengths.
        judge: URL of an OpenAI-compatible endpoint that grades answers which no rule can score.
        judge_model: The judge's name there (without ``judge``: at OpenAI); by default nothing is judged.
        on: Where workers run: local (processes of this machine) or ray (a Ray cluster, or a local one if none runs).
        workers: How many jobs run at the same time.
        out: Folder for results.json, report.html and finished samples; by default one in runs/ that is named after the
            experiment, with finished samples in runs/samples.sqlite, where every other experiment finds them too.
        overwrite: Replace the results of another experiment in that folder; its finished samples stay.
        bos: Begin every text with the BOS token, also where the tokenizer adds none.
        strategies: Ways to read a text in several calls, beside the methods: full,rag,chain-of-agents, as listed by
            'ropewalk strategies'; options in brackets, as rag(k=5). full is the whole prompt, which the methods are
            asked; without it there is the plain model alone to compare with.
        spend: Tokens that a strategy may spend on a question, in multiples of those of the whole prompt and its answer;
            0 is no bound.
        window: Tokens that a call of a strategy may have, prompt and answer; by default as many as the model reads. Of
            a server that does not tell it must be given.
        embed: Folder or hub id of an embedding model, for strategies that compare meanings.
    """

    more_models: Words = ()
    tasks: Words = ()
    lengths: Lengths | None = None
    samples: Count | None = None
    documents: Count | None = None
    data: Source = "stdlib"
    rows: Source = ""
    qa: Source = ""
    seeds: Numbers = (0,)
    sequential: bool = False
    judge: str = ""
    judge_model: str = ""
    on: str = "local"
    workers: Count = 1
    out: Place | None = None
    overwrite: bool = False
    bos: bool = False
    strategies: Strategies = ()
    spend: float = 1.0
    window: Length | None = None
    embed: Source = ""

    def conducted(self, experiment: Experiment, *parts: str, more: Mapping[str, Any] | None = None) -> Outcome:
        """Run the experiment in its folder."""
        from ropewalk.evaluation.outcome import conduct

        folder = self.folder(experiment, *parts)
        store = RUNS / "samples.sqlite" if self.out is None else None
        return conduct(
            experiment, folder, self.command, self.on, self.workers, more, store=store, overwrite=self.overwrite
        )

    def folder(self, experiment: Experiment, *parts: str) -> Path:
        """Where results go: by default, a name that people can read and no other experiment has."""
        if self.out is not None:
            return self.out
        models = (self.model, *self.more_models)
        names = [Path(self.served or urlsplit(name).netloc if "://" in name else name).name for name in models]
        text = "-".join([self.verb, *names[:SHOWN], *parts, experiment.key[:8]])
        return RUNS / "".join(c if c.isalnum() or c in "-_." else "-" for c in text)

    @property
    def all_served(self) -> bool:
        """Whether servers hold all models."""
        return all(map(is_served, (self.model, *self.more_models)))

    def on_encoder(
        self, checkpoint: Checkpoint, methods: Sequence[str], *, to: int | None, refused: Sequence[str] = ()
    ) -> Outcome:
        """The experiment, on an embedding model.

        Args:
            checkpoint: the model.
            methods: spellings; none of them means those that need no training.
            to: target length of the methods; None means the longest of the lengths, else what the model reads.
            refused: options of the verb that change nothing here.

        Raises:
            UserError: naming what makes no sense.
        """
        from ropewalk.checkpoint.checkpoint import local
        from ropewalk.common.progress import shown
        from ropewalk.common.store import SampleStore
        from ropewalk.encoders.encoder_folder import EncoderFolder
        from ropewalk.encoders.encoder_method import encoder_methods
        from ropewalk.encoders.families import TABLE
        from ropewalk.encoders.retrieval.encoder_experiment import EncoderExperiment, run
        from ropewalk.evaluation.outcome import kept

        self.refuse_unused([*refused, *NOT_OF_ENCODERS], "about an embedding model")
        folder = EncoderFolder.open(checkpoint)
        target = to or max(self.lengths or (folder.window or folder.reads or 1,))
        if not methods:
            methods = OF_ENCODERS.get(folder.positions, READINGS)
            if folder.window and target <= folder.window:  # which all tables hold
                methods = READINGS
            if not folder.pools_by_mean:
                methods = [one for one in methods if one != LATE]
            if folder.positions == TABLE and (folder.reads or 0) < (folder.window or 0):  # cut before its table ends
                methods = [methods[0], UNCUT, *methods[1:]]
        experiment = EncoderExperiment(
            self.model,
            tuple(encoder_methods(one, folder.positions) for one in methods),
            target,
            self.lengths,
            self.tasks or (() if self.rows else EncoderExperiment.tasks),
            self.samples or EncoderExperiment.samples,
            self.seeds,
            self.rows,
            self.samples,
        )

        def measure(place: Path) -> Results:
            with shown() as progress, SampleStore(place) as store:
                return run(experiment, store, progress)

        name = [self.verb, folder.path.resolve().name, *([] if to is None else [show(to)]), experiment.key[:8]]
        out = self.out or RUNS / "-".join(name)
        store = RUNS / "samples.sqlite" if self.out is None else None
        sources = [*local([self.model]), *([Path(self.rows)] if self.rows else [])]
        return kept(out, experiment.key, measure, sources, self.command, store=store, overwrite=self.overwrite)

    def made(self, spellings: Sequence[str]) -> list[Method]:
        """Methods from their spellings: for models with a rope, or for those without one.

        Raises:
            UserError: for unknown ones, and those that do not fit.
        """
        from ropewalk.encoders.encoder_entries import refuse_of_encoders
        from ropewalk.methods.carriers.carrier_entries import carrier_methods

        if (kind := kind_of_carrier((self.model, *self.more_models))) is None:
            for name in (self.model, *self.more_models):
                refuse_of_encoders(name, spellings)
            return catalogue.methods(",".join(spellings))
        return list(carrier_methods(spellings, kind))

    def grader(self) -> Judge | None:
        """The judge, if one is named."""
        if not self.judge_model:
            if self.judge:
                raise UserError(f"the judge at {self.judge} needs a name", "Add --judge-model NAME.")
            return None
        from ropewalk.tasks.benchmarks.judge import EndpointJudge

        return EndpointJudge(self.judge_model, self.judge or None)

    def experiment(
        self,
        methods: tuple[str, ...],
        tasks: tuple[str, ...],
        *,
        to: int | None,
        samples: int,
        documents: int,
        depths: int,
        controls: bool,
        contexts: int | None = None,
    ) -> Experiment:
        """The experiment; numbers that are not asked for are as given.

        Raises:
            UserError: naming what makes no sense.
        """
        from ropewalk.evaluation.experiment import Experiment
        from ropewalk.workflows.strategy_entries import strategy

        if not any(map(is_served, (self.model, *self.more_models))):
            self.refuse_unused(["tokenizer", "served"], "about models that no server holds")
        if self.all_served:
            self.refuse_unused(["dtype", "device"], "about models that a server holds")
        strategies = [strategy(one) for one in self.strategies]
        if not strategies:
            self.refuse_unused(["spend", "window"], "without --strategies")
        elif not any(one.name == FULL for one in strategies):
            self.refuse_unused(["methods"], "where full is not among --strategies")
            methods = (PLAIN,)
        if not any(one.embeds for one in strategies):
            self.refuse_unused(["embed"], "where no strategy compares vectors")
        return Experiment(
            (self.model, *self.more_models),
            tuple(self.made(methods)),
            tasks,
            lengths=self.lengths,
            to=to,
            seeds=self.seeds,
            samples=samples if self.samples is None else self.samples,
            questions=self.samples,
            contexts=contexts,
            depths=tuple(i / (depths - 1) for i in range(depths)) if depths > 1 else (0.5,),
            documents=documents if self.documents is None else self.documents,
            data=self.data,
            rows=self.rows,
            qa=self.qa,
            sequential=self.sequential,
            controls=controls,
            judge=self.grader(),
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            bos=self.bos,
            tokenizer=self.tokenizer,
            served=self.served,
            strategies=tuple(one for one in strategies if one.name != FULL),
            spend=self.spend,
            window=self.window,
            embed=self.embed,
        )


@dataclass(frozen=True, kw_only=True)
class CompareRequest(TargetRequest, ExperimentRequest):
    """What is compared.

    Attributes:
        methods: Comma-separated, as listed by 'ropewalk methods'; the plain model is always measured too. Of an
            embedding model, and of one without a rope, other ones: by default all that need no training.
        depths: How many depths of needles, spread from start to end.
    """

    methods: Methods = (
        "none", "pi", "ntk-aware", "ntk-aware(stretch=2)", "dynamic-ntk", "ntk-by-parts", "yarn", "resonance+yarn",
    )  # fmt: skip
    depths: Count = 5


@verb("compare", keeps=True)
def compare(request: CompareRequest) -> Outcome:
    """Measure methods, and strategies of reading, side by side, on any task, suite or benchmark: a table and a page.

    The target is always measured, whatever lengths are asked for. A server takes no method, but can be measured as it
    is, by its URL. Every sample is kept, so it can be stopped at any moment and goes on where it was.

    Returns:
        The results, and where they are.

    Raises:
        UserError: for everything that a user can mend.
    """
    from ropewalk.tasks.suites import chosen

    asked = request.methods
    if (encoder := encoder_at(request.model)) is not None:
        spelled = () if asked == CompareRequest.methods else tuple(dict.fromkeys([PLAIN, *asked]))
        return request.on_encoder(encoder, spelled, to=request.to, refused=["depths"])
    if asked == CompareRequest.methods:  # nobody named one
        kind = kind_of_carrier((request.model, *request.more_models))
        asked = (PLAIN,) if request.all_served else asked if kind is None else OF_CARRIERS[kind]
    methods = tuple(dict.fromkeys([PLAIN, *(one.spelling for one in (request.made(asked) if asked else ()))]))
    experiment = request.experiment(
        methods,
        chosen(request.tasks or TASKS),
        to=request.to,
        samples=20,
        documents=24,
        depths=request.depths,
        controls=False,
    )
    more = {}
    if experiment.lengths and request.to not in experiment.lengths:
        experiment = replace(experiment, lengths=(*experiment.lengths, request.to))
        more = {"added length": request.to}
    return request.conducted(experiment, show(request.to), more=more)
