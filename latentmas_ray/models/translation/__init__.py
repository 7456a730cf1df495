"""What one model was fed, as inputs of another model: texts with the reader's tokens, thoughts by a map that needs no
training. So a reader recomputes the memory of a writer of another model."""

from latentmas_ray.models.translation.translator import Translator, check_translatable, make_translator

__all__ = ["Translator", "check_translatable", "make_translator"]
