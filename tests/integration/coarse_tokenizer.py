"""A tokenizer with a grid coarser than the pixels, which a user may write in a module on the path."""

import torch

from igpt.tokenizers import Tokenizer


class Coarse(Tokenizer):
    """A token is the mean gray level of 2x2 pixels."""

    cell = 2

    def __init__(self, levels=16):
        self.levels = levels

    @property
    def vocab_size(self):
        return self.levels

    @property
    def fingerprint(self):
        return f"coarse-{self.levels}"

    def encode(self, images):
        cells = images.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))  # (N, H / 2, 2, W / 2, 2, 3)
        return (cells.long().sum(dim=(2, 4, 5)) * self.levels // (12 * 256)).flatten(1)

    def decode(self, tokens):
        gray = (self.arrange(tokens) * 255 // (self.levels - 1)).to(torch.uint8)
        return gray.expand(-1, -1, -1, 3).contiguous()

    def state(self):
        return {"levels": self.levels}
