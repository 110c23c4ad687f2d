"""LC-PLM (arXiv 2411.08909): a masked language model of proteins, on Mamba layers that read both ways."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from ropewalk.common.errors import UserError
from ropewalk.lab.state_space import SelectiveStateSpace
from ropewalk.training.training_batch import IGNORED


class LcPlmConfig(PreTrainedConfig):
    """Sizes of the model.

    Attributes:
        vocab_size: symbols.
        hidden_size: of the residual stream; the recurrence has ``expand`` times as many channels.
        num_hidden_layers: layers, of two directions each.
        state_size: numbers that each channel remembers.
        conv_kernel: taps of the convolution.
        expand: see ``hidden_size``.
        layer_norm_epsilon: of the norms.
    """

    model_type = "lc_plm"
    vocab_size: int = 32
    hidden_size: int = 64
    num_hidden_layers: int = 4
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    layer_norm_epsilon: float = 1e-5


class BiMambaS(nn.Module):
    """Both directions of a Mamba-1 layer, added; what projects into and out of them is one for both.

    As the projections are linear and see one token, they are applied once, before and behind both directions.
    """

    def __init__(self, config: LcPlmConfig):
        super().__init__()
        size, channels = config.hidden_size, config.expand * config.hidden_size
        sizes = channels, config.state_size, math.ceil(size / 16), config.conv_kernel
        self.in_proj = nn.Linear(size, 2 * channels, bias=False)
        self.onward, self.backward_ = SelectiveStateSpace(*sizes), SelectiveStateSpace(*sizes)
        self.out_proj = nn.Linear(channels, size, bias=False)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """Float [B, n, h]; ``real`` bool [B, n], false at padding."""
        projected = self.in_proj(x)
        turned = self.backward_(projected.flip(1), None if real is None else real.flip(1)).flip(1)
        found: Tensor = self.out_proj(self.onward(projected, real) + turned)
        return found


class Block(nn.Module):
    """Norm, layer, residual."""

    def __init__(self, config: LcPlmConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer = BiMambaS(config)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        found: Tensor = x + self.mixer(self.norm(x), real)
        return found


class LcPlm(PreTrainedModel):
    """The masked language model; saved and loaded as transformers does it, by this class alone.

    Shared projections are one tensor, of one name, and the output head is not tied, as in the released file: a file
    holds each weight once.
    """

    config: LcPlmConfig
    config_class = LcPlmConfig
    base_model_prefix = "lc_plm"

    def __init__(self, config: LcPlmConfig):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> MaskedLMOutput:
        """Logits [B, n, v], and the mean loss of labels that are not ``IGNORED``.

        Args:
            input_ids: [B, n].
            attention_mask: [B, n], 0 at padding, which stands at either end of a row.
            labels: [B, n].

        Raises:
            UserError: if what is masked stands between tokens: the convolution would see a gap.
        """
        real = None if attention_mask is None else attention_mask.bool()
        if real is not None and bool((functional.pad(real, (1, 1)).int().diff() != 0).sum(1).gt(2).any()):
            raise UserError("attention_mask is 0 between tokens, expected padding at the ends of a row alone")
        x = self.embeddings(input_ids)
        for layer in self.layers:
            x = layer(x, real)
        logits: Tensor = self.lm_head(self.norm(x))
        loss = None if labels is None else functional.cross_entropy(logits.mT, labels, ignore_index=IGNORED)
        return MaskedLMOutput(loss=loss, logits=logits)

    def _init_weights(self, module: nn.Module) -> None:
        """Linear maps as torch begins them, which Mamba's code leaves so, recurrences as the paper; a hook."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()
