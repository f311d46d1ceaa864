"""A model over HTTP: OpenAI's interface, answers grounded in an index, and the page to talk on."""
