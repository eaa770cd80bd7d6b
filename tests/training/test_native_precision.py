"""What `trainer.precision=auto` stands for, on processors of several kinds."""

import pytest
import torch

from igpt.training import native_precision
from igpt.training.native_precision import multiplies_bfloat16

ZEN_5 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx512f avx512_bf16 avx512_vnni\nbogomips\t: 5192.25\n"
SAPPHIRE_RAPIDS = "processor\t: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile\n"
SKYLAKE = "processor\t: 0\nflags\t\t: fpu avx512f avx512bw avx512vl\n"
GRAVITON_3 = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve svebf16 i8mm bf16 dgh\nCPU part\t: 0xd40\n"
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes\nCPU part\t: 0xd0c\n"
OTHER = "cpu\t\t: POWER9\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Pretend that this is a machine with a CPU as Linux describes it, and perhaps a GPU."""

    def pretend(cpuinfo=None, gpu=None):
        if cpuinfo is not None:
            (tmp_path / "cpuinfo").write_text(cpuinfo)
        monkeypatch.setattr(native_precision, "CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu == "ampere")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return pretend


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (ZEN_5, "bf16-mixed"), (SAPPHIRE_RAPIDS, "bf16-mixed"), (SKYLAKE, "32-true"),
        (GRAVITON_3, "bf16-mixed"), (GRAVITON_2, "32-true"),
        (OTHER, "32-true"), (None, "32-true"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_a_cpu_trains_in_bfloat16_if_linux_lists_the_instructions(machine, cpuinfo, expected, accelerator):
    machine(cpuinfo)
    precision, reason = native_precision.native_precision(accelerator)
    assert precision == expected
    assert "this CPU" in reason


@pytest.mark.parametrize(("gpu", "expected"), [("ampere", "bf16-mixed"), ("turing", "32-true")])
@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "auto"])
def test_the_gpu_counts_where_it_trains(machine, gpu, expected, accelerator):
    machine(SKYLAKE if gpu == "ampere" else ZEN_5, gpu)
    precision, reason = native_precision.native_precision(accelerator)
    assert precision == expected
    assert "this GPU" in reason


def test_the_cpu_counts_where_the_gpu_is_not_used(machine):
    machine(SKYLAKE, gpu="ampere")
    assert native_precision.native_precision("cpu")[0] == "32-true"


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch does not report it")
def test_linux_and_torch_agree_about_this_cpu():
    found = torch.cpu.get_capabilities()
    if found.get("architecture") == "x86_64" and native_precision.CPUINFO.exists():
        assert multiplies_bfloat16("cpu") == bool(found["avx512_bf16"] or found["amx_bf16"])
