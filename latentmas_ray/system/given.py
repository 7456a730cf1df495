"""A model and a tokenizer that the caller has made, in the place of a name."""

from typing import TYPE_CHECKING, Any

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ModelError

if TYPE_CHECKING:
    from latentmas_ray.models.given import GivenModel


def given_model(model: Any, tokenizer: Any) -> "GivenModel | None":
    """Both as one, checked; None for a model by its name, or by none. Raises ModelError."""
    if model is None or isinstance(model, str | RunConfig):
        if tokenizer is not None:
            raise ModelError("tokenizer", type(tokenizer).__name__, "it belongs to a model object; a name has its own")
        return None
    if tokenizer is None:
        raise ModelError("tokenizer", "nothing", f"a model object ({type(model).__name__}) needs its tokenizer")
    from latentmas_ray.models.given import GivenModel  # needs transformers, which the caller has imported

    return GivenModel(model, tokenizer)
