"""MLPs with other activations than the paper's. All have the same products: 8 C^2 weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from igpt.model.config import TransformerConfig
from igpt.model.transformer import MLP


class GELU(MLP):
    """The Gaussian error linear unit in its exact form (Hendrycks and Gimpel 2016)."""

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class ReLU2(MLP):
    """A squared ReLU (So et al. 2021)."""

    def activate(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class SwiGLU(MLP):
    """silu(gate x) * (fc x) (Shazeer 2020). Its three matrices have 8/3 C hidden channels, rounded to a multiple of 8,
    so that they cost as much as the two of the other MLPs.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, hidden=8 * round(config.n_embd / 3))
        self.gate = nn.Linear(config.n_embd, self.fc.out_features, bias=False)

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.normal_(self.gate.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(F.silu(self.gate(x)) * self.fc(x))
        return y
