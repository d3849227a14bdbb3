"""Gram matrices of features of the same images, and what of two of them is alike: unbiased HSIC."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sfkd.wavelet import float32_island

# energy below this part of the layer's own is rounding: float32 keeps about 1e-14 of it after a transform
_ROUNDING = 1e-12


class Grams:
    """Linear Gram matrices of some layers without their diagonals, `[layers, n, n]`, and these, `[layers, n]`; float64."""

    def __init__(self, layers: int, images: int, device: torch.device) -> None:
        device = device if device.type != "mps" else torch.device("cpu")  # which has no float64
        self.hollow = torch.zeros(layers, images, images, dtype=torch.float64, device=device)
        self.diagonals = torch.zeros(layers, images, dtype=torch.float64, device=device)

    def put(self, number: int, rows: Tensor) -> None:
        """The Gram matrix of `rows` `[n, D]`, which are centred in place.

        Centring changes no HSIC; without it the product would be mostly mean. The product is taken in the type of the
        rows, whatever autocast says; on CUDA as `torch.set_float32_matmul_precision` says (by default in full).
        """
        rows -= rows.mean(0)
        with float32_island(rows):
            gram = rows @ rows.T
        self.diagonals[number] = gram.diagonal()
        self.hollow[number] = gram.fill_diagonal_(0.0)

    def add(self, other: Grams) -> None:
        """Add those of features beside these."""
        self.hollow += other.hollow
        self.diagonals += other.diagonals

    def hsic(self, energy: Tensor) -> np.ndarray:
        """⟨U(K), U(L)⟩ / (n (n − 3)) of all layers with each other, `[layers, layers]`; 0 where K is rounding of `energy`.

        ⟨U(K), U(L)⟩ = ⟨K̃, L̃⟩ − 2/(n − 2)·⟨K̃1, L̃1⟩ + 1ᵀK̃1·1ᵀL̃1 / ((n − 1)(n − 2)), K̃: K with zeros on its diagonal
        (Székely and Rizzo 2014, eq. 2.4, multiplied out).
        """
        n = self.hollow.shape[1]
        sums, flat = self.hollow.sum(2), self.hollow.flatten(1)
        total = sums.sum(1)
        products = flat @ flat.T - 2 / (n - 2) * (sums @ sums.T) + total[:, None] * total / ((n - 1) * (n - 2))
        empty = self.diagonals.sum(1).cpu() <= _ROUNDING * energy
        found = products.cpu().masked_fill(empty[:, None] | empty, 0.0)
        return found.numpy() / (n * (n - 3))
