"""Distillation: a student that learns from a teacher's outputs and features. Importing registers all losses."""

from compress.distill import losses
from compress.distill.distiller import Distiller

__all__ = ["Distiller", "losses"]
