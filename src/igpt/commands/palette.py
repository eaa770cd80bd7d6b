"""igpt-palette: build a palette without training a model, and show it with its quantization error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from igpt.configuration.app import run_app
from igpt.errors import IgptError

if TYPE_CHECKING:
    from igpt.data.datamodule import ImageDataModule


def main() -> None:
    """The console script."""
    run_app(palette, "palette")


def palette(config: DictConfig) -> None:
    """Build or read the palette; write palette.npz, and figures of its colors and of quantized images."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    from igpt import figures
    from igpt.commands.tokenizer_of_run import tokenizer_of_run
    from igpt.evaluation.final_report import palette_figures
    from igpt.log_file import open_log_files
    from igpt.tokenizers import palette_of

    open_log_files()
    data: ImageDataModule = instantiate(config.data, _convert_="all")
    data.prepare_data()
    data.setup()
    data.tokenizer = tokenizer_of_run(config, data)
    built = palette_of(data.tokenizer)
    if built is None:
        raise IgptError(f"The tokenizer '{data.tokenizer.fingerprint}' has no palette; choose tokenizer=palette.")
    output = Path(HydraConfig.get().runtime.output_dir)
    built.save(output / "palette.npz")
    for name, figure in palette_figures(built, data.splits["test"].choose(12)).items():
        figures.save(figure, output / f"{name}.png")
    for name, value in {"fingerprint": built.fingerprint, **built.info}.items():
        print(f"{name:18} {value}")
    print(f"Results are in {output}: palette.npz, palette.png, quantized.png")


if __name__ == "__main__":
    main()
