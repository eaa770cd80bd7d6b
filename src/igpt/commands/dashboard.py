"""igpt-dashboard: a workspace and a report in W&B for the runs of a project."""

from __future__ import annotations

import json
import sys

from omegaconf import DictConfig

from igpt.configuration.app import run_app


def main() -> None:
    """The console script."""
    sys.argv[1:] = ["dry_run=true" if argument == "--dry-run" else argument for argument in sys.argv[1:]]
    run_app(dashboard, "dashboard")


def dashboard(config: DictConfig) -> None:
    """Store workspace and report in W&B, or print their specification."""
    from igpt.configuration.app import plain
    from igpt.reporting.wandb_dashboard import Dashboard, check_key, default_entity

    if not config.dry_run:
        check_key()
    entity = config.entity or ("ENTITY" if config.dry_run else default_entity())
    built = Dashboard(entity, config.project, config.name, config.monitor, plain(config.parameters))
    if config.dry_run:
        print(json.dumps(built.specification(), indent=2))
        return
    for address in built.save():
        print(address)


if __name__ == "__main__":
    main()
