"""T5's temperature: the closed form, what is measured, and the folder against the live model."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from transformers import AutoModelForSeq2SeqLM

from ropewalk import extend
from ropewalk.carriers.carrier import carrier_of
from ropewalk.common.errors import UserError
from ropewalk.methods.carriers.bias_alignment import BiasAlignment, gaussian_tau, sharpness
from tests.carriers.ropeless import T5, WINDOW, folder, ids, model

TARGET = 4 * WINDOW


def test_numbers():
    assert gaussian_tau(2, 512, 2048) == pytest.approx(0.768516, abs=1e-6)
    assert gaussian_tau(2, 512, 15360) == pytest.approx(0.608513, abs=1e-6)


def test_the_closed_form_is_a_start_for_gaussian_logits():
    rng = torch.Generator().manual_seed(0)

    def entropy(n, tau):
        p = (2 * torch.randn(2000, n, generator=rng) / tau).softmax(-1)
        return float(torch.special.entr(p).sum(-1).mean())

    assert entropy(512, 1) == pytest.approx(4.378, abs=0.03) and entropy(2048, 1) == pytest.approx(5.683, abs=0.03)
    assert entropy(2048, 0.75) == pytest.approx(4.457, abs=0.03)  # near the rule's solution, by sampling


def outputs(live, tokens):
    with torch.no_grad():
        return live(input_ids=tokens, decoder_input_ids=tokens[:, :9]).logits


@pytest.mark.parametrize("part", ["encoder", "both"])
@pytest.mark.parametrize("kind", T5)
def test_the_folder_is_the_live_model(tmp_path, kind, part):
    place, tokens = folder(tmp_path / "own", kind), ids(TARGET)
    extend(str(place), to=TARGET, method=f"t5-align(tau=0.8, part={part})", out=str(tmp_path / "out"))
    live = model(kind)
    plain = outputs(live, tokens)
    with BiasAlignment(tau=0.8, part=part).on(live, TARGET):
        found = outputs(live, tokens)
    assert torch.equal(outputs(live, tokens), plain)
    assert torch.equal(outputs(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval(), tokens), found)
    assert float((found - plain).abs().max()) > 0.01


@pytest.mark.parametrize("kind", T5)
def test_logits_are_over_tau_bias_and_all(kind):
    """Attention as transformers reports it, of the first layer, whose input does not change."""
    live, tokens, tau = model(kind, attn_implementation="eager"), ids(50), 0.7

    def first():
        with torch.no_grad():
            return live.get_encoder()(input_ids=tokens, output_attentions=True).attentions[0].double()

    plain = first()
    with BiasAlignment(tau=tau).on(live, TARGET):
        assert torch.allclose(first(), (plain.clamp_min(1e-300).log() / tau).softmax(-1), atol=1e-5)


@pytest.mark.parametrize("statistic", ["entropy", "max-prob"])
@pytest.mark.parametrize("kind", T5)
def test_sharpness_is_that_of_the_attention_that_transformers_reports(kind, statistic):
    live, tokens = model(kind, attn_implementation="eager"), ids(60)
    with torch.no_grad():
        p = torch.stack(live.get_encoder()(input_ids=tokens, output_attentions=True).attentions)[:, 0].double()
    meant = torch.special.entr(p).sum(-1) if statistic == "entropy" else p.amax(-1)
    assert sharpness(live, tokens, statistic) == pytest.approx(float(meant.mean()), abs=1e-5)


@pytest.mark.parametrize("statistic", ["entropy", "max-prob"])
def test_what_is_measured_makes_long_texts_as_sharp(statistic):
    live, tokens = model("t5"), ids(TARGET)[0].tolist()
    with torch.no_grad():
        for weight in live.parameters():
            weight.mul_(0.8)
    found = BiasAlignment(statistic=statistic).calibrated(live, carrier_of(live.config), tokens, TARGET)
    assert 0.05 < found.tau < 1
    row = torch.tensor([tokens])
    wanted, plain = sharpness(live, row[:, :WINDOW], statistic), sharpness(live, row, statistic)
    with found.on(live, TARGET):
        aligned = sharpness(live, row, statistic)
    assert abs(aligned - wanted) < 0.02 * abs(plain - wanted)


def test_an_encoder_alone_takes_the_same_fold(tmp_path):
    """T5EncoderModel is an embedding model, whose tempscale is this temperature."""
    live, tau = model("t5"), 0.8
    alone = transformers.T5EncoderModel(live.config).eval()
    alone.encoder.load_state_dict(live.get_encoder().state_dict())
    own = dict(alone.named_parameters())
    mine = BiasAlignment(tau=tau).weights(carrier_of(live.config), own, TARGET)
    from ropewalk.encoders.extended_encoder import scaled_logits
    from ropewalk.encoders.families import FAMILIES

    class Folder:
        family, name = FAMILIES["t5"], "t5"

        @staticmethod
        def owns(_):
            return True

    theirs = scaled_logits(own, Folder, 1 / tau)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_wrong_options():
    for options in ({"tau": 0.0}, {"sigma": -1.0}, {"tau": 0.8, "sigma": 2.0}, {"tau": math.inf}):
        with pytest.raises(UserError):
            BiasAlignment(**options)
    with pytest.raises(UserError, match="neither tau nor sigma"), BiasAlignment().on(model("t5"), TARGET):
        pass
    live = model("t5")
    with pytest.raises(UserError, match="tokens of texts"):
        BiasAlignment().calibrated(live, carrier_of(live.config), [5] * 40, TARGET)
