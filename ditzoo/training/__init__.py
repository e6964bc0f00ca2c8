"""Training: a recipe (data, model, optimiser, length, seed) and the loop that follows it on accelerate."""
