"""Language models that answer prompts: asked in numbers, counted, and never asked twice."""
