"""Language models that answer prompts: asked in numbers, counted, and not asked again for what they answered."""
