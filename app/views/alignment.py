"""What distillation moved, and which layers are alike."""

from __future__ import annotations

from typing import Any

import snippets
from settings import JOIN

import sfkd_viz
from sfkd_viz.analysis import Analysis
from sfkd_viz.measures.cka import CKA
from views.base import Drawn, Look, Shown, retitled

_MOVED = (
    "A panel a band; rows: the teacher's layers, columns: the student's. Red: nearer to the teacher than the student "
    "trained alone, blue: further. * beyond the joint interval over images. Point at a cell for its frequencies."
)
_ALIKE = "1: the layers tell images apart alike; 0: not at all. Empty: the smaller of the two grids lacks the band."


def overview(look: Look) -> Shown:
    """The transfer map and its sentence; for a pair without a student trained alone, the alignment."""
    found, python = _found(look)
    if isinstance(found, CKA):
        answer = "There is no student trained alone here, so nothing can be said to have moved; this is what is alike."
        return Shown(answer, (_alike(look, found, python, "student"),))
    figure = sfkd_viz.plot_transfer(found, band=look.settings.one_band)
    call = f"figure = sfkd_viz.plot_transfer(transfer{_band(look)})"
    return Shown(found.sentence(), (Drawn(figure, snippets.script(*python, call), "transfer", _MOVED),))


def cka(look: Look) -> Shown:
    """Alignment of teacher and each student."""
    found, python = _found(look)
    students = {"student": found} if isinstance(found, CKA) else {"student": found.distilled, "alone": found.alone}
    figures = tuple(_alike(look, measured, python, role) for role, measured in students.items())
    return Shown(_at_layer(look, students), figures)


def _found(look: Look) -> tuple[Any, list[str]]:
    """`Transfer` or `CKA`, and the Python that gives it as `transfer` or `cka`.

    That of the whole test set, where `sfkd analyze` left it and no number of samples was asked for.
    """
    settings, pair = look.settings, look.pair
    stored = None if settings.image.startswith("mean:") else look.measured.stored(pair)
    if stored is not None and _fits(stored, settings.wavelet, settings.levels):
        found = stored.transfer or stored.cka["student"]
        part = 'cka = analysis.cka["student"]' if isinstance(found, CKA) else "transfer = analysis.transfer"
        return found, snippets.stored(pair, part)
    source = look.measured.many(pair, settings.image, look.work)
    found = look.measured.alignment(pair, source, settings, look.work)
    return found, snippets.alignment(pair, source, settings, transfer=not isinstance(found, CKA))


def _fits(stored: Analysis, wavelet: str, levels: int) -> bool:
    return (stored.wavelet, stored.levels) == (wavelet, levels) and bool(stored.transfer or "student" in stored.cka)


def _alike(look: Look, measured: CKA, python: list[str], role: str) -> Drawn:
    name = look.pair.names[role]
    figure = sfkd_viz.plot_cka(measured, band=look.settings.one_band)
    source = (
        {"student": "transfer.distilled", "alone": "transfer.alone"}[role] if "alone" in look.pair.models else "cka"
    )
    call = f"figure = sfkd_viz.plot_cka({source}{_band(look)})"
    title = retitled(figure, f"× {measured.b}", f"× {name}")
    return Drawn(figure, snippets.script(*python, call, title), f"cka-{role}", _ALIKE)


def _at_layer(look: Look, students: dict[str, CKA]) -> str:
    settings = look.settings
    student, teacher = settings.layer.split(JOIN)
    first = students["student"]
    if student not in first.columns or teacher not in first.rows:
        return f"Measured on {first.images:,} images; {settings.layer} is not among the layers that were measured."
    band = settings.one_band or "all"
    row, column = first.rows.index(teacher), first.columns.index(student)
    values = {role: float(measured.band(band)[row, column]) for role, measured in students.items()}
    what = f"Alignment of {settings.layer} in {'the whole maps' if band == 'all' else f'band {band}'}"
    told = ", ".join(f"{value:.2f} with the {look.pair.names[role]}" for role, value in values.items())
    return f"{what}: {told} ({first.images:,} images)."


def _band(look: Look) -> str:
    return "" if look.settings.one_band is None else f', band="{look.settings.one_band}"'
