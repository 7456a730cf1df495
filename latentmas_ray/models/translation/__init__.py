"""What one model was fed, as inputs of another model: texts with the reader's tokens, thoughts by a map that needs no
training, or by one that was trained. So a reader recomputes the memory of a writer of another model."""

from latentmas_ray.models.translation.adapter import ThoughtAdapter, choose_adapter, load_adapters, save_adapter
from latentmas_ray.models.translation.embeddings import stored_revision
from latentmas_ray.models.translation.translator import Translator, check_translatable, make_translator

__all__ = [
    "ThoughtAdapter",
    "Translator",
    "check_translatable",
    "choose_adapter",
    "load_adapters",
    "make_translator",
    "save_adapter",
    "stored_revision",
]
