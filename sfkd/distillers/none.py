"""The student trained alone: what every distiller is measured against."""

from __future__ import annotations

from sfkd.distillers.base import Distiller


class StudentAlone(Distiller):
    """Cross-entropy on the labels; a teacher may be given and is not asked."""

    needs_teacher = False
