"""One small Hydra app a console script: the only place where OmegaConf objects exist."""
