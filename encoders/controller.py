"""The controller: an encoder and a perceptron from its features to effect controls."""

from torch import Tensor, nn

from .blocks import Encoder

PUBLISHED_HIDDEN = (2048, 1024, 512)


class Controller(nn.Module):
    """Estimate controls from audio: (B, 1, N) -> q (B, n_controls) in [0, 1].

    The perceptron has a linear layer, batch normalisation, PReLU and, where `dropout` is above 0, dropout for each
    entry of `hidden`, then a linear layer and a sigmoid.
    """

    def __init__(
        self,
        encoder: Encoder,
        n_controls: int,
        *,
        hidden: tuple[int, ...] = PUBLISHED_HIDDEN,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        layers: list[nn.Module] = []
        width = encoder.out_dim
        for size in hidden:
            layers += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.PReLU()]
            # Without dropout there is no layer for it: its place would shift the keys of the published state dict.
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            width = size
        self.mlp = nn.Sequential(*layers, nn.Linear(width, n_controls), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.encoder(x))
