"""Kernels that need a GPU: that they are called as their operators say (on the meta device), and what they compute."""

import pytest
import torch

from ropewalk.attention.kernels import CPUFlash, CUDAEfficient, CUDAFlash, Dense, Flex

KERNELS = [(CUDAFlash(), torch.bfloat16), (CUDAEfficient(), torch.float32)]


def tensors(dtype, device="cpu", wide=16):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, 64, 16), (2, 2, 64, 16), (2, 2, 64, wide)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kernel, dtype", KERNELS)
def test_operators_take_these_arguments(kernel, dtype, causal):
    q, k, v = tensors(dtype, "meta", wide=16)
    o, lse = kernel.forward(q, k, v, causal, 0.25)
    assert o.shape == q.shape and lse.shape == q.shape[:3] and lse.dtype == torch.float32
    gradients = kernel.backward(o, q, k, v, o, lse, causal, 0.25)
    assert [g.shape for g in gradients] == [x.shape for x in (q, k, v)]


@pytest.mark.filterwarnings("ignore")  # flex_attention says that it is not compiled here
@pytest.mark.parametrize("causal", [True, False])
def test_flex_with_a_softcap_is_dense_with_a_softcap(causal):
    q, k, v = tensors(torch.float32)
    flex, dense = (kernel(5.0).forward(q, k, v, causal, 0.25) for kernel in (Flex, Dense))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(flex, dense, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kernel, dtype", KERNELS)
def test_kernels_agree_with_the_cpu(kernel, dtype, causal):
    cuda, cpu = tensors(dtype, "cuda"), tensors(torch.float32)
    tolerance = 0.03 if dtype == torch.bfloat16 else 1e-5
    found, exact = kernel.forward(*cuda, causal, 0.25), CPUFlash().forward(*cpu, causal, 0.25)
    assert all(torch.allclose(a.cpu().float(), b, atol=tolerance) for a, b in zip(found, exact, strict=True))
    slopes = kernel.backward(found[0], *cuda, *found, causal, 0.25)
    wanted = CPUFlash().backward(exact[0], *cpu, *exact, causal, 0.25)
    assert all(torch.allclose(a.cpu().float(), b, atol=4 * tolerance) for a, b in zip(slopes, wanted, strict=True))
