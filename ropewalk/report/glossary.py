"""The words on pages that need explaining, a line each: shown at a heading's touch, and in full at a page's end."""

MEANINGS = {
    "score": "The share of right answers, or of right parts of an answer. 100% is the best; the average counts every "
    "task the same.",
    "interval": "The two numbers beside a value. Of 100 such runs, 95 would have ranges that hold the true value. "
    "Where the ranges of two methods overlap, the run does not settle which is better.",
    "area under the curve": "The average score at a length between the shortest and the longest tested, drawn evenly "
    "on a log scale: the area under the curve of scores, 100% where all answers are right.",
    "harmonic mean": "The mean of categories of tasks that is near the lowest: a model that fails one of them has 0%. "
    "Tasks of one sort are a category; where all are, each is one.",
    "effective length": "The longest tested length up to which the average score stays at the threshold or above, at "
    "every tested length. Its range is what the lower and the upper ends of the scores would give; “<1,024” says that "
    "already the shortest length fails.",
    "threshold": "The score that counts as passing.",
    "perplexity": "How unsure the model is of the next token of a text, as a number of equally likely guesses: 10 is "
    "as if it chose among ten. Lower is better.",
    "loss": "The natural logarithm of the perplexity, in nats for each token. Lower is better; 0.1 less is a "
    "perplexity that is 10% lower.",
    "short-text tax": "How much the perplexity of short texts, within the window, differs from the plain model’s. "
    "+2% is 2% worse; 0% costs nothing.",
    "window": "The tokens that the model was trained to read at once. A token is a word or a part of one.",
    "in a checkpoint": "Whether the saved files can say it, so that every engine reads it, or whether it needs our "
    "code while the model runs.",
    "without training": "Whether the method works on a model as it is, without training it further.",
    "depth": "Where in the text the needed information stands: 0% is its start, 100% its end.",
    "ceiling": "The same questions with hardly any text around the needed information: the most that can be expected.",
    "closed book": "The question alone, without the text. Should be near zero.",
    "altered": "The needed information says something else. A score then means that the model knew the answer from "
    "elsewhere; it should be near zero.",
    "guess": "What the best answer without reading gets: the likeliest label, every pair, a refusal. It is worked out, "
    "no model is asked. A score says something only above it.",
    "scope": "How much information an answer needs, small or large.",
    "diffusion": "How hard the needed information is to find: low if it stands out, high if it hides.",
    "points": "What the benchmark itself reports, 0 to 100.",
    "receptive field": "How far back a query looks, if the distance alone decides: 99% of the weight lies nearer.",
    "wavelength": "How many tokens a rotary dimension takes for one full turn. Position is read from these turns.",
    "attention factor": "What the attention’s logits are scaled by.",
    "short texts": "The perplexity of the first tokens of each text, within the window, against the plain model’s.",
    "long texts": "The perplexity of tokens far into long texts. Lower is better.",
    "factor": "By what a wavelength is stretched; 1 leaves it as it is.",
    "relative perplexity": "A perplexity as a part of another one: −3% is 3% lower, which is better.",
    "pass key": "A number hidden in a long text, which the model is asked for.",
    "norm": "The size of a step’s gradient, before it is clipped. Sudden peaks are a sign of trouble.",
    "memory": "On one device, in GiB (2³⁰ bytes): weights, cache and what the computation needs at its peak.",
    "longest that fits": "The longest text, in tokens, for which the memory is enough.",
    "published result": "What the method’s authors or others report, on their models and in their settings; an "
    "asterisk says that it was trained. Only a comparison ranks methods on your model.",
    "stretch": "Target over window: how many times as long texts become.",
    "floating-point operations": "The arithmetic of the whole training.",
    "device hours": "Hours of one device, at the share of its peak that is named.",
}
