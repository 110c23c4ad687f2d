"""How much of its context a model, or a server, uses: a suite of tasks with controls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ropewalk.verbs.compare import ExperimentRequest, encoder_at
from ropewalk.verbs.request import Length, Methods, verb

if TYPE_CHECKING:
    from ropewalk.evaluation.outcome import Outcome
    from ropewalk.tasks.suites import Suite


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(ExperimentRequest):
    """What is evaluated.

    Attributes:
        suite: smoke, standard or publication (10, 55 or 198 samples of each task and length), ruler-lite (RULER's tasks
            on 50 contexts each), a family of tasks such as ruler or babilong, or a benchmark such as longbench. Without
            ``tasks`` it chooses these too.
        methods: Applied to the model, comma-separated, as listed by 'ropewalk methods'.
        to: Target length of the methods; by default the longest of the lengths.
    """

    suite: str = "smoke"
    methods: Methods = ("none",)
    to: Length | None = None


@verb("evaluate", keeps=True)
def evaluate(request: EvaluateRequest) -> Outcome:
    """Measure how much of its context a model or a server uses, with controls: one table, one HTML report.

    The model may also be a server that speaks OpenAI's protocol, by its URL: http://host:8000/v1.
    Every sample is kept, so it can be stopped at any moment and goes on where it was.

    Returns:
        The results, and where they are.

    Raises:
        UserError: for everything that a user can mend.
    """
    if (encoder := encoder_at(request.model)) is not None:
        return request.on_encoder(encoder, request.methods, to=request.to, refused=["suite"])
    suite, instead = asked(request)
    experiment = request.experiment(
        request.methods, suite.tasks, to=request.to, samples=suite.samples, documents=suite.documents,
        depths=suite.depths, controls=True, contexts=suite.contexts,
    )  # fmt: skip
    more = {"suite": request.suite, **({"instead": instead} if instead else {})}
    return request.conducted(experiment, *([] if request.tasks else [request.suite]), more=more)


def asked(request: EvaluateRequest) -> tuple[Suite, dict[str, str]]:
    """The suite with the tasks to ask, and what takes the place of others.

    Raises:
        UserError: if there is no such suite or task.
    """
    from ropewalk.tasks import suites

    suite = suites.suite(request.suite)
    if request.tasks:
        return replace(suite, tasks=suites.chosen(request.tasks)), {}
    given = {}
    if request.qa:
        from ropewalk.tasks.ruler.qa_files import material

        given = material(request.qa, [])
    return suites.possible(suite, given)
