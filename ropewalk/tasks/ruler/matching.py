"""RULER's two scores (arXiv 2404.06654), on the text that was generated behind the prompt.

Both look for substrings, ignoring case. So they also credit a reference inside a longer word ("art" in "party"; the
vocabularies of these tasks hold no such pairs, natural answers do), and they credit an echo: a prediction that still
has the prompt in it scores 1.0 whatever the model did. Pass the continuation alone.
"""

from __future__ import annotations

from ropewalk.tasks.task import Sample


def match_all(prediction: str, sample: Sample) -> float:
    """The fraction of the references that the prediction contains (string_match_all)."""
    found = prediction.lower()
    return sum(reference.lower() in found for reference in sample.references) / len(sample.references)


def match_part(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction contains one of the references (string_match_part)."""
    found = prediction.lower()
    return float(any(reference.lower() in found for reference in sample.references))
