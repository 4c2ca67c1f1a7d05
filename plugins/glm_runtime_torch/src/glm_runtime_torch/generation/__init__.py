"""From logits to text: sampling, stop conditions, detokenising, and the engine that drives them."""
