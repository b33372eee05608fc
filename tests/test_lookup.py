"""Looking up vectors with dropout, against PyTorch's operations."""

import pytest
import torch
from torch.nn import functional as F

from sentiment_model.networks import arithmetic
from sentiment_model.networks.lookup import look_up

PADDING = 0


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_and_gradients_are_those_of_an_embedding_and_dropout(
    threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding has a vector, which gets no gradient; tokens occur often, once and never."""
    monkeypatch.setattr(arithmetic, "_WORTH_THREADS", 0)
    torch.manual_seed(0)
    vectors = torch.randn(9, 5, requires_grad=True)
    ids = torch.randint(0, 8, (2, 11, 3))
    mask = torch.rand(2, 1, 3, 5)
    weights = torch.randn(2, 11, 3, 5)
    expected = (F.embedding(ids, vectors, padding_idx=PADDING) * mask).to(dtype)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), vectors)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = look_up(vectors, ids, mask, PADDING, dtype)
        (gradient,) = torch.autograd.grad((found * weights).sum(), vectors)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-5)
    assert not gradient[[PADDING, 8]].any()
    assert gradient[1:8].any(dim=1).all()
