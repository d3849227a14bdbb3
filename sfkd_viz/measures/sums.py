"""Power and band energies of one layer, summed over images as they come."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sfkd.wavelet import Mode, float32_island
from sfkd_viz.measures.matrices import APPROXIMATION, REST, bands_on, pieces


class LayerSums:
    """What a layer's mean spectrum and band energies are made of: each image in float32, their sum in float64.

    Args:
        like: a map `[n, C, H, W]` of the layer, float32 or float64.
        power, energy: which of the two are wanted.
        wavelet, levels, mode: of `sfkd.decompose`.
    """

    def __init__(self, like: Tensor, *, power: bool, energy: bool, wavelet: str, levels: int, mode: Mode) -> None:
        self.channels, height, width = like.shape[1:]
        self._width = width
        device = like.device if like.device.type != "mps" else torch.device("cpu")  # which has no float64
        self._power = torch.zeros(height, width // 2 + 1, dtype=torch.float64, device=device) if power else None
        self._bands = (
            bands_on((height, width), wavelet, levels, mode, dtype=like.dtype, device=like.device) if energy else None
        )
        self._energy: dict[str, Tensor] = {}
        if self._bands is not None:
            names = [name for name in self._bands.cells if name != REST] or [REST]
            self._energy = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}

    @torch.no_grad()
    def add_power(self, x: Tensor) -> None:
        """Add the power of maps `[n, C, H, W]`, where it is wanted."""
        if self._power is None:
            return
        for piece in pieces(x):
            with float32_island(x):
                # unnormalised: the scaling of norm="ortho" takes several times as long as the transform of a small map
                waves = torch.view_as_real(torch.fft.rfft2(x[piece])).flatten(2)  # [n, C, H · (W // 2 + 1) · 2]
            each = waves.square_().sum(1).view(-1, *self._power.shape, 2).sum(-1)
            self._power += each.to(self._power.device).double().sum(0)

    @torch.no_grad()
    def add_energy(self, x: Tensor) -> None:
        """Add the band energies of maps `[n, C, H, W]`, where they are wanted."""
        if self._bands is None:
            return
        for piece in pieces(x):
            part = x[piece]
            rows = {name: x.new_empty(len(part), x.shape[1] * cells) for name, cells in self._bands.cells.items()}
            self._bands.write(part, rows)
            self.add_bands(rows)

    def add_bands(self, rows: dict[str, Tensor]) -> None:
        """Add the energies of ready bands `[n, C · cells]`, where they are wanted."""
        for name in self._energy:
            norms = torch.linalg.vector_norm(rows[name], dim=1)
            self._energy[name] += norms.to(self._energy[name].device).double().square().sum()

    @property
    def power(self) -> np.ndarray | None:
        """Σ |F|² over images, mean over channels, orthonormal, `[H, W]`, zero frequency in the middle."""
        if self._power is None:
            return None
        height, width = self._power.shape[0], self._width
        half = self._power.cpu().numpy() / (height * width * self.channels)
        # the other half of a real map's plane: |F(−f)| = |F(f)|
        mirrored = np.roll(half[::-1], 1, axis=0)[:, 1 : (width + 1) // 2][:, ::-1]
        return np.fft.fftshift(np.concatenate([half, mirrored], axis=1))

    @property
    def energy(self) -> dict[str, float]:
        """Band ("A2", "H2", …) → Σ of squares over images, mean over channels; empty where it is not wanted."""
        found = {name: float(total) / self.channels for name, total in self._energy.items()}
        levels = 0 if self._bands is None else self._bands.levels
        return {f"A{levels}" if name in (APPROXIMATION, REST) else name: total for name, total in found.items()}
