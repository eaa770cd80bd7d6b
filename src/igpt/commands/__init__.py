"""One Hydra app per console script, and what builds the parts of a run from its configuration."""
