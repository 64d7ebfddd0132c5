"""Language models: their shapes, where to find them, and what they weigh."""

from kvperf.model.library import load_model, model_names

__all__ = ["load_model", "model_names"]
