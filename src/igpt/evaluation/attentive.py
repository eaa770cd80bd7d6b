"""The attentive probe: one learned query attends to the whole sequence of a layer, instead of its average."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igpt.data.datamodule import ImageDataModule
from igpt.pretrained import Pretrained
from igpt.progress import track


class AttentiveHeads(nn.Module):
    """For each of n layers: a query (h heads of C / h), keys and values of the layer's sequence, a linear classifier.

    Attention pooling as in Toto (Rajasegaran et al. 2025) and AIM (El-Nouby et al. 2024).
    """

    def __init__(self, n_layers: int, width: int, n_heads: int, n_classes: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Parameter(torch.randn(n_layers, width) * width**-0.5)
        self.key_value = nn.Parameter(torch.randn(n_layers, width, 2 * width) * width**-0.5)
        self.weight = nn.Parameter(torch.zeros(n_layers, width, n_classes))
        self.bias = nn.Parameter(torch.zeros(n_layers, 1, n_classes))

    def forward(self, sequences: Tensor) -> Tensor:
        """Class logits (n, B, K) of sequences (n, B, T, C), one layer each."""
        keys, values = (sequences @ self.key_value[:, None]).chunk(2, dim=-1)
        split = (self.n_heads, -1)
        q = self.query.unflatten(-1, split)[:, None, :, None].expand(-1, keys.shape[1], -1, -1, -1)  # (n, B, h, 1, d)
        k, v = (x.unflatten(-1, split).transpose(2, 3) for x in (keys, values))  # (n, B, h, T, d)
        pooled = F.scaled_dot_product_attention(q, k, v).flatten(2)
        return pooled @ self.weight + self.bias


def sequences_of_layers(pretrained: Pretrained, tokens: Tensor) -> Tensor:
    """The inputs of the attention blocks and of the head at each position, (L + 1, B, T, C)."""
    return torch.stack(list(pretrained.model.layer_inputs(tokens)))


def attentive_correct(
    pretrained: Pretrained, data: ImageDataModule, split: str, n_classes: int, epochs: int, lr: float = 1e-3
) -> Tensor:
    """Whether the probe of each layer classifies each labeled image of `split` correctly, bool (L + 1, N).

    Adam trains the probes of all layers together, on the labeled training images. The network does not change. Its
    sequences are recomputed in each epoch, because they rarely fit into memory.
    """
    config = pretrained.model.config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = AttentiveHeads(config.n_layer + 1, config.n_embd, config.n_head, n_classes).to(pretrained.device)
    optimizer = torch.optim.Adam(heads.parameters(), lr=lr)
    for epoch in track(range(epochs), "Training attentive probes"):
        for batch in data.labeled_batches("train", epoch):
            with torch.no_grad():
                sequences = sequences_of_layers(pretrained, batch.tokens.to(pretrained.device))
            labels = batch.labels.to(pretrained.device)
            loss = sum(F.cross_entropy(logits, labels) for logits in heads(sequences))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            optimizer.step()
    with torch.no_grad():
        correct = [
            heads(sequences_of_layers(pretrained, batch.tokens.to(pretrained.device))).argmax(-1).cpu() == batch.labels
            for batch in data.labeled_batches(split)
        ]
    return torch.cat(correct, dim=1)
