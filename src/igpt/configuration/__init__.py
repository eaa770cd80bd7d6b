"""The composed configuration: checked, stored, and compared at a resume; Hydra's app that all commands share."""
