"""k nearest neighbors by cosine similarity: a probe without parameters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from igpt.errors import IgptError
from igpt.libraries import FAISS, optional_library


def knn_predict(train: Tensor, labels: Tensor, queries: Tensor, k: int) -> Tensor:
    """Classes (M,), int64, of queries (M, C): the most frequent class of the k nearest training features (N, C).

    `labels` (N,) are the classes of the training features, int64 from 0. Neighbors are ranked by cosine similarity, and
    each has one vote; a tie is won by the lowest class. The search is exact, in float32 on the CPU.

    Raises :class:`IgptError` if k is not between 1 and N, if there are not N labels, or if faiss is missing.
    """
    if labels.shape != train.shape[:1]:
        raise IgptError(f"{len(train)} training features need as many labels; these have shape {tuple(labels.shape)}.")
    if not 1 <= k <= len(train):
        raise IgptError(f"k is {k}; with {len(train)} training features it must be 1 to {len(train)}.")
    neighbors = _search(train, queries, k)
    votes = torch.zeros(len(queries), int(labels.max()) + 1, dtype=torch.int64)
    votes.scatter_add_(1, labels.cpu()[neighbors], torch.ones_like(neighbors))
    return votes.argmax(dim=1).to(queries.device)  # of equals, argmax takes the first


def _search(train: Tensor, queries: Tensor, k: int) -> Tensor:
    """Indices (M, k), int64, of the training features that are most similar to each query."""
    faiss = optional_library("faiss", "The nearest-neighbor probe", FAISS)
    # The inner product of unit vectors is their cosine.
    index = faiss.IndexFlatIP(train.shape[1])
    index.add(F.normalize(train.float(), dim=1).cpu().numpy())
    _, neighbors = index.search(F.normalize(queries.float(), dim=1).cpu().numpy(), k)
    return torch.from_numpy(neighbors)
