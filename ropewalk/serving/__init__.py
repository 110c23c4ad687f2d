"""An OpenAI-compatible server for methods that need code at run time."""
