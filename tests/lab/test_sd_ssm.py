"""SD-SSM: numbers that are known, a parity that is exact at any length, and one that is learnt."""

from __future__ import annotations

from random import Random

import pytest
import torch

from ropewalk.lab.regular_languages import LANGUAGES
from ropewalk.lab.sd_ssm import SelectiveDense


def test_states_of_known_weights_are_known_numbers() -> None:
    model = SelectiveDense(2, 2, state=3, matrices=2).double()
    i, j, k = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), torch.arange(2.0), indexing="ij")
    with torch.no_grad():
        model.transitions.copy_(torch.sin(1 + i.double() + 2 * j + 4 * k).permute(2, 0, 1))
        model.selector.weight.copy_(torch.tensor([[0.5, -0.5], [-1, 1]]))
        model.selector.bias.copy_(torch.tensor([0.1, -0.1]))
        model.inputs.weight.copy_(torch.tensor([[1, 0], [0, 1], [0.5, -0.5]]))
    states = model.states(torch.tensor([[1, 0, 1, 1, 0]]))[0]
    assert states[2].tolist() == pytest.approx([-1.003122, 0.935931, 0.433889], abs=1e-6)
    assert states[4].tolist() == pytest.approx([2.443650, 0.392376, -0.519646], abs=1e-6)


@pytest.mark.parametrize("p", [1.0, 1.2, 2.0])
def test_a_parity_made_by_hand_is_exact_at_any_length(p) -> None:
    """Matrices 1 and diag(-1, 1): the norm takes off what the selector leaves of the wrong one."""
    model = SelectiveDense(3, 2, state=2, matrices=2, norm=p)
    with torch.no_grad():
        model.transitions.copy_(torch.tensor([[[1.0, 0], [0, 1]], [[-1, 0], [0, 1]]]))
        model.selector.weight.copy_(torch.tensor([[1.0, -1, 1], [0, 0, 0]]))  # far from sure
        model.selector.bias.zero_()
        model.inputs.weight.copy_(torch.tensor([[0.0, 1, 0], [0, 0, 0]]))
        words = torch.randint(2, (2, 10_000), generator=torch.Generator().manual_seed(0))
        states = model.states(words)
    assert (states[..., 0] == words.cumsum(1) % 2).all() and not states[..., 1].any()


@pytest.mark.parametrize("p", [1.0, 1.4])
def test_columns_have_norm_one_after_the_mixture(p) -> None:
    torch.manual_seed(0)
    model = SelectiveDense(4, 2, state=5, matrices=3, norm=p)
    found = model.matrices_of_symbols()
    torch.testing.assert_close(torch.linalg.vector_norm(found, p, dim=1), torch.ones(4, 5))
    weights = torch.softmax(model.selector(torch.eye(4)), -1)
    one = sum(weights[2, k] * model.transitions[k] for k in range(3))
    torch.testing.assert_close(found[2], one / one.abs().pow(p).sum(0).pow(1 / p))


def test_a_column_of_zeros_gives_no_nan() -> None:
    model = SelectiveDense(2, 2, state=2, matrices=1)
    with torch.no_grad():
        model.transitions[:, :, 0] = 0
    loss = model(torch.tensor([[0, 1, 1]])).sum()
    loss.backward()
    assert loss.isfinite() and all(one.grad.isfinite().all() for one in model.parameters())


def test_what_stands_behind_a_word_does_not_count() -> None:
    torch.manual_seed(0)
    model = SelectiveDense(2, 3, state=4)
    short, long = torch.tensor([[1, 0, 1]]), torch.tensor([[1, 0, 1, 1, 1], [0, 1, 1, 0, 1]])
    found = model(long, torch.tensor([3, 5]))
    torch.testing.assert_close(found[0], model(short)[0])
    torch.testing.assert_close(found[1], model(long)[1])


@pytest.mark.slow
def test_parity_is_learnt_from_short_words_and_read_in_longer_ones() -> None:
    torch.manual_seed(0)
    rng, language = Random(0), LANGUAGES["parity"]
    model = SelectiveDense(language.symbols, language.labels, state=16, matrices=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def words(length: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        shown, labels = zip(*(language.asked(rng, length) for _ in range(count)), strict=True)
        return torch.tensor(shown), torch.tensor(labels)

    for _ in range(800):
        shown, labels = words(rng.randint(1, 40), 128)
        torch.nn.functional.cross_entropy(model(shown), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    shown, labels = words(80, 512)
    assert (model(shown).argmax(-1) == labels).float().mean() > 0.99
