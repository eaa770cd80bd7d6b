"""The cost of a training run in advance, from closed forms and a model on the meta device."""
