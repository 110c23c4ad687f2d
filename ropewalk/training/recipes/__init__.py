"""Papers' trainings as values: one function each, listed in ``recipe_entries``."""
