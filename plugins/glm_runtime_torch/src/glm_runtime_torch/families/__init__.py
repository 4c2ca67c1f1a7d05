"""The model families: what each is recognised by and made of, and the published models by name."""
