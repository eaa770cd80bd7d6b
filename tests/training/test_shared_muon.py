"""Processes that share the work of Muon move the weights as one process does."""

import torch
from torch import distributed, multiprocessing, nn

from igpt.training import muon
from igpt.training.muon import MuonAdam
from igpt.training.weight_decay import WeightDecay

SHAPES = ((24, 8), (24, 8), (24, 8), (8, 32), (8, 32), (8, 8))  # nine, two and one to orthogonalize, in this order


class Linears(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterList(torch.randn(shape, generator=generator) for shape in SHAPES)
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, step):
        """A loss of which each weight has a gradient of its own at each step."""
        generator = torch.Generator().manual_seed(step)
        return sum((w * torch.randn(w.shape, generator=generator)).sum() for w in self.parameters())


def trained(module, counts):
    """The weights after three steps; `counts` gets how many matrices this process orthogonalized at a time."""
    orthogonalize = muon.orthogonalize
    muon.orthogonalize = lambda matrices, **how: (counts.append(len(matrices)), orthogonalize(matrices, **how))[1]
    stacked, others = list(module.weights[:3]), list(module.weights[3:])
    groups = [
        {"params": [module.gain]}, {"params": stacked, "matrices": 3}, {"params": others, "matrices": 1},
    ]  # fmt: skip
    optimizer = MuonAdam(groups, 0.1, (0.9, 0.95), decay=WeightDecay(0.1, cautious=True))
    for step in range(3):
        optimizer.zero_grad()
        module(step).backward()
        optimizer.step()
    muon.orthogonalize = orthogonalize
    return [p.detach() for p in module.parameters()]


def process(rank, folder):
    """One of two processes: trains, and saves what it has."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    counts = []
    torch.save((trained(Linears(), counts), counts), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_move_the_weights_as_one_and_share_the_work(tmp_path):
    multiprocessing.spawn(process, (tmp_path,), nprocs=2)
    (first, of_first), (second, of_second) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    counts = []
    expected = trained(Linears(), counts)
    assert counts == [9, 2, 1] * 3
    assert of_first == [5, 1, 1] * 3
    assert of_second == [4, 1, 0] * 3
    for ours, theirs, one, begun in zip(first, second, expected, Linears().parameters(), strict=True):
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(ours, one, atol=1e-5, rtol=1e-5)
        assert (one - begun).abs().max() > 0.05
